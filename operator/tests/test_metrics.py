"""The series of an event: claims and slots are counted apart, and go with the event."""

from typing import Any

from intake_operator.metrics import Metrics

KEY = ("tickets", "taylor-drop")
STATUS: dict[str, Any] = {
    "phase": "Open",
    "inventory": {"size": 100, "available": 80, "held": 7, "withheld": 6, "reserved": 5, "consumed": 2},
    "queue": {"depth": 3, "inFlight": 1, "oldestSeconds": 0.5, "deadLetters": 1},
    "held": 4,
    "committed": 1,
    "voided": 9,
    "released": 8,
    "expired": 11,
}


def series(metrics: Metrics, name: str) -> dict[str, float]:
    """The value of each state."""
    samples = (sample for family in metrics.registry.collect() for sample in family.samples if sample.name == name)
    return {sample.labels["state"]: sample.value for sample in samples}


def test_claims_and_slots_are_counted_apart() -> None:
    metrics = Metrics()
    metrics.record(KEY, STATUS)
    claims = {"queued": 3, "dead": 1, "held": 4, "committed": 1, "voided": 9, "released": 8, "expired": 11}
    assert series(metrics, "intake_event_claims") == claims
    slots = {"available": 80, "held": 7, "withheld": 6, "reserved": 5, "consumed": 2}
    assert series(metrics, "intake_event_slots") == slots


def test_the_series_of_an_event_go_with_it() -> None:
    metrics = Metrics()
    metrics.record(KEY, STATUS)
    metrics.record(KEY, {"phase": "Pending"})
    metrics.forget(KEY)
    assert not series(metrics, "intake_event_claims")
    assert not series(metrics, "intake_event_slots")
