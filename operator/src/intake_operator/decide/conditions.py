"""The conditions of an event: each is rebuilt on every pass. A message says what is so, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from intake_operator import names
from intake_operator.children.kinship import COLLECTING
from intake_operator.decide import database_pod, memory, preflight, versions
from intake_operator.decide.consistency import verdict
from intake_operator.decide.facts import Facts
from intake_operator.decide.ledger_ready import ledger_ready
from intake_operator.decide.provisioning import lateness
from intake_operator.decide.stage import Stage, has_to_be_proven, keep_until, provision_at, was_claimable
from intake_operator.reasons import (
    ALL_GOOD,
    ConditionType,
    DatabaseReason,
    DrainReason,
    IntakeReason,
    Phase,
    PoolReason,
    Problem,
    ReadyReason,
    ScalingReason,
)

# The status of PoolUnused for a reason; for the others it is Unknown.
_POOL_UNUSED: Final = {PoolReason.UNUSED: True, PoolReason.USED_BEFORE: False, PoolReason.IN_USE: False}

# Problems that no observation shows, only a step that was tried.
STEP_FAILED: Final = frozenset({Problem.CHILD_NOT_OURS, Problem.RECONCILE_FAILED, Problem.DATABASE_HELD_UP})

# The pool is not asked about again, and DB1's own claims are in the ledger from then on.
_ASKED_BEFORE: Final = " (asked before the first slot was seeded)"


@dataclass(frozen=True)
class Condition:
    """A metav1.Condition without its bookkeeping; `status` is None for Unknown."""

    type: ConditionType
    status: bool | None
    reason: str
    message: str
    generation: int | None = None
    """The metadata.generation that it is about, if that is not the present one."""


def build(facts: Facts) -> list[dict[str, Any]]:
    """All conditions, ready for the status."""
    conditions = (
        _ready(facts),
        _database_ready(facts),
        _intake_open(facts),
        _scaling_active(facts),
        _drained(facts),
        _ledger_ready(facts),
        _degraded(facts),
        _ledger_consistent(facts),
        _pool_unused(facts),
        _preflight_passed(facts),
    )
    return [_stamped(condition, facts) for condition in conditions]


def of_type(status: Mapping[str, Any], wanted: ConditionType) -> dict[str, Any] | None:
    """One condition of a status; None where the status has none of this type."""
    return next((c for c in status.get("conditions") or () if c["type"] == wanted), None)


def step_failed(status: dict[str, Any], reason: Problem, message: str, now: datetime) -> dict[str, Any]:
    """The status, with the failure of a step in the conditions Degraded and Ready."""
    values = {ConditionType.DEGRADED: "True", ConditionType.READY: "False"}

    def changed(condition: dict[str, Any]) -> dict[str, Any]:
        value = values[condition["type"]]
        since = condition["lastTransitionTime"] if condition["status"] == value else now.isoformat(timespec="seconds")
        return condition | {"status": value, "reason": reason.value, "message": message, "lastTransitionTime": since}

    conditions = [changed(c) if c["type"] in values else c for c in status["conditions"]]
    return status | {"conditions": conditions}


def until_steps_succeed(before: Mapping[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """The status to write before the steps: with the failure of the last pass, which stays until the steps succeed.

    Without it, each new try would set Ready for a moment, wake those who wait for it, and be an Event.
    """
    degraded = of_type(before, ConditionType.DEGRADED)
    if degraded is None or degraded["reason"] not in STEP_FAILED:
        return status
    conditions = [
        (of_type(before, c["type"]) or c) | {"observedGeneration": c["observedGeneration"]}
        if c["type"] in {ConditionType.DEGRADED, ConditionType.READY}
        else c
        for c in status["conditions"]
    ]
    return status | {"conditions": conditions}


def _ready(facts: Facts) -> Condition:
    def ready(value: bool, reason: str, message: str) -> Condition:
        return Condition(ConditionType.READY, value, reason, message)

    if stopping := next((each for each in facts.findings if each.stops), None):
        return ready(False, stopping.reason, stopping.message)
    if facts.stage is Stage.WAIT:
        return ready(False, facts.phase.value, _waits(facts))
    if facts.stage is Stage.SERVE and not facts.observed.database.ready:
        underway = f"DB1 is being provisioned; DatabaseReady says how far it is{lateness(facts)}"
        return ready(False, ReadyReason.PROVISIONING, underway)
    if facts.event.spec and facts.event.spec.paused and (facts.phase is Phase.OPEN or facts.observed.database.depth):
        return ready(False, ReadyReason.PAUSED, "spec.paused stops claims and commits; set it to false to go on")
    if facts.findings:
        first = facts.findings[0]
        return ready(True, first.reason, f"{_ready_message(facts)}. But {first.message}")
    return ready(True, facts.phase.value, _ready_message(facts))


def _waits(facts: Facts) -> str:
    """Until when nothing runs, and why."""
    spec = facts.event.spec
    assert spec is not None
    return (
        f"nothing runs yet, as planned: DB1 is provisioned at {provision_at(spec).isoformat()}, "
        f"{spec.provisioning.lead_time_minutes} minutes before the window opens (spec.provisioning.leadTimeMinutes)"
    )


def _ready_message(facts: Facts) -> str:
    window = facts.event.spec.window if facts.event.spec else None
    match facts.phase:
        case Phase.SCHEDULED if window:
            return f"DB1 is ready; the window opens at {window.opens_at.isoformat()}"
        case Phase.OPEN if window:
            return f"DB1 is ready; the window is open until {window.closes_at.isoformat()}"
        case Phase.COMPLETED:
            return "the event has ended, and nothing is left to do"
        case _:
            return "the sale has ended; Drained says what is left to do"


def _database_ready(facts: Facts) -> Condition:
    def ready(value: bool, reason: DatabaseReason, message: str) -> Condition:
        return Condition(ConditionType.DATABASE_READY, value, reason, message + lateness(facts))

    database, name = facts.observed.database, names.database(facts.event.name)
    if facts.stage in {Stage.INERT, Stage.REMOVE}:
        passed = "DB1 was never created: the window had passed"
        inert = facts.stage is Stage.INERT
        return ready(False, DatabaseReason.REMOVED, passed if inert else "DB1 is not needed any more, and is removed")
    if facts.stage is Stage.WAIT:
        return ready(False, DatabaseReason.NOT_CREATED, _waits(facts))
    if ("StatefulSet", name) not in facts.observed.children:
        return ready(
            False, DatabaseReason.NOT_CREATED, f"StatefulSet {name} does not exist yet; the operator creates it"
        )
    if not database.reachable:
        return ready(False, DatabaseReason.STARTING, database.error or f"waiting for pod {name}-0 to become ready")
    if why := versions.unsupported(facts.event, facts.observed):
        return ready(False, DatabaseReason.UNSUPPORTED, why)
    if not database.migrated:
        return ready(False, DatabaseReason.MIGRATING, "the operator is installing pgmq and the schema intake")
    if not database.ready:
        copying = "the rows of spec.inventory are being checked, or copied into DB1"
        seeding = "slots are being seeded; after a crash of DB1, its claims as well"
        return ready(False, DatabaseReason.SEEDING, copying if facts.observed.inventory.checking else seeding)
    notes = [
        versions.note(facts.event, facts.observed),
        database_pod.waiting(facts.event, facts.observed, facts.now),
    ]
    if (known := database.connections) and known.claimers_at_limit:
        full = f"claimers have all {known.limit} connections that they may have, and more are refused"
        notes.append(f"{full}: see docs/tuning.md")
    return ready(True, DatabaseReason.SEEDED, "; ".join(["DB1 answers claims", *filter(None, notes)]))


def _intake_open(facts: Facts) -> Condition:
    def intake(value: bool, reason: IntakeReason, message: str) -> Condition:
        return Condition(ConditionType.INTAKE_OPEN, value, reason, message)

    spec = facts.event.spec
    if facts.stage is Stage.INERT:
        passed = "the window had passed before any object was created, so nothing is created; to sell, correct it"
        return intake(False, IntakeReason.WINDOW_PASSED, passed)
    if (
        facts.stage is Stage.REMOVE
        and memory.report(facts.event) is None
        and not has_to_be_proven(facts.event, facts.observed, facts.now)
    ):
        return intake(False, IntakeReason.NEVER_OPENED, "the event ended before any claim was possible")
    if facts.stage is Stage.INVALID and not was_claimable(facts.event, facts.observed):
        return intake(
            False, IntakeReason.NOT_READY, "the spec is invalid, and no slot was ever seeded; correct the spec"
        )
    if spec is None or facts.stage in {Stage.DRAIN, Stage.KEEP, Stage.REMOVE}:
        return intake(False, IntakeReason.WINDOW_CLOSED, "no more claims are accepted")
    if facts.stage is not Stage.WAIT and not facts.observed.database.ready:
        return intake(False, IntakeReason.NOT_READY, "DB1 cannot answer claims yet; DatabaseReady says why")
    if facts.now < spec.window.opens_at:
        return intake(False, IntakeReason.NOT_YET_OPEN, f"the window opens at {spec.window.opens_at.isoformat()}")
    if spec.paused:
        holds = "; holds may still be confirmed, and still end" if spec.checkout else ""
        stops = f"spec.paused stops claims and commits{holds}; set it to false to go on"
        return intake(False, IntakeReason.PAUSED, stops)
    return intake(True, IntakeReason.WINDOW_OPEN, f"claims are accepted until {spec.window.closes_at.isoformat()}")


def _scaling_active(facts: Facts) -> Condition:
    decision = facts.scaling
    if decision is None:
        stopped = "no bridge is wanted: the window is not near, DB1 is not ready, or every claim is settled"
        return Condition(ConditionType.SCALING_ACTIVE, False, ScalingReason.STOPPED, stopped)
    value = None if decision.reason is ScalingReason.DEPTH_UNKNOWN else True
    return Condition(ConditionType.SCALING_ACTIVE, value, decision.reason, decision.message)


def _drained(facts: Facts) -> Condition:
    if facts.stage is Stage.INERT:
        return Condition(ConditionType.DRAINED, True, DrainReason.COMPLETED, "there was nothing to drain")
    done = facts.drain is DrainReason.COMPLETED
    return Condition(ConditionType.DRAINED, done, facts.drain, _drain_message(facts))


def _drain_message(facts: Facts) -> str:
    event, database, proof = facts.event, facts.observed.database, facts.observed.proof
    counting = "the operator is counting the claims in DB1 and in the ledger"
    notes = _paused(facts) + _collecting(facts)
    messages = {
        DrainReason.NOT_STARTED: "the sale has not ended",
        DrainReason.INTAKE_CLOSED: f"{_sealing(facts)}{_collecting(facts)}",
        DrainReason.HOLDS_PENDING: f"{_held(facts)}{notes if database.depth else _collecting(facts)}",
        DrainReason.QUEUE_DRAINING: f"{database.depth} intents are not committed yet{notes}",
        DrainReason.VERIFYING: facts.observed.proof_error or counting,
        DrainReason.DEAD_LETTERS_BLOCK: (
            f"{database.dead_letters} dead letters have to be replayed or discarded first: "
            f"`intake-admin dead-letters list {event.name}`"
        ),
        DrainReason.PROOF_FAILED: "; ".join([*proof.failures, *_contradictions(facts)])[:1500] if proof else "",
        DrainReason.KEPT: f"every claim is settled; DB1 is kept, sealed, until {_kept_until(facts)}",
        DrainReason.BRIDGES_STOPPED: "the bridges are being removed",
        DrainReason.DATABASE_STOPPED: "DB1 is being removed",
        DrainReason.VOLUMES_REMOVED: "volume, Services and Secrets are being removed",
        DrainReason.COMPLETED: "everything is removed" + (" but the report" if memory.report(event) else ""),
    }
    return messages[facts.drain]


def _sealing(facts: Facts) -> str:
    """A DB1 that does not answer may be sealed already: only its last counts are known, and when it gave them."""
    event, database = facts.event, facts.observed.database
    if database.reachable:
        return "DB1 is being sealed"
    last, at = memory.counts(event, facts.observed, facts.now), event.status.get("countedAt")
    queued, why = (last.get("queue") or {}).get("depth"), f": {database.error}" if database.error else ""
    known = f"; at {at}, when it last answered, {queued} intents were queued" if at and queued is not None else ""
    return f"DB1 does not answer, and cannot be sealed or drained before it does{why}{known}"


def _held(facts: Facts) -> str:
    """How many holds the drain waits for, and until when."""
    database = facts.observed.database
    held, ends, queued = database.held, database.last_hold_ends, database.depth
    count = "1 claim is held" if held == 1 else f"{held} claims are held"
    until = f"the last until {ends.isoformat(timespec='seconds')}" if ends else ""
    if ends and ends <= facts.now:
        message = f"{count}, {until}, which is over: a bridge ends them as soon as one runs"
    else:
        message = f"{count} and may still be confirmed, {until}"
    return f"{message}; {queued} intents are not committed yet" if queued else message


def _kept_until(facts: Facts) -> str:
    spec = facts.event.spec
    return keep_until(spec).isoformat(timespec="seconds") if spec and facts.stage is Stage.KEEP else ""


def _contradictions(facts: Facts) -> list[str]:
    """The claims behind a failed proof, once a comparison has found them."""
    known = facts.observed.consistency
    return [known.told] if known and known.agrees is False else []


def _paused(facts: Facts) -> str:
    spec = facts.event.spec
    return "; spec.paused keeps them in the queue: set it to false" if spec and spec.paused else ""


def _collecting(facts: Facts) -> str:
    ways = {"foregroundDeletion": "foreground", "orphan": "orphan"}
    found = [ways[each] for each in facts.event.finalizers if each in COLLECTING]
    if not found:
        return ""
    return (
        f"; the event was deleted with --cascade={found[0]}: the garbage collector removes its owner references, but "
        "DB1 and the bridges stay until the drain has ended"
    )


def _ledger_ready(facts: Facts) -> Condition:
    target = facts.event.spec.commit_target if facts.event.spec else None
    return Condition(ConditionType.LEDGER_READY, *ledger_ready(target, facts.observed, facts.findings))


def _degraded(facts: Facts) -> Condition:
    if not facts.findings:
        return Condition(ConditionType.DEGRADED, False, ALL_GOOD, "no problem was found")
    message = " | ".join(finding.message for finding in facts.findings)
    return Condition(ConditionType.DEGRADED, True, facts.findings[0].reason, message[:4000])


def _ledger_consistent(facts: Facts) -> Condition:
    found = verdict(facts.event, facts.observed, facts.stage)
    return Condition(ConditionType.LEDGER_CONSISTENT, found.agrees, found.reason, found.told[:2000])


def _pool_unused(facts: Facts) -> Condition:
    """The pool is checked until the first slot is seeded; afterwards the last answer stands."""
    check = facts.observed.pool
    if check is not None:
        return Condition(ConditionType.POOL_UNUSED, _POOL_UNUSED.get(check.reason), check.reason, check.message)
    before = of_type(facts.event.status, ConditionType.POOL_UNUSED)
    if before is None:
        unasked = "the ledger was not asked whether the pool was sold before"
        return Condition(ConditionType.POOL_UNUSED, None, PoolReason.NOT_CHECKED, unasked)
    value = {"True": True, "False": False}.get(before["status"])
    asked = _ASKED_BEFORE if value else ""
    message = before["message"].removesuffix(asked) + asked
    return Condition(ConditionType.POOL_UNUSED, value, before["reason"], message)


def _preflight_passed(facts: Facts) -> Condition:
    return Condition(
        ConditionType.PREFLIGHT_PASSED, *preflight.passed(facts.event, facts.observed.preflight, facts.stage)
    )


def _stamped(condition: Condition, facts: Facts) -> dict[str, Any]:
    before = of_type(facts.event.status, condition.type)
    value = {True: "True", False: "False", None: "Unknown"}[condition.status]
    since = before["lastTransitionTime"] if before and before["status"] == value else None
    return {
        "type": condition.type.value,
        "status": value,
        "reason": str(condition.reason),
        "message": condition.message,
        "observedGeneration": condition.generation or facts.event.generation,
        "lastTransitionTime": since or facts.now.isoformat(timespec="seconds"),
    }
