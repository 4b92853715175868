"""How an event ends: drained, proven, kept for a while, removed."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.children import kinship
from intake_operator.children.installation import Installation
from intake_operator.children.report import config_map
from intake_operator.decide import desired, memory, report, status, steps
from intake_operator.decide.consistency import comparison
from intake_operator.decide.facts import Facts
from intake_operator.decide.stage import abandoned, keep_time
from intake_operator.model import pods
from intake_operator.model.observed import ChildKey, Manifest
from intake_operator.reasons import DrainReason

AT_ONCE: Final = timedelta(0)
# A state that ends by itself is looked at this often; one that waits for a person, or keeps DB1, less often.
SOON: Final = timedelta(seconds=1)
WHILE_BLOCKED: Final = timedelta(seconds=2)
# DB1 is looked at while it is kept, because a crash empties the table that answers `closed`.
WHILE_KEPT: Final = timedelta(seconds=5)

PACE: Final[Mapping[DrainReason, timedelta]] = {
    DrainReason.HOLDS_PENDING: WHILE_BLOCKED,
    DrainReason.DEAD_LETTERS_BLOCK: WHILE_BLOCKED,
    DrainReason.PROOF_FAILED: WHILE_BLOCKED,
}

# Removed once bridges and DB1 have stopped, in this order; the anchor is the last of all.
REMAINS: Final = ("PersistentVolumeClaim", "Service", "PodDisruptionBudget", "Secret")


def drain(facts: Facts, installation: Installation) -> steps.Plan:
    """No more claims: every claim gets settled, and the proof is made."""
    event, observed = facts.event, facts.observed
    if abandoned(event):
        return _finish(replace(facts, drain=DrainReason.VERIFYING), proven=False)
    todo: list[steps.Step] = comparison(event, observed)
    lost = memory.volume_lost(event, observed)
    if event.spec is not None:
        facts = replace(facts, claimable=memory.identity(event, observed))
        todo += [*desired.children(facts, installation), *desired.database_steps(facts)]
        if not lost:
            decision, bridges = desired.bridges(facts, installation)
            facts = replace(facts, scaling=decision)
            todo += bridges if observed.database.reachable else []
    if not (observed.database.sealed or observed.database.status is None or lost) and (
        event.deleting or observed.database.window_closed
    ):
        # Unless the event is deleted, DB1 says when the window ends: its clock and ours may differ.
        todo.append(steps.Seal("deleted" if event.deleting else "the window closed"))
    facts = replace(facts, drain=drain_state(facts))
    if facts.drain is DrainReason.VERIFYING and observed.proof is not None:
        return _finish(facts, proven=True)
    return steps.Plan(tuple(todo), status.build(facts), PACE.get(facts.drain, SOON))


def drain_state(facts: Facts) -> DrainReason:
    """How far the drain is."""
    database, proof = facts.observed.database, facts.observed.proof
    if not database.sealed or memory.volume_lost(facts.event, facts.observed):
        return DrainReason.INTAKE_CLOSED
    if database.held:
        return DrainReason.HOLDS_PENDING
    if database.depth:
        return DrainReason.QUEUE_DRAINING
    if database.dead_letters:
        return DrainReason.DEAD_LETTERS_BLOCK
    if proof is not None and proof.failures:
        return DrainReason.PROOF_FAILED
    return DrainReason.VERIFYING


def _finish(facts: Facts, *, proven: bool) -> steps.Plan:
    """Make the copy for people first, then write the report that permits the removal.

    After a crash in between, the copy is made again.
    """
    event = facts.event
    final = report.proven(facts) if proven else report.abandoned(facts)
    before = status.build(facts)
    if event.deleting:  # a copy would go with the event, and a namespace that is being deleted takes no new object
        return steps.Plan((), before, AT_ONCE, after=before | {"report": final.as_status()})
    copy = config_map(event, final)
    final_report = final.as_status() | {"configMapName": copy["metadata"]["name"]}
    return steps.Plan((steps.Apply(copy),), before, AT_ONCE, after=before | {"report": final_report})


def keep(facts: Facts, installation: Installation) -> steps.Plan:
    """DB1 answers `closed`, and says what became of a claim. The bridges have nothing left to do."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    facts = replace(facts, claimable=memory.identity(event, observed), drain=DrainReason.KEPT)
    todo = [
        *comparison(event, observed),
        *desired.no_bridges(observed, event),
        *desired.children(facts, installation),
        *desired.database_steps(facts),
    ]
    left = event.spec.window.closes_at - (facts.now - keep_time(event.spec))
    return steps.Plan(tuple(todo), status.build(facts), min(WHILE_KEPT, left))


