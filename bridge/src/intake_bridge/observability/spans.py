"""Spans for a batch, its steps and its calls, by OpenTelemetry.

Each message brings the trace context of its claim. A batch links to all of them; a call for one claim belongs to that
claim's trace and links to the batch. Attributes name pool, counts and idempotency keys, never a user.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from intake_bridge.domain.message import Message
from intake_bridge.ports import Http, HttpError, HttpReply, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# The process has 25 s after SIGTERM, and a batch may take 17 s of them.
_LAST_SPANS_SECONDS: Final = 2.0


class Spans:
    """Spans by OpenTelemetry's SDK."""

    def __init__(self, provider: "TracerProvider", pool_id: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("intake_bridge")
        self._propagator = TraceContextTextMapPropagator()
        self._pool_id = pool_id

    @contextmanager
    def batch(self, what: str, messages: Iterable[Message], ends: Mapping[str, int]) -> Iterator[None]:
        claims = list(messages)
        contexts = (trace.get_current_span(self._propagator.extract(claim.trace_headers())) for claim in claims)
        attributes: dict[str, Any] = {
            "messaging.system": "pgmq",
            "messaging.destination.name": "intake_queue",
            "messaging.batch.message_count": len(claims),
            "intake.pool": self._pool_id,
        }
        with self._tracer.start_as_current_span(
            f"intake {what}",
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(found) for each in contexts if (found := each.get_span_context()).is_valid],
            attributes=attributes,
        ) as span:
            try:
                yield
            finally:
                span.set_attributes({f"intake.{end}": count for end, count in ends.items()})

    def step(self, name: str) -> Span:
        return self._tracer.start_as_current_span(f"intake {name}")

    def http(self, http: Http) -> Http:
        return _TracedHttp(http, self._tracer, self._propagator)

    async def close(self) -> None:
        # A collector that hangs must not delay the end of the process. In a thread of its own, because the process
        # waits for the threads of the executor.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, _LAST_SPANS_SECONDS)


class _TracedHttp:
    def __init__(self, http: Http, tracer: trace.Tracer, propagator: TraceContextTextMapPropagator) -> None:
        self._http = http
        self._tracer = tracer
        self._propagator = propagator

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], seconds: float, tls: SSLContext | None
    ) -> HttpReply:
        step = trace.get_current_span().get_span_context()
        of_claim = "traceparent" in headers
        # Only the server of the URL: a path may be a secret.
        server = urlsplit(url)
        attributes: dict[str, Any] = {
            "http.request.method": "POST",
            "server.address": server.hostname or "",
            "server.port": server.port or (443 if server.scheme == "https" else 80),
            "intake.idempotency_key": headers.get("Idempotency-Key", ""),
        }
        with self._tracer.start_as_current_span(
            "POST",
            # The context of the claim, or that of the step, which is the current one.
            context=self._propagator.extract(headers) if of_claim else None,
            kind=trace.SpanKind.CLIENT,
            links=[trace.Link(step)] if of_claim else [],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            sent = dict(headers)
            self._propagator.inject(sent)
            try:
                reply = await self._http.post(url, body, sent, seconds, tls)
            except HttpError as error:
                span.set_attribute("error.type", error.kind.value)
                span.set_status(trace.StatusCode.ERROR)
                raise
            span.set_attribute("http.response.status_code", reply.status)
            if reply.status >= 400:
                span.set_attribute("error.type", str(reply.status))
                span.set_status(trace.StatusCode.ERROR)
            return reply


def provider(worker: str, *, named: bool) -> "TracerProvider":
    """Sends spans to the endpoint of OTEL_*, sampled as OTEL_* says. `named`: OTEL_* names the service, too."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional

    name = {} if named else {"service.name": "intake-bridge"}
    made = TracerProvider(resource=Resource.create({"service.instance.id": worker, **name}), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
