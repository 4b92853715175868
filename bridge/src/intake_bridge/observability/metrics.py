"""What Prometheus may know. No label ever carries a claim, a user or a message."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from intake_bridge.domain.breaker import Circuit
from intake_bridge.observability.tracing import Tracing

_P = "intake_bridge"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Metrics:
    """All metrics of one worker, in a registry of its own."""

    def __init__(self, worker: str, tracing: Tracing) -> None:
        self._tracing = tracing
        self.registry = registry = CollectorRegistry()
        self.ends = Counter(
            f"{_P}_messages", "Messages by what this worker did with them last", ["end"], registry=registry
        )
        self.outcomes = Counter(
            f"{_P}_outcomes", "Answers of targets by step and meaning", ["step", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            f"{_P}_step_seconds", "Time of one step of one batch", ["step"], buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(f"{_P}_batch_messages", "Messages in a batch", buckets=_SIZES, registry=registry)
        self.alone = Counter(
            f"{_P}_read_alone", "Messages read alone, because three deliveries of them had no end", registry=registry
        )
        self.in_flight = Gauge(f"{_P}_messages_in_flight", "Messages leased and not yet settled", registry=registry)
        self.batch_size = Gauge(f"{_P}_batch_size", "The batch size that is acted upon", registry=registry)
        self.share = Gauge(
            f"{_P}_throttle_share", "Of batchSize and maxPerSecond, what the ledger's health allows", registry=registry
        )
        self.metered = Counter(f"{_P}_passed", "Claims that meter and throttle let through", registry=registry)
        self.meter_wait = Counter(f"{_P}_meter_wait_seconds", "Time spent waiting for tokens", registry=registry)
        self.breaker = Gauge(f"{_P}_breaker_state", "0 closed, 1 half open, 2 open", ["step"], registry=registry)
        self.window = Gauge(
            f"{_P}_calls_allowed", "Calls to a webhook that may go side by side", ["step"], registry=registry
        )
        self.database_up = Gauge(f"{_P}_engine_up", "1 while DB1 answers", registry=registry)
        self.housekeeper = Gauge(f"{_P}_housekeeper", "1 in the worker that keeps house", registry=registry)

        Info(f"{_P}_worker", "Which worker this is, in logs and leases as well", registry=registry).info(
            {"worker": worker}
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of one batch: timed, and traced if that is wanted."""
        with self.seconds.labels(name).time(), self._tracing.step(name):
            yield

    def show_breaker(self, step: str, circuit: Circuit) -> None:
        """The state of a breaker as a number."""
        self.breaker.labels(step).set(list(Circuit).index(circuit))