def remove(facts: Facts) -> steps.Plan:
    """Remove everything, the anchor last: until then it keeps the rest through a foreground deletion."""
    state, todo = _next_to_remove(facts)
    done = state is DrainReason.COMPLETED
    return steps.Plan(tuple(todo), status.build(replace(facts, drain=state)), None if done else SOON)


def _next_to_remove(facts: Facts) -> tuple[DrainReason, list[steps.Step]]:
    event, children = facts.event, facts.observed.children
    bridges, database = names.bridge(event.name), names.database(event.name)
    guarded = [steps.Unguard(*key) for key, child in children.items() if names.GUARD_LABEL in _labels(child)]
    if guarded or _exists(facts, ("Deployment", bridges), "bridge"):
        return DrainReason.BRIDGES_STOPPED, [
            *guarded,
            *_stop(facts, ("Deployment", bridges), "bridge", steps.ScaleBridges(0)),
        ]
    if _exists(facts, ("StatefulSet", database), "database"):
        return DrainReason.DATABASE_STOPPED, _stop(facts, ("StatefulSet", database), "database", steps.StopDatabase())
    for kind in REMAINS:
        if found := [key for key in children if key[0] == kind]:
            return DrainReason.VOLUMES_REMOVED, [step for key in found for step in _delete(key, children[key])]
    if anchor := children.get((kinship.ANCHOR, database)):
        return DrainReason.VOLUMES_REMOVED, _delete((kinship.ANCHOR, database), anchor)
    return DrainReason.COMPLETED, [steps.RemoveFinalizer()] if names.FINALIZER in event.finalizers else []


def _exists(facts: Facts, key: ChildKey, component: str) -> bool:
    """The workload exists, or a pod of it."""
    return key in facts.observed.children or bool(pods.of_component(facts.observed.pods, component))


def _stop(facts: Facts, key: ChildKey, component: str, stop: steps.Step) -> list[steps.Step]:
    """Scale a workload to zero, and delete it when its pods are gone.

    The garbage collector may not remove guarded pods. So the pods of a workload that was deleted by hand are deleted
    here, too.
    """
    found = facts.observed.children.get(key)
    if found is not None and (found["spec"].get("replicas", 1) or (component == "database" and _ends_slowly(facts))):
        return [stop]
    if pods.of_component(facts.observed.pods, component):
        return desired.strays(facts.observed, component, found)
    return [steps.Delete(*key)] if found is not None else []


def _ends_slowly(facts: Facts) -> bool:
    """Whether DB1's pod has a long grace period: its controller made or deleted it after we shortened the period."""
    found = pods.of_component(facts.observed.pods, "database")
    short = steps.STOP_GRACE_SECONDS
    return any(pod["metadata"].get("deletionGracePeriodSeconds", short + 1) > short for pod in found)


def _delete(key: ChildKey, child: Manifest) -> list[steps.Step]:
    """Delete one child, without our finalizer on it."""
    has_finalizer = names.FINALIZER in (child["metadata"].get("finalizers") or ())
    return [*([steps.Unguard(*key, finalizer=True)] if has_finalizer else []), steps.Delete(*key)]


def _labels(manifest: Manifest) -> dict[str, Any]:
    return manifest["metadata"].get("labels") or {}
