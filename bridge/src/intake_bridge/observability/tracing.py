"""Traces, where OTEL_* variables ask for them: a span for a batch, its steps and its calls.

The claims' own contexts come with their messages. A batch links to all of them; a call for one claim belongs to that
claim's trace and links to the batch. Attributes name pool, counts and idempotency keys, never a user.
"""

import asyncio
import importlib.util
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from intake_bridge.domain.message import Message
from intake_bridge.ports import Http, HttpError, HttpReply

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# The process has 25 s after SIGTERM, and a batch may take 17 of them.
_LAST_SPANS_SECONDS: Final = 2.0

_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"

type Span = AbstractContextManager[object]


class Tracing(Protocol):
    """What is traced."""

    def batch(self, what: str, messages: Iterable[Message], ends: Mapping[str, int]) -> Span:
        """The span of a batch; `ends` is read when it is over."""
        ...

    def step(self, name: str) -> Span:
        """The span of a step, inside that of its batch."""
        ...

    def http(self, http: Http) -> Http:
        """The client, with a span around each call whose context goes to the server."""
        ...


class NoTracing:
    """Nobody asked: no span is made."""

    def batch(self, *_: object) -> Span:
        """None."""
        return nullcontext()

    def step(self, _: str) -> Span:
        """None."""
        return nullcontext()

    def http(self, http: Http) -> Http:
        """The client as it is."""
        return http


class Spans:
    """Spans by OpenTelemetry."""

    def __init__(self, provider: trace.TracerProvider, pool_id: str) -> None:
        self._tracer = provider.get_tracer("intake_bridge")
        self._propagator = TraceContextTextMapPropagator()
        self._pool_id = pool_id

    @contextmanager
    def batch(self, what: str, messages: Iterable[Message], ends: Mapping[str, int]) -> Iterator[None]:
        """As the port has it."""
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
        """As the port has it."""
        return self._tracer.start_as_current_span(f"intake {name}")

    def http(self, http: Http) -> Http:
        """As the port has it."""
        return _TracedHttp(http, self._tracer, self._propagator)


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
        # Of the URL no more than the server: a path may be a secret.
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
                span.set_status(trace.StatusCode.ERROR, str(error))
                raise
            span.set_attribute("http.response.status_code", reply.status)
            if reply.status >= 400:
                span.set_attribute("error.type", str(reply.status))
                span.set_status(trace.StatusCode.ERROR)
            return reply


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name somewhere to send traces to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def provider(worker: str, environment: Mapping[str, str] = os.environ) -> "TracerProvider | None":
    """What sends spans to the endpoint of OTEL_*; None where there is none, or nothing installed that could."""
    if not wanted(environment):
        return None
    if importlib.util.find_spec("opentelemetry.sdk") is None or importlib.util.find_spec(_EXPORTER) is None:
        log.warning("OTEL_* asks for traces, but the extra `otlp` of intake-bridge is not installed: none are made")
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional

    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "intake-bridge"}
    resource = Resource.create({"service.instance.id": worker, **named})
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


async def close(provider: "TracerProvider") -> None:
    """Send what is left, for a moment: a collector that hangs may not hold the process."""
    # A thread of its own, because the end of the process waits for those of the executor.
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    await asyncio.to_thread(last.join, _LAST_SPANS_SECONDS)
