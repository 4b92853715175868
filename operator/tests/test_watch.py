"""What wakes an event."""

from typing import Any

import pytest
from intake_operator import watch
from intake_operator.workqueue import Key, WorkQueue

KEY: Key = ("tickets", "taylor-drop")
META: dict[str, Any] = {"uid": "1", "generation": 1, "resourceVersion": "7", "finalizers": ["intake-engine.io/drain"]}


class Heard(WorkQueue):
    """A queue that only notes what is put on it."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.keys: list[Key] = []

    def add(self, key: Key) -> None:
        self.keys.append(key)


class Watched:
    """The handler of IntakeEvents, without a cluster."""

    def __init__(self) -> None:
        self.queue, self.gone = Heard(), list[Key]()
        handlers: Any = watch.registry(self.queue, self.gone.append)._watching
        self._handler = next(h for h in handlers.get_all_handlers() if h.fn.__name__ == "event_changed")

    def wakes(self, kind: str | None, **changes: Any) -> bool:
        """Whether the event is looked at after this word of the API server."""
        self.queue.keys.clear()
        self._handler.fn(namespace=KEY[0], name=KEY[1], type=kind, meta=META | changes)
        return self.queue.keys == [KEY]


def test_our_own_status_does_not_call_for_the_next_pass() -> None:
    watched = Watched()
    assert watched.wakes("ADDED")
    # `oldestSeconds` moves with every pass while anything is queued: each would be followed by another at once.
    assert not watched.wakes("MODIFIED", resourceVersion="8")


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"deletionTimestamp": "2026-12-01T18:00:00Z"},
        {"finalizers": []},
        {"annotations": {"intake-engine.io/abandon": "taylor-drop"}},
        {"uid": "2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_decision_depends_on_wakes_at_once(change: dict[str, Any]) -> None:
    watched = Watched()
    watched.wakes("ADDED")
    assert watched.wakes("MODIFIED", **change)
    assert not watched.wakes("MODIFIED", **change)


def test_what_a_new_watch_lists_is_looked_at_in_any_case() -> None:
    watched = Watched()
    assert watched.wakes(None)
    assert watched.wakes(None)


def test_an_event_that_is_made_again_is_new() -> None:
    watched = Watched()
    watched.wakes("ADDED")
    assert not watched.wakes("DELETED")
    assert watched.gone == [KEY]
    assert watched.wakes("ADDED")
