"""How an event ends: drained, proven, kept for a while, removed."""

from dataclasses import replace
from typing import Any, Final

from intake_operator import names
from intake_operator.children import kinship, report
from intake_operator.children.bridge import Installation
from intake_operator.decide import account, memory, status, wanted
from intake_operator.decide.serve import SOON, WHILE_OPEN
from intake_operator.decide.stage import abandoned, keep_time
from intake_operator.decide.status import Facts
from intake_operator.decide.steps import (
    HASTE,
    Apply,
    Delete,
    Plan,
    RemoveFinalizer,
    ScaleBridges,
    Seal,
    Step,
    StopDatabase,
    Unguard,
)
from intake_operator.model.observed import ChildKey, Manifest
from intake_operator.reasons import DrainReason

# Seconds. DB1 is looked at while it is kept, because a crash empties what answers `closed`.
WHILE_KEPT: Final = 5.0

# Removed once bridges and DB1 have stopped, in this order; the anchor is the last of all.
REMAINS: Final = ("PersistentVolumeClaim", "Service", "PodDisruptionBudget", "Secret")


def drain(facts: Facts, by: Installation) -> Plan:
    """No more claims; what was claimed gets its end, and the proof is made."""
    event, observed = facts.event, facts.observed
    if abandoned(event):
        return _finish(replace(facts, drain=DrainReason.VERIFYING), proven=False)
    steps: list[Step] = []
    lost = memory.volume_lost(event, observed)
    if event.spec is not None:
        facts = replace(facts, claimable=memory.identity(event, observed))
        steps += [*wanted.children(facts, by), *wanted.database_steps(facts)]
        if not lost:
            decision, bridges = wanted.bridges(facts, by)
            facts = replace(facts, scaling=decision)
            steps += bridges if observed.database.reachable else []
    state, again = drain_state(facts)
    if not (observed.database.sealed or observed.database.status is None or lost) and (
        event.deleting or observed.database.window_closed
    ):
        # Without a deletion the window's end is DB1's to declare; its clock and ours need not agree.
        steps.append(Seal("deleted" if event.deleting else "the window closed"))
    facts = replace(facts, drain=state)
    if state is DrainReason.VERIFYING and observed.proof is not None:
        return _finish(facts, proven=True)
    return Plan(tuple(steps), status.build(facts), again)


def drain_state(facts: Facts) -> tuple[DrainReason, float]:
    """Where the drain stands, and in how many seconds to look again."""
    database, proof = facts.observed.database, facts.observed.proof
    if not database.sealed or memory.volume_lost(facts.event, facts.observed):
        return DrainReason.INTAKE_CLOSED, SOON
    if database.depth:
        return DrainReason.QUEUE_DRAINING, SOON
    if database.dead_letters:
        return DrainReason.DEAD_LETTERS_BLOCK, WHILE_OPEN
    if proof is not None and proof.failures:
        return DrainReason.PROOF_FAILED, WHILE_OPEN
    return DrainReason.VERIFYING, SOON


def _finish(facts: Facts, *, proven: bool) -> Plan:
    """The copy for people first, then the status that lets everything go; a crash in between makes the copy again."""
    event = facts.event
    final = account.proven(facts) if proven else account.abandoned(facts)
    said = status.build(facts)
    if event.deleting:  # a copy would go with the event, and nothing can be made in a namespace that goes
        return Plan((), said, 0.0, after=said | {"report": final.as_status()})
    copy = report.report(event, final)
    told = final.as_status() | {"configMapName": copy["metadata"]["name"]}
    return Plan((Apply(copy),), said, 0.0, after=said | {"report": told})


def keep(facts: Facts, by: Installation) -> Plan:
    """DB1 answers `closed` and tells what became of a claim. The bridges have nothing left to do."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    facts = replace(facts, claimable=memory.identity(event, observed), drain=DrainReason.KEPT)
    steps = [*wanted.no_bridges(observed, event), *wanted.children(facts, by), *wanted.database_steps(facts)]
    left = (event.spec.window.closes_at - (facts.now - keep_time(event.spec))).total_seconds()
    return Plan(tuple(steps), status.build(facts), min(WHILE_KEPT, left))


def release(facts: Facts) -> Plan:
    """Remove everything, the anchor last: until then it keeps the rest through a foreground deletion."""
    state, steps = _next_to_go(facts)
    done = state is DrainReason.COMPLETED
    return Plan(tuple(steps), status.build(replace(facts, drain=state)), None if done else SOON)


def _next_to_go(facts: Facts) -> tuple[DrainReason, list[Step]]:
    event, children = facts.event, facts.observed.children
    bridges, database = names.bridge(event.name), names.database(event.name)
    guarded = [Unguard(*key) for key, child in children.items() if names.GUARD_LABEL in _labels(child)]
    if guarded or _present(facts, ("Deployment", bridges), "bridge"):
        return DrainReason.BRIDGES_STOPPED, [
            *guarded,
            *_stop(facts, ("Deployment", bridges), "bridge", ScaleBridges(0)),
        ]
    if _present(facts, ("StatefulSet", database), "database"):
        return DrainReason.DATABASE_STOPPED, _stop(facts, ("StatefulSet", database), "database", StopDatabase())
    for kind in REMAINS:
        if found := [key for key in children if key[0] == kind]:
            return DrainReason.VOLUMES_REMOVED, [step for key in found for step in _remove(key, children[key])]
    if anchor := children.get((kinship.ANCHOR, database)):
        return DrainReason.VOLUMES_REMOVED, _remove((kinship.ANCHOR, database), anchor)
    return DrainReason.COMPLETED, [RemoveFinalizer()] if names.FINALIZER in event.finalizers else []


def _present(facts: Facts, key: ChildKey, component: str) -> bool:
    return key in facts.observed.children or _running(facts, component)


def _running(facts: Facts, component: str) -> bool:
    return any(_labels(pod).get("app.kubernetes.io/component") == component for pod in facts.observed.pods)


def _stop(facts: Facts, key: ChildKey, component: str, stop: Step) -> list[Step]:
    """To no pods, and gone when they are: the garbage collector, which a deletion would leave them to, may not.

    For the same reason the pods of a workload that somebody has deleted are ours to remove.
    """
    found = facts.observed.children.get(key)
    if found is not None and (found["spec"].get("replicas", 1) or (component == "database" and _lingers(facts))):
        return [stop]
    if _running(facts, component):
        return wanted.strays(facts.observed, component, found)
    return [Delete(*key)] if found is not None else []


def _lingers(facts: Facts) -> bool:
    """Whether DB1's pod ends in its own time: its controller may have made or removed it after we asked for haste."""
    pods = (pod for pod in facts.observed.pods if _labels(pod).get("app.kubernetes.io/component") == "database")
    return any(pod["metadata"].get("deletionGracePeriodSeconds", HASTE + 1) > HASTE for pod in pods)


def _remove(key: ChildKey, child: Manifest) -> list[Step]:
    held = names.FINALIZER in (child["metadata"].get("finalizers") or ())
    return [*([Unguard(*key, finalizer=True)] if held else []), Delete(*key)]


def _labels(manifest: Manifest) -> dict[str, Any]:
    return manifest["metadata"].get("labels") or {}
