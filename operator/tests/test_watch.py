"""What queues an event."""

from typing import Any

import pytest
from intake_operator import watch
from intake_operator.workqueue import Key, WorkQueue

KEY: Key = ("tickets", "taylor-drop")
META: dict[str, Any] = {"uid": "1", "generation": 1, "resourceVersion": "7", "finalizers": ["intake-engine.io/drain"]}


class Recording(WorkQueue):
    """A queue that only records what is added."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.keys: list[Key] = []

    def add(self, key: Key) -> None:
        self.keys.append(key)


class Watched:
    """The handler of IntakeEvents, without a cluster."""

    def __init__(self) -> None:
        self.queue, self.gone = Recording(), list[Key]()
        handlers: Any = watch.registry(self.queue, self.gone.append)._watching
        self._handler = next(h for h in handlers.get_all_handlers() if h.fn.__name__ == "event_changed")

    def queues(self, kind: str | None, **changes: Any) -> bool:
        """Whether the event is queued after this watch event."""
        self.queue.keys.clear()
        self._handler.fn(namespace=KEY[0], name=KEY[1], type=kind, meta=META | changes)
        return self.queue.keys == [KEY]


def test_a_change_of_the_status_alone_does_not_queue_the_event() -> None:
    watched = Watched()
    assert watched.queues("ADDED")
    # `oldestSeconds` moves with every pass while anything is queued: each would be followed by another at once.
    assert not watched.queues("MODIFIED", resourceVersion="8")


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
def test_a_change_that_a_decision_depends_on_queues_the_event_at_once(change: dict[str, Any]) -> None:
    watched = Watched()
    watched.queues("ADDED")
    assert watched.queues("MODIFIED", **change)
    assert not watched.queues("MODIFIED", **change)


def test_what_a_new_watch_lists_is_always_queued() -> None:
    watched = Watched()
    assert watched.queues(None)
    assert watched.queues(None)


def test_an_event_that_is_created_again_is_new() -> None:
    watched = Watched()
    watched.queues("ADDED")
    assert not watched.queues("DELETED")
    assert watched.gone == [KEY]
    assert watched.queues("ADDED")
