"""The metrics for Prometheus. No label names a claim, a user or a message."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from intake_bridge.domain.breaker import Circuit
from intake_bridge.ports import Tracing

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
            f"{_P}_outcomes",
            "Answers of validator and ledger, by step and meaning",
            ["step", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            f"{_P}_step_seconds", "Time of one step of one batch", ["step"], buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(f"{_P}_batch_messages", "Messages in a batch", buckets=_SIZES, registry=registry)
        self.quarantined_reads = Counter(
            f"{_P}_quarantined_reads", "Messages read alone, because three bridges died with them", registry=registry
        )
        self.in_flight = Gauge(
            f"{_P}_messages_in_flight", "Messages that are leased and have not ended", registry=registry
        )
        self.batch_size = Gauge(f"{_P}_batch_size", "The batch size in use", registry=registry)
        self.share = Gauge(
            f"{_P}_throttle_share",
            "The share of batchSize and maxPerSecond that the throttle allows",
            registry=registry,
        )
        self.permitted = Counter(
            f"{_P}_permitted_claims", "Claims that the rate limiter let through", registry=registry
        )
        self.rate_limit_wait = Counter(
            f"{_P}_rate_limit_wait_seconds", "Time spent waiting for tokens", registry=registry
        )
        self.breaker = Gauge(f"{_P}_breaker_state", "0 closed, 1 half open, 2 open", ["step"], registry=registry)
        self.concurrency_limit = Gauge(
            f"{_P}_concurrency_limit", "Calls to a webhook that may be under way", ["step"], registry=registry
        )
        self.database_up = Gauge(f"{_P}_database_up", "1 while DB1 answers", registry=registry)
        self.housekeeper = Gauge(
            f"{_P}_housekeeper", "1 in the worker that has the housekeeper lock", registry=registry
        )

        Info(f"{_P}_worker", "The name of this worker, as in logs and leases", registry=registry).info(
            {"worker": worker}
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time and trace one step of one batch."""
        with self.seconds.labels(name).time(), self._tracing.step(name):
            yield

    def show_breaker(self, step: str, circuit: Circuit) -> None:
        """The state of a breaker as a number."""
        self.breaker.labels(step).set(list(Circuit).index(circuit))
