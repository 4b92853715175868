"""Passes whose watches lag: the store has not heard of what people, controllers and the clock have done since."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from intake_operator import names
from intake_operator.kube.client import ApiError
from intake_operator.model.observed import DatabaseState, PoolCheck
from intake_operator.model.secrets import text
from intake_operator.reasons import PoolReason
from world.api import PERSON
from world.databases import window
from world.world import CLAIM, DATABASE, NAME, NAMESPACE, START, World

MINUTE = timedelta(minutes=1)
SUPERUSER = names.superuser_secret(NAME)


@pytest.fixture
def world() -> Iterator[World]:
    """An event that is ready to sell; from now on its watches lag."""
    made = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)
    made.calm(6)
    made.watches.lag = True
    yield made
    made.runner.close()


def selling(world: World) -> World:
    """The window is open, and two claims are queued."""
    world.watches.lag = False
    world.now = START + 32 * MINUTE
    world.calm(2)
    world.watches.lag = True
    world.claims(2)
    return world


def condition(world: World, kind: str) -> str:
    """The reason of a condition."""
    return next(str(c["reason"]) for c in world.status["conditions"] if c["type"] == kind)


def test_a_sale_is_not_sealed_by_a_window_that_was_extended_since(world: World) -> None:
    selling(world)
    event, volume = world.event, world.running()
    assert event is not None
    assert volume is not None
    event["spec"]["window"] = window(START + 30 * MINUTE, 120)
    event["metadata"]["generation"] += 1
    world.api.touch(event)
    world.now = START + 91 * MINUTE
    world.passes()
    assert not volume.sealed
    assert volume.sells(world.db_now()), "and DB1 has the new window"


def test_an_event_that_is_still_there_drains_only_by_what_the_api_server_says(world: World) -> None:
    selling(world)
    world.delete(names.KIND, NAME)
    world.passes()
    assert world.status["phase"] == "Open", "the watch has not told yet"
    world.watches.hears(names.KIND, 9)
    world.passes()
    world.calm(3)
    assert world.status["phase"] == "Draining"


def test_i11_an_event_is_not_given_up_by_an_annotation_that_was_taken_back(world: World) -> None:
    """The report permits every removal, and two claims are on the queue."""
    selling(world)
    event = world.event
    assert event is not None
    world.now = START + 91 * MINUTE
    world.passes()
    event["metadata"]["annotations"] = {names.ABANDON_ANNOTATION: NAME}
    world.api.touch(event)
    world.watches.hears(names.KIND, 9)
    event["metadata"]["annotations"] = {}
    world.api.touch(event)
    for _ in range(3):
        world.passes()
    assert "report" not in world.status
    assert world.status["phase"] == "Draining"


def test_i1_no_slot_is_seeded_by_what_the_store_says_of_other_events() -> None:
    """The event that sells the pool already is not in the store yet."""
    world = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)

    async def check(*_: object, live: bool) -> PoolCheck:
        return PoolCheck(PoolReason.IN_USE if live else PoolReason.UNUSED, "asked")

    pools: Any = world.operator.observer.pools
    pools.check = check
    world.calm(12)
    assert not world.databases.seeded
    world.runner.close()


def test_i1_no_slot_is_seeded_on_a_volume_claim_that_is_being_deleted() -> None:
    world = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)
    while "PoolUnused" not in [c["reason"] for c in world.status.get("conditions", ())]:
        world.calm()
    assert not world.databases.seeded
    world.watches.lag = True
    world.delete("PersistentVolumeClaim", CLAIM)
    for _ in range(3):
        world.passes()
    assert not world.databases.seeded
    assert not world.remembered()
    world.runner.close()


def test_i11_a_pod_is_not_replaced_because_of_a_password_that_was_changed_since(world: World) -> None:
    """DB1 was restarted with the new password of its Secret, and the operator remembers the old one."""
    selling(world)
    secret = world.api.find("Secret", SUPERUSER)
    assert secret is not None
    secret["data"] = {**secret["data"], "password": "bmV3"}
    world.api.touch(secret)
    observe = world.databases.observe

    async def refuses(uid: str, pool: str, host: str, password: str) -> DatabaseState:
        if password != text(secret, "password"):
            return DatabaseState(error="password authentication failed", login_failed=True)
        return await observe(uid, pool, host, password)

    world.databases.observe = refuses  # type: ignore[method-assign]
    world.api.deletions.clear()
    world.passes()
    assert world.api.deletions == []
    assert condition(world, "DatabaseReady") == "Seeded"


def test_a_secret_that_is_gone_is_not_made_without_a_password_and_comes_back_with_one(world: World) -> None:
    """`Apply` of a child that was seen, and is not there any more."""
    world.delete("Secret", names.claimer_secret(NAME))
    world.operator.actor.applier.forget(world.uid)
    with suppress(ApiError):
        world.runner.run(world.operator.reconcile((NAMESPACE, NAME)))
    assert world.api.find("Secret", names.claimer_secret(NAME)) is None
    assert condition(world, "Degraded") == "AsExpected", "it comes again at once, and nobody has to do anything"
    world.passes()
    made = world.api.find("Secret", names.claimer_secret(NAME))
    assert made is not None
    assert text(made, "password")


def test_a_secret_that_another_has_made_since_is_left_alone_until_it_is_seen(world: World) -> None:
    """`Apply` of a child whose name another object has by now."""
    claimer = names.claimer_secret(NAME)
    world.delete("Secret", claimer)
    other = world.api.put({"kind": "Secret", "metadata": {"name": claimer, "labels": {}}, "data": {}})
    world.operator.actor.applier.forget(world.uid)
    world.passes()
    assert condition(world, "Degraded") == "AsExpected", "the next pass sees it"
    assert other["metadata"].get("ownerReferences") is None
    world.passes()
    assert condition(world, "Degraded") == "ChildNotOurs"


def test_credentials_that_are_there_by_now_are_kept(world: World) -> None:
    """`CreateCredentials` of a Secret that was not there when it was asked for."""
    claimer = names.claimer_secret(NAME)
    found = world.api.find("Secret", claimer)
    assert found is not None
    world.watches.live.by_name.put(("Secret", NAMESPACE, claimer), None)
    before = text(found, "password")
    world.passes()
    world.passes()
    assert text(found, "password") == before
    assert condition(world, "Degraded") == "AsExpected"


def test_a_child_is_seen_as_the_operator_has_made_it_before_the_watch_tells() -> None:
    """`Apply` and `ScaleBridges`: the answers of the own requests are in the store, so that nothing is sent twice."""
    world = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)
    world.watches.lag = True
    for _ in range(5):
        world.passes()
    sent = world.api.version
    world.passes()
    assert world.api.version == sent, "nothing is left to write"
    world.runner.close()


def test_bridges_are_scaled_once(world: World) -> None:
    world.now = START + 32 * MINUTE
    world.passes()
    world.passes()
    deployment = world.api.find("Deployment", names.bridge(NAME))
    assert deployment is not None
    version = deployment["metadata"]["resourceVersion"]
    world.passes()
    assert deployment["metadata"]["resourceVersion"] == version


def test_a_finalizer_that_another_has_set_meanwhile_stays() -> None:
    """`AddFinalizer` of an event that is another one by now."""
    world = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)
    world.watches.come()
    world.watches.lag = True
    event = world.event
    assert event is not None
    assert not event["metadata"].get("finalizers"), "the store has heard of one without any"
    event["metadata"]["finalizers"] = ["somebody/else"]
    world.api.touch(event)
    world.passes()
    assert event["metadata"]["finalizers"] == ["somebody/else"]
    world.watches.lag = False
    world.passes()
    assert event["metadata"]["finalizers"] == ["somebody/else", names.FINALIZER]
    world.runner.close()


def test_an_event_that_the_operator_has_let_go_is_not_served_again(world: World) -> None:
    """`RemoveFinalizer`, `Delete`, `Unguard`, `StopDatabase`: what ends an event reads from the API server."""
    world.watches.lag = False
    world.delete(names.KIND, NAME)
    for _ in range(60):
        if world.event is None:
            break
        world.watches.lag = True
        world.watches.hears(names.KIND, 99)
        world.passes()
        world.settle()
    assert world.event is None
    assert world.ours() == []
    for _ in range(3):
        world.passes()
        world.settle()
    assert world.ours() == []


def test_a_child_that_the_store_does_not_know_yet_is_looked_for_before_it_is_applied(world: World) -> None:
    """It was made since by another, who is named."""
    world.delete("Service", names.service(NAME))
    world.watches.hears("Service", 9)
    world.api.put({"kind": "Service", "metadata": {"name": names.service(NAME), "labels": {}}, "spec": {}})
    world.passes()
    assert condition(world, "Degraded") == "ChildNotOurs"


def test_a_namespace_that_is_being_deleted_is_known_as_soon_as_it_refuses_a_child(world: World) -> None:
    """It is read once a minute; before that, an object cannot be made in it."""
    world.delete("Namespace", NAMESPACE)
    world.api.remove_of(("Service", names.service(NAME)), PERSON)
    world.watches.hears("Service", 9)
    world.passes()
    world.passes()
    assert world.status["phase"] == "Draining"


@pytest.mark.parametrize("unlisted", ["StatefulSet", names.KIND])
def test_nothing_is_decided_before_all_is_listed(world: World, unlisted: str) -> None:
    before = dict(world.status)
    for shelf in world.watches.store.shelves():
        if shelf.kind == unlisted:
            shelf.replace([], world.api.version)
            shelf.listed = False
    sent = world.api.version
    after = world.runner.run(world.operator.reconcile((NAMESPACE, NAME)))
    assert after == timedelta(seconds=1)
    assert world.api.version == sent
    assert world.status == before


def test_i11_db1_is_not_stopped_by_a_store_that_has_no_child() -> None:
    """A list that came out empty, as of a proxy: nothing is removed because of it."""
    world = World(protected=False, ephemeral=False, keep=10, skew=0, checkout=False)
    world.calm(6)
    selling(world)
    for shelf in world.watches.store.shelves():
        if shelf.kind != names.KIND:
            shelf.replace([], world.api.version)
    world.api.deletions.clear()
    world.passes()
    assert world.api.deletions == []
    assert world.api.find("StatefulSet", DATABASE) is not None
    world.runner.close()
