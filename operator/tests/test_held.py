"""What keeps the children of an event whose claims are not all accounted for."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from intake_operator import names
from intake_operator.children import kinship
from intake_operator.children.bridge import Installation
from intake_operator.children.bridge import deployment as bridge_deployment
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import Apply, Delete, ScaleBridges, Seal, Unguard
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, Manifest, Observed
from planning import with_status

type Make[T] = Callable[..., T]

ANCHOR = ("NetworkPolicy", "taylor-drop-db")


@pytest.mark.parametrize("ending", ["selling", "over", "deleted", "namespace", "unreachable"])
def test_i11_everything_stays_guarded_while_claims_are_unsettled(
    event: Make[Event],
    observed: Make[Observed],
    engine_status: Make[EngineStatus],
    installation: Installation,
    opens: datetime,
    closes: datetime,
    ending: str,
) -> None:
    changes = {"deleted": {"deleted_at": opens}, "namespace": {"namespace_deleted_at": opens}}
    e = event(**changes.get(ending, {}))
    queue = {"depth": 5, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
    seen = with_status(observed(e), engine_status(queue=queue, sealed=ending == "over"))
    if ending == "unreachable":
        seen = replace(seen, database=DatabaseState(error="away"))
    decided = plan(e, seen, installation, closes if ending == "over" else opens)
    sent = [s.manifest for s in decided.steps if isinstance(s, Apply)]
    assert {m["kind"] for m in sent} >= {"NetworkPolicy", "StatefulSet", "PersistentVolumeClaim", "Secret", "Service"}
    for manifest in sent:
        assert manifest["metadata"]["labels"].get(names.GUARD_LABEL) == installation.guard
    assert not any(isinstance(s, Unguard) for s in decided.steps)


@pytest.mark.parametrize("reachable", [True, False])
def test_i11_no_budget_is_lifted_where_the_pod_is_the_data(
    event: Make[Event], spec: Make[Any], observed: Make[Observed], installation: Installation, opens: datetime,
    reachable: bool,
) -> None:  # fmt: skip
    for database, allowed in (({"ephemeral": {}}, 0), ({}, 0 if reachable else 1)):
        e = event(spec=spec(database=database))
        seen = observed(e) if reachable else replace(observed(e), database=DatabaseState(error="away"))
        sent = [s.manifest for s in plan(e, seen, installation, opens).steps if isinstance(s, Apply)]
        (budget,) = (m for m in sent if m["kind"] == "PodDisruptionBudget")
        assert budget["spec"]["maxUnavailable"] == allowed


@pytest.mark.parametrize("component", ["bridge", "database"])
def test_a_workload_stays_until_its_last_pod_is_gone(
    event: Make[Event],
    observed: Make[Observed],
    pod: Make[Manifest],
    installation: Installation,
    closes: datetime,
    component: str,
) -> None:
    """Its pods are guarded: left to the garbage collector, they would stay for ever."""
    e = event(status={"report": {"verified": True, "ledgerVerified": "", "committed": 0, "voided": 0}})
    assert e.spec is not None
    seen = observed(e)
    made = bridge_deployment(e, e.spec, installation, {}) if component == "bridge" else None
    children = dict(seen.children)
    if made:
        children["Deployment", names.bridge(e.name)] = kinship.as_child(made, e, children[ANCHOR], "g")
    for child in children.values():
        child["metadata"]["labels"].pop(names.GUARD_LABEL, None)
        if "template" in child.get("spec", {}):
            child["spec"]["replicas"] = 0
    last = pod(e, component)
    last["metadata"] |= {"deletionGracePeriodSeconds": 1, "deletionTimestamp": closes.isoformat()}
    stopping = replace(seen, children=children, pods=(last,))
    now = closes + timedelta(hours=1)
    assert plan(e, stopping, installation, now).steps == ()
    kind = {"bridge": "Deployment", "database": "StatefulSet"}[component]
    (step,) = plan(e, replace(stopping, pods=()), installation, now).steps
    assert isinstance(step, Delete)
    assert step.kind == kind


@pytest.mark.parametrize(("leaning", "deleted"), [(False, False), (True, False), (False, True)])
def test_i11_an_anchor_that_is_deleted_is_made_anew_only_while_nothing_leans_on_it(
    event: Make[Event],
    observed: Make[Observed],
    installation: Installation,
    opens: datetime,
    leaning: bool,
    deleted: bool,
) -> None:
    e = event(deleted_at=opens if deleted else None)
    children = dict(observed(e).children)
    anchor = children[ANCHOR]
    children[ANCHOR] = {**anchor, "metadata": {**anchor["metadata"], "deletionTimestamp": "2026-12-01T18:00:00Z"}}
    if leaning:
        owners = children["StatefulSet", "taylor-drop-db"]["metadata"]["ownerReferences"]
        owners[:] = [owner for owner in owners if owner["uid"] != e.uid]
    decided = plan(e, replace(observed(e), children=children), installation, opens)
    renewed = Unguard(*ANCHOR, finalizer=True) in decided.steps
    assert renewed is (not leaning and not deleted)


@pytest.mark.parametrize(("component", "kind"), [("bridge", "Deployment"), ("database", "StatefulSet")])
def test_pods_whose_workload_somebody_deleted_are_removed_with_the_rest(
    event: Make[Event],
    observed: Make[Observed],
    pod: Make[Manifest],
    installation: Installation,
    closes: datetime,
    component: str,
    kind: str,
) -> None:
    """The guard keeps them from the garbage collector, and orphans are nobody's: the event would never end."""
    e = event(status={"report": {"verified": True, "ledgerVerified": "", "committed": 0, "voided": 0}})
    children = {key: child for key, child in observed(e).children.items() if key[0] != kind}
    for child in children.values():
        child["metadata"]["labels"].pop(names.GUARD_LABEL, None)
    left = pod(e, component)
    seen = replace(observed(e), children=children, pods=(left,))
    now = closes + timedelta(hours=1)
    assert plan(e, seen, installation, now).steps == (Delete("Pod", left["metadata"]["name"]),)


def test_no_bridge_is_scaled_that_cannot_be_made_because_the_namespace_goes(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
) -> None:
    """It would be refused for ever, and DB1 never be sealed: an event without a claim could not end."""
    e = event(namespace_deleted_at=opens)
    decided = plan(e, observed(e), installation, opens)
    assert not any(isinstance(s, ScaleBridges) for s in decided.steps)
    assert decided.steps[-1] == Seal("deleted")
