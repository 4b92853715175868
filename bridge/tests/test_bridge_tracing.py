"""Traces: a claim's context reaches the webhooks, with or without spans of our own; spans say what belongs together."""

import asyncio
import logging
import subprocess
import sys
from collections import Counter

import pytest
from aiohttp import web
from intake_bridge.observability.spans import Spans
from intake_bridge.observability.tracing import tracing, wanted
from intake_bridge.ports import NoTracing
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from psycopg.types.json import Jsonb
from sale import POOL, Sale, validation
from webhook_server import WebhookServer, approve, status

from tests.patience import PATIENCE_SECONDS


class Recorded:
    """Spans that stay here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider, POOL)

    def everything(self) -> str:
        """All that has been recorded."""
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those that have ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


def traceparent(number: int) -> str:
    """A web back end's own context, sampled."""
    return f"00-{number:032x}-{number:016x}-01"


async def give_contexts(sale: Sale, *texts: str | None) -> None:
    """As a claimer gives them with its claims, in their order."""
    for claim, text in zip(sale.claims, texts, strict=True):
        await sale.intake.execute(
            "UPDATE pgmq.q_intake_queue SET headers = coalesce(headers, '{}') || %s WHERE message ->> 'claim_id' = %s",
            (Jsonb({"traceparent": text}), str(claim.claim_id)),
        )


def parent(span: ReadableSpan) -> str:
    """The id of the span above it."""
    assert span.parent is not None
    return format_span_id(span.parent.span_id)


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Its trace and itself."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


async def test_without_spans_the_claims_context_goes_to_both_webhooks_as_it_came(
    sale: Sale, webhook: WebhookServer
) -> None:
    await sale.configure(validation=validation(webhook.single), commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(4)
    await give_contexts(sale, traceparent(1), None, "evil\r\nX-Admin: 1", traceparent(4).upper() + "A")
    async with sale.worker():
        await sale.until_drained()
    assert Counter(webhook.traceparents) == {traceparent(1): 2, None: 6}


async def test_a_batch_links_to_its_claims_and_a_call_belongs_to_its_claims_trace(
    sale: Sale, webhook: WebhookServer
) -> None:
    recorded = Recorded()
    await sale.configure(validation=validation(webhook.single), batchSize=3)
    users = ["one", "two", "three"]
    for user, context in zip(users, (traceparent(1), traceparent(2), None), strict=True):
        await sale.rows("SELECT intake.claim_resource(%s, %s, NULL, NULL, %s)", POOL, user, context)
    async with sale.worker(tracing=recorded.spans):
        await sale.until_drained()
    (batch,) = recorded.named("intake batch")
    (validate,) = recorded.named("intake validate")
    assert batch.kind is SpanKind.CONSUMER
    assert batch.attributes is not None
    assert batch.attributes["messaging.batch.message_count"] == 3
    assert batch.attributes["intake.committed"] == 3
    assert {link.context.trace_id for link in batch.links} == {1, 2}
    trace, batch_id = ids(batch)
    for step in ("validate", "mark", "commit", "acknowledge"):
        (span,) = recorded.named(f"intake {step}")
        assert (ids(span)[0], parent(span)) == (trace, batch_id), step
    calls = recorded.named("POST")
    assert {(ids(call)[0], parent(call)) for call in calls} == {
        (format_trace_id(1), format_span_id(1)),
        (format_trace_id(2), format_span_id(2)),
        (trace, ids(validate)[1]),
    }
    assert {link.context.span_id for call in calls for link in call.links} == {validate.get_span_context().span_id}
    # What the webhook got continues the call's span, not the claim's.
    sent = {str(each).rpartition("-")[0] for each in webhook.traceparents}
    assert sent == {f"00-{'-'.join(ids(call))}" for call in calls}
    everything = " ".join(span.to_json() for name in ("intake batch", "POST") for span in recorded.named(name))
    assert not any(f'"{user}"' in everything for user in users)
    assert "/single" not in everything


async def test_a_batch_call_belongs_to_the_batch_and_a_failed_one_says_so(sale: Sale, webhook: WebhookServer) -> None:
    recorded = Recorded()
    webhook.behaviour = lambda item: status(503) if len(webhook.calls) == 1 else approve(item)
    await sale.configure(validation=validation(webhook.batch, batch=True))
    await sale.claim(1)
    await give_contexts(sale, traceparent(1))
    async with sale.worker(tracing=recorded.spans):
        await sale.until_drained()
    failed, well = recorded.named("POST")
    steps = {ids(span)[1] for span in recorded.named("intake validate")}
    assert {parent(failed), parent(well)} == steps
    assert failed.attributes is not None
    assert (failed.attributes["http.response.status_code"], failed.status.status_code) == (503, StatusCode.ERROR)
    assert well.status.status_code is StatusCode.UNSET


async def test_a_call_without_an_answer_says_what_became_of_it(sale: Sale) -> None:
    recorded = Recorded()
    await sale.configure(validation=validation("http://127.0.0.1:9/"))  # the discard port: no program listens
    await sale.claim(1)
    async with sale.worker(tracing=recorded.spans):
        await sale.until_health("validator", "down", "cannot be reached")
    call, *_ = recorded.named("POST")
    assert call.attributes is not None
    assert (call.attributes["error.type"], call.attributes["server.port"]) == ("unreachable", 9)


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_standard_variables_switch_it_on(environment: dict[str, str], on: bool) -> None:
    assert wanted(environment) is on


def test_without_them_no_library_is_loaded() -> None:
    look = "import sys, intake_bridge.process; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_an_endpoint_without_the_extra_is_told_and_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        made = tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "one", POOL)
    assert isinstance(made, NoTracing)
    assert "otlp" in caplog.text


@pytest.mark.parametrize("hangs", [False, True], ids=["well", "hangs"])
async def test_a_process_sends_its_last_spans_and_a_collector_that_hangs_does_not_hold_it(
    sale: Sale, hangs: bool
) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    released = asyncio.Event()

    async def collect(request: web.Request) -> web.Response:
        await arrived.put(await request.read())
        if hangs:
            await released.wait()
        return web.Response(content_type="application/x-protobuf")

    application = web.Application()
    application.add_routes([web.post("/v1/traces", collect)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await sale.claim(2)
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with asyncio.timeout(PATIENCE_SECONDS), sale.process(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process:
        await sale.until_drained()
        process.terminate()
        assert await process.wait() == 0
    assert b"intake acknowledge" in await arrived.get()
    released.set()
    await runner.cleanup()
