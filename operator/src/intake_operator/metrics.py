"""Prometheus metrics of the operator. The series of an event are removed with the event."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from intake_operator.workqueue import Key, Load

# Seconds; less than probes.DEAD_AFTER.
HEARTBEAT: Final = 60.0


class Metrics:
    """The operator's metrics, and the time of its last heartbeat."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.heartbeat = time.monotonic()
        labels = ("namespace", "event")
        self._seconds = Histogram(
            "intake_operator_reconcile_seconds", "Duration of one pass over one event", registry=self.registry
        )
        self._errors = Counter(
            "intake_operator_reconcile_errors", "Passes that failed and will be repeated", registry=self.registry
        )
        self._phase = Gauge(
            "intake_event_phase", "1 for the phase that an event is in", (*labels, "phase"), registry=self.registry
        )
        self._claims = Gauge("intake_event_claims", "Claims by state", (*labels, "state"), registry=self.registry)
        self._slots = Gauge("intake_event_slots", "Slots by state", (*labels, "state"), registry=self.registry)
        self._requests = Counter(
            "intake_operator_api_requests",
            "Requests to the Kubernetes API, but for those of kopf; a status is a kind of its own",
            ("verb", "kind"),
            registry=self.registry,
        )
        self._watch_ends = Counter(
            "intake_operator_watch_restarts",
            "Watches that ended before their time and were started again",
            ("kind", "reason"),
            registry=self.registry,
        )
        self._watch_silence = Gauge(
            "intake_operator_watch_silent_seconds",
            "How long the watch of a kind has heard nothing; a bookmark comes every minute",
            ("kind",),
            registry=self.registry,
        )
        self._phases: dict[Key, str] = {}
        self.long_steps = 0
        """Steps under way that may take longer than any other pass."""

    def expose_load(self, load: Callable[[], Load], long_reads: Mapping[str, Callable[[], Mapping[str, int]]]) -> None:
        """Series of the work queue and of the long reads of each kind, as they are when they are asked for."""
        self.registry.register(_LoadCollector(load, long_reads))

    def request(self, verb: str, kind: str) -> None:
        """Count a request to the Kubernetes API."""
        self._requests.labels(verb, kind).inc()

    def watch_ended(self, kind: str, reason: str) -> None:
        """Count a watch that ended before its time: silent, broken, gone (410), or refused."""
        self._watch_ends.labels(kind, reason).inc()

    def watch_silence(self, kind: str, silence: Callable[[], float]) -> None:
        """How to learn how long the watches of a kind have been silent."""
        self._watch_silence.labels(kind).set_function(silence)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time one pass, and count it if it fails."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            self._errors.inc()
            raise
        finally:
            self.heartbeat = time.monotonic()
            self._seconds.observe(self.heartbeat - began)

    @asynccontextmanager
    async def long_step(self) -> AsyncIterator[None]:
        """Around a step that may take longer than probes.DEAD_AFTER: it has a time limit of its own."""
        heartbeat = asyncio.create_task(self._beat())
        self.long_steps += 1
        try:
            yield
        finally:
            self.long_steps -= 1
            heartbeat.cancel()

    async def _beat(self) -> None:
        while True:
            self.heartbeat = time.monotonic()
            await asyncio.sleep(HEARTBEAT)

    def record(self, key: Key, status: Mapping[str, Any]) -> None:
        """Set the series of an event from its status."""
        phase = status["phase"]
        if (before := self._phases.get(key)) not in {None, phase}:
            self._phase.remove(*key, before)
        self._phases[key] = phase
        self._phase.labels(*key, phase).set(1)
        queue, slots = status.get("queue") or {}, status.get("inventory") or {}
        claims = {"queued": queue.get("depth"), "dead": queue.get("deadLetters")}
        claims |= {state: status.get(state) for state in ("held", "committed", "voided", "released", "expired")}
        for gauge, counts in ((self._claims, claims), (self._slots, slots)):
            for state, count in counts.items():
                if count is not None and state != "size":
                    gauge.labels(*key, state).set(count)

    def forget(self, key: Key) -> None:
        """Remove the series of an event that is gone."""
        if phase := self._phases.pop(key, None):
            self._phase.remove(*key, phase)
        for gauge in (self._claims, self._slots):
            gauge.remove_by_labels({"namespace": key[0], "event": key[1]})


class _LoadCollector(Collector):
    """By namespace only for the namespaces that hold a worker: there are no more of them than workers."""

    def __init__(self, load: Callable[[], Load], long_reads: Mapping[str, Callable[[], Mapping[str, int]]]) -> None:
        self._load = load
        self._long_reads = long_reads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The series of this moment."""
        now = self._load()
        for name, text, value in (
            ("queue_depth", "Events whose pass is due and that no worker has", now.waiting),
            ("queue_oldest_seconds", "How long the first of them has waited", now.oldest),
            ("queue_starved_seconds", "The same among namespaces that hold no worker", now.starved),
            ("workers", "Passes that can run at the same time", now.workers),
        ):
            yield GaugeMetricFamily(f"intake_operator_{name}", text, value=value)
        held = GaugeMetricFamily(
            "intake_operator_workers_busy", "Passes under way, by namespace", labels=("namespace",)
        )
        for namespace, count in now.held.items():
            held.add_metric((namespace,), count)
        yield held
        reads = GaugeMetricFamily(
            "intake_operator_long_reads", "Long reads outside of passes", labels=("kind", "state")
        )
        for kind, states in self._long_reads.items():
            for state, count in states().items():
                reads.add_metric((kind, state), count)
        yield reads
