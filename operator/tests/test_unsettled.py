"""What keeps the children of an event whose claims are not all settled."""

from datetime import timedelta
from typing import Any

import given
import pytest
from given import CLOSES, DATABASE, INSTALLATION, OPENS, Given
from intake_operator import names
from intake_operator.decide.steps import Delete, ScaleBridges, Seal, Unguard

ANCHOR = ("NetworkPolicy", "taylor-drop-db")
BRIDGES = ("Deployment", "taylor-drop-bridge")


def unguarded(event: Given) -> Given:
    """The same event; its children have no guard label, and its workloads are scaled to zero."""
    for child in event.observed.children.values():
        child["metadata"]["labels"].pop(names.GUARD_LABEL, None)
        if "template" in child.get("spec", {}):
            child["spec"]["replicas"] = 0
    return event.seen(pods=())


@pytest.mark.parametrize(
    "sale",
    [
        given.selling().says(queue={"depth": 5}),
        given.closed().says(queue={"depth": 5}, sealed=True),
        given.closed().says(held=5, sealed=True),
        given.selling(deleted_at=OPENS).says(queue={"depth": 5}),
        given.selling(namespace_deleted_at=OPENS).says(queue={"depth": 5}),
        given.selling().new_db1(error="away"),
    ],
    ids=["selling", "over", "held", "deleted", "namespace", "unreachable"],
)
def test_i11_everything_stays_guarded_while_claims_are_unsettled(sale: Given) -> None:
    decided = sale.plan()
    sent = decided.applied()
    assert {m["kind"] for m in sent} >= {"NetworkPolicy", "StatefulSet", "PersistentVolumeClaim", "Secret", "Service"}
    assert {m["metadata"]["labels"].get(names.GUARD_LABEL) for m in sent} == {INSTALLATION.guard}
    assert not decided.all(Unguard)


@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize("database", [{"ephemeral": {}}, {}], ids=["ephemeral", "volume"])
def test_i11_the_budget_allows_no_eviction_where_the_pod_is_the_data(reachable: bool, database: dict[str, Any]) -> None:
    sale = given.selling(spec={"database": database})
    (budget,) = (sale if reachable else sale.new_db1(error="away")).plan().applied("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == (0 if reachable or database else 1)


@pytest.mark.parametrize(("component", "workload"), [("bridge", BRIDGES), ("database", DATABASE)])
def test_a_workload_stays_until_its_last_pod_is_gone(component: str, workload: tuple[str, str]) -> None:
    """Its pods are guarded: the garbage collector would never remove them."""
    event = given.finished().at(CLOSES + timedelta(hours=1))
    event = unguarded(event.bridges(0) if component == "bridge" else event)
    last = given.make_pod(event.event, component)
    last["metadata"] |= {"deletionGracePeriodSeconds": 1, "deletionTimestamp": CLOSES.isoformat()}
    assert event.seen(pods=(last,)).plan().steps == ()
    assert event.plan().steps == (Delete(*workload),)


@pytest.mark.parametrize(("disowned", "deleted"), [(False, False), (True, False), (False, True)])
def test_i11_a_deleted_anchor_is_renewed_only_while_no_child_depends_on_it(disowned: bool, deleted: bool) -> None:
    sale = given.selling(deleted_at=OPENS if deleted else None)
    anchor = sale.observed.children[ANCHOR]
    sale = sale.child(ANCHOR, anchor | {"metadata": anchor["metadata"] | {"deletionTimestamp": OPENS.isoformat()}})
    if disowned:
        owners = sale.observed.children[DATABASE]["metadata"]["ownerReferences"]
        owners[:] = [owner for owner in owners if owner["uid"] != sale.event.uid]
    renewed = Unguard(*ANCHOR, finalizer=True) in sale.plan().steps
    assert renewed is (not disowned and not deleted)


@pytest.mark.parametrize(("component", "workload"), [("bridge", BRIDGES), ("database", DATABASE)])
def test_pods_of_a_workload_that_was_deleted_by_hand_are_deleted_with_the_rest(
    component: str, workload: tuple[str, str]
) -> None:
    """The guard keeps them from the garbage collector, and no controller has them: the event would never end."""
    event = unguarded(given.finished().at(CLOSES + timedelta(hours=1)))
    children = {key: child for key, child in event.observed.children.items() if key != workload}
    left = event.seen(children=children).with_pod(component)
    assert left.plan().steps == (Delete("Pod", f"taylor-drop-{component}-0"),)


def test_no_bridge_is_scaled_that_cannot_be_created_in_a_namespace_that_is_being_deleted() -> None:
    """The step would fail for ever, and DB1 would never be sealed: an event without a claim could not end."""
    decided = given.selling(namespace_deleted_at=OPENS).plan()
    assert not decided.all(ScaleBridges)
    assert decided.steps[-1] == Seal("deleted")
