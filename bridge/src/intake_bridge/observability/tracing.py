"""What is traced, and whether. Without OTEL_* variables nothing is: no span is made and no library is loaded."""

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from intake_bridge.domain.message import Message
from intake_bridge.ports import Http

log = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXTRA: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")

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

    async def close(self) -> None:
        """Send what is left."""
        ...


class NoTracing:
    """Nobody asked."""

    def batch(self, *_: object) -> Span:
        """None."""
        return nullcontext()

    def step(self, _: str) -> Span:
        """None."""
        return nullcontext()

    def http(self, http: Http) -> Http:
        """The client as it is."""
        return http

    async def close(self) -> None:
        """Nothing to send."""


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name somewhere to send traces to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def tracing(environment: Mapping[str, str], worker: str, pool_id: str) -> Tracing:
    """Spans to where OTEL_* says; none where it says nothing, or nothing is installed that could send them."""
    if not wanted(environment):
        return NoTracing()
    if any(importlib.util.find_spec(module) is None for module in _EXTRA):
        log.warning("OTEL_* asks for traces, but the extra `otlp` of intake-bridge is not installed: none are made")
        return NoTracing()
    from intake_bridge.observability import spans  # noqa: PLC0415 - 40 ms that nobody should pay for nothing

    return spans.Spans(spans.provider(worker, named="OTEL_SERVICE_NAME" in environment), pool_id)
