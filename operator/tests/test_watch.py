"""What queues an event."""

from typing import Any

import pytest
from intake_operator import names, watch
from intake_operator.kube.store import Change, Store
from intake_operator.model.observed import Manifest
from intake_operator.workqueue import Key, WorkQueue

KEY: Key = ("tickets", "taylor-drop")
META: dict[str, Any] = {
    "namespace": KEY[0],
    "name": KEY[1],
    "uid": "1",
    "generation": 1,
    "resourceVersion": "7",
    "finalizers": ["intake-engine.io/drain"],
}


class Recording(WorkQueue):
    """A queue that only records what is added."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.keys: list[Key] = []

    def add(self, key: Key) -> None:
        self.keys.append(key)


class Watched:
    """What wakes, without a cluster."""

    def __init__(self) -> None:
        self.queue, self.gone = Recording(), list[Key]()
        self.wake = watch.waker(self.queue, self.gone.append)

    def queues(self, old: Manifest | None, new: Manifest | None, kind: str = names.KIND, listed: bool = False) -> bool:
        """Whether the event is queued after this change."""
        self.queue.keys.clear()
        self.wake(Change(kind, old, new, listed))
        assert set(self.queue.keys) <= {KEY}
        return bool(self.queue.keys)


def event(**changes: Any) -> Manifest:
    return {"metadata": META | changes}


def pod(version: str) -> Manifest:
    labels = {names.EVENT_LABEL: KEY[1]}
    return {"metadata": {"namespace": KEY[0], "name": "p", "resourceVersion": version, "labels": labels}}


def test_a_change_of_the_status_alone_does_not_queue_the_event() -> None:
    watched = Watched()
    assert watched.queues(None, event())
    # `oldestSeconds` moves with every pass while anything is queued: each would be followed by another at once.
    assert not watched.queues(event(), event(resourceVersion="8"))


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
    assert watched.queues(event(), event(**change))
    assert not watched.queues(event(**change), event(**change, resourceVersion="9"))


def test_what_a_new_list_has_is_always_queued() -> None:
    assert Watched().queues(event(), event(), listed=True)


def test_an_event_that_is_gone_is_forgotten() -> None:
    watched = Watched()
    assert not watched.queues(event(), None)
    assert watched.gone == [KEY]


def test_a_child_that_is_new_changed_or_gone_queues_its_event_and_one_that_is_listed_again_does_not() -> None:
    watched = Watched()
    assert watched.queues(None, pod("1"), "Pod")
    assert watched.queues(pod("1"), pod("2"), "Pod")
    assert watched.queues(pod("2"), None, "Pod", listed=True)
    assert not watched.queues(pod("2"), pod("2"), "Pod", listed=True)


async def test_what_kopf_tells_of_an_event_is_in_the_store_and_queues_it() -> None:
    watched = Watched()
    store = Store([names.KIND], (), watched.wake)
    (shelf,) = store.shelves()
    shelf.replace([{"kind": names.KIND} | event()], 7)
    handlers: Any = watch.registry(store)._watching
    (handler,) = handlers.get_all_handlers()
    told = {"kind": names.KIND} | event(generation=2, resourceVersion="8")
    for type_, body in (("MODIFIED", told), ("DELETED", event(resourceVersion="9"))):
        await handler.fn(type=type_, body={"kind": names.KIND} | body)
    assert watched.queue.keys == [KEY]
    found = store.get(names.KIND, *KEY)
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "8", "its own watch tells of the deletion"
