"""What the store has after lists, watches and own answers, in whichever order they come."""

from typing import Any

import pytest
from intake_operator import names
from intake_operator.kube.store import LAST_APPLIED, Change, Shelf, Store
from intake_operator.model.observed import Manifest


def pod(name: str, version: int, event: str = "drop", **meta: Any) -> Manifest:
    """A pod of an event."""
    labels = {names.EVENT_LABEL: event}
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version), "labels": labels} | meta}


def has(shelf: Shelf) -> dict[str, int]:
    """The objects of the shelf, with their versions; found by event as well."""
    found = {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in shelf.all()}
    assert found.keys() == {item["metadata"]["name"] for item in shelf.of_event(("shop", "drop"))}
    return found


@pytest.fixture
def shelf() -> Shelf:
    """A shelf with two pods, as of version 10."""
    made = Shelf("Pod", "")
    made.replace([pod("a", 3), pod("b", 7)], 10)
    return made


def test_a_new_list_leaves_no_ghost(shelf: Shelf) -> None:
    """The deletion happened while the watch was broken: nobody tells of it."""
    changes = shelf.replace([pod("b", 7)], 20)
    assert has(shelf) == {"b": 7}
    gone = [change for change in changes if change.new is None]
    assert [change.old["metadata"]["name"] for change in gone if change.old] == ["a"]


def test_a_new_list_of_a_cluster_that_was_restored_leaves_no_ghost(shelf: Shelf) -> None:
    """etcd from a backup: all versions are lower than those that were seen."""
    shelf.answered(pod("c", 50))
    shelf.asks()
    shelf.replace([pod("a", 3)], 5)
    assert has(shelf) == {"a": 3}
    shelf.told("MODIFIED", pod("a", 6))
    assert has(shelf) == {"a": 6}


def test_an_answer_that_is_newer_than_the_list_stays(shelf: Shelf) -> None:
    shelf.asks()
    shelf.answered(pod("c", 25))
    shelf.replace([pod("a", 3)], 20)
    assert has(shelf) == {"a": 3, "c": 25}


def test_a_watch_adds_changes_and_takes_away(shelf: Shelf) -> None:
    shelf.told("ADDED", pod("c", 11))
    shelf.told("MODIFIED", pod("a", 12))
    shelf.told("DELETED", pod("b", 13))
    assert has(shelf) == {"a": 12, "c": 11}
    assert shelf.version == 13


def test_a_bookmark_only_says_how_far_the_watch_is(shelf: Shelf) -> None:
    assert shelf.told("BOOKMARK", {"metadata": {"resourceVersion": "99"}}) == []
    assert (shelf.version, has(shelf)) == (99, {"a": 3, "b": 7})


def test_an_own_answer_is_not_overwritten_by_what_came_before_it(shelf: Shelf) -> None:
    shelf.answered(pod("a", 20))
    assert shelf.told("MODIFIED", pod("a", 15)) == []
    assert shelf.told("DELETED", pod("a", 16)) == [], "it was deleted, and then created by us"
    assert has(shelf)["a"] == 20
    shelf.told("DELETED", pod("a", 21))
    assert "a" not in has(shelf)


def test_an_own_answer_that_comes_after_the_deletion_makes_no_ghost(shelf: Shelf) -> None:
    """The answer was under way while the watch told that the object was deleted."""
    shelf.told("DELETED", pod("a", 21))
    assert shelf.answered(pod("a", 20)) == []
    assert "a" not in has(shelf)


def test_an_answer_that_the_watch_would_not_tell_of_is_not_kept(shelf: Shelf) -> None:
    """An object of somebody else that has the name of a child."""
    assert shelf.answered(pod("c", 25, labels={})) == []
    assert "c" not in {item["metadata"]["name"] for item in shelf.all()}


def test_before_the_first_list_no_answer_is_taken() -> None:
    made = Shelf("Pod", "")
    made.answered(pod("a", 20))
    made.replace([], 30)
    assert has(made) == {}


def test_an_object_whose_label_changes_moves_to_the_other_event(shelf: Shelf) -> None:
    shelf.told("MODIFIED", pod("a", 11, event="other"))
    assert [item["metadata"]["name"] for item in shelf.of_event(("shop", "drop"))] == ["b"]
    assert [item["metadata"]["name"] for item in shelf.of_event(("shop", "other"))] == ["a"]


def test_what_no_decision_reads_is_not_kept(shelf: Shelf) -> None:
    shelf.told("ADDED", pod("c", 11, managedFields=[{}], annotations={LAST_APPLIED: "{}", "other": "1"}))
    kept = shelf.get(("shop", "c"))
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"other": "1"}
    assert kept["kind"] == "Pod", "lists leave it out"


def test_a_namespace_is_known_when_each_of_its_watches_has_listed_and_waits_for_no_other() -> None:
    told: list[Change] = []
    store = Store(["Pod", "Service"], ["shop", "books"], told.append)
    shelves = {(each.kind, each.namespace): each for each in store.shelves()}
    assert not store.ready
    shelves["Pod", "shop"].replace([pod("a", 1)], 1)
    assert not store.knows("shop")
    shelves["Service", "shop"].replace([], 1)
    assert store.knows("shop")
    assert store.ready, "the lists of the other namespace may be refused"
    assert not store.knows("books")
    assert not store.knows("elsewhere")
    assert store.get("Pod", "shop", "a") is not None
    assert store.get("Pod", "books", "a") is None
    assert store.get("Pod", "elsewhere", "a") is None
    assert len(store.all("Pod")) == 1
    store.answered(pod("a", 9) | {"kind": "Pod"})
    assert [change.kind for change in told] == ["Pod"], "an own answer is told: it may show what others changed"
    store.answered(pod("a", 9) | {"kind": "ConfigMap"})
