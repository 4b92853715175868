"""Whether to trace. Without OTEL_* variables no span is made, and no library is loaded."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Final

from intake_bridge.ports import NoTracing, Tracing

log = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXTRA: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name somewhere to send traces to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def tracing(environment: Mapping[str, str], worker: str, pool_id: str) -> Tracing:
    """Spans to the endpoint of OTEL_*; none where no endpoint is set or the extra `otlp` is not installed."""
    if not wanted(environment):
        return NoTracing()
    if any(importlib.util.find_spec(module) is None for module in _EXTRA):
        log.warning("OTEL_* names an endpoint, but no span is made: install the extra `otlp` of intake-bridge")
        return NoTracing()
    from intake_bridge.observability import spans  # noqa: PLC0415 - takes 40 ms

    return spans.Spans(spans.provider(worker, named="OTEL_SERVICE_NAME" in environment), pool_id)
