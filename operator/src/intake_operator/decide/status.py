"""The status of an event, rebuilt on every pass from what was seen and what `memory` keeps of the old one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from intake_operator import names
from intake_operator.children import access
from intake_operator.children.kinship import COLLECTING
from intake_operator.decide import memory
from intake_operator.decide.consistency import verdict
from intake_operator.decide.contract import ledger_ready
from intake_operator.decide.health import Trouble
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage, has_to_be_proven, keep_time, was_claimable
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import (
    ALL_GOOD,
    ConditionType,
    DatabaseReason,
    DrainReason,
    IntakeReason,
    Phase,
    PoolReason,
    ScalingReason,
)

# What a reason of PoolUnused says; the others say that nobody knows.
_POOL_WORDS: Final = {PoolReason.UNUSED: True, PoolReason.USED_BEFORE: False, PoolReason.IN_USE: False}


@dataclass(frozen=True)
class Facts:
    """What the status is made of.

    `drain` is set by the teardown, `scaling` once bridges are wanted, `claimable` (the identity of the DB1 that is
    claimable from this pass on) while there is a DB1.
    """

    event: Event
    observed: Observed
    stage: Stage
    now: datetime
    problems: tuple[Trouble, ...] = ()
    drain: DrainReason = DrainReason.NOT_STARTED
    scaling: Decision | None = None
    claimable: str = ""

    @property
    def settled(self) -> bool:
        """Every claim is accounted for, or there is none: others may remove what is left."""
        return self.stage in {Stage.KEEP, Stage.RELEASE}


@dataclass(frozen=True)
class Condition:
    """A metav1.Condition without its bookkeeping."""

    type: ConditionType
    status: bool | None
    reason: str
    message: str


def build(facts: Facts) -> dict[str, Any]:
    """The whole status, ready for server-side apply: what is left out is removed."""
    conditions = [
        _ready(facts),
        _database_ready(facts),
        _intake_open(facts),
        _scaling_active(facts),
        _drained(facts),
        _ledger_ready(facts),
        _degraded(facts),
        _ledger_consistent(facts),
        _pool_unused(facts),
    ]
    event, observed = facts.event, facts.observed
    status = {
        "observedGeneration": event.generation,
        "phase": phase(facts).value,
        "conditions": [_stamp(c, facts) for c in conditions],
        "database": memory.database(event, observed, facts.claimable or memory.identity(event, observed)),
        "recovery": memory.recovery(event, observed),
        "report": memory.report(event),
        **_numbers(facts),
    }
    return {name: value for name, value in status.items() if value is not None}


def phase(facts: Facts) -> Phase:
    """One word for the Phase column."""
    match facts.stage:
        case Stage.INERT:
            return Phase.COMPLETED
        case Stage.INVALID:
            return Phase.FAILED
        case Stage.RELEASE:
            return Phase.COMPLETED if facts.drain is DrainReason.COMPLETED else Phase.DRAINING
        case Stage.DRAIN | Stage.KEEP:
            return Phase.DRAINING
        case Stage.SERVE:
            return _serving_phase(facts)


def _serving_phase(facts: Facts) -> Phase:
    assert facts.event.spec is not None
    if not facts.observed.children:
        return Phase.PENDING
    if not facts.observed.database.ready:
        return Phase.PROVISIONING
    return Phase.OPEN if facts.now >= facts.event.spec.window.opens_at else Phase.SCHEDULED


def _ready(facts: Facts) -> Condition:
    def ready(value: bool, reason: str, message: str) -> Condition:
        return Condition(ConditionType.READY, value, reason, message)

    if facts.problems:
        first = facts.problems[0]
        return ready(False, first.reason, first.message)
    if facts.stage is Stage.SERVE and not facts.observed.database.ready:
        return ready(False, "Provisioning", "DB1 is being made ready")
    return ready(True, phase(facts).value, "everything is as it should be at this time")


def _database_ready(facts: Facts) -> Condition:
    def ready(value: bool, reason: DatabaseReason, message: str) -> Condition:
        return Condition(ConditionType.DATABASE_READY, value, reason, message)

    database = facts.observed.database
    if facts.stage in {Stage.INERT, Stage.RELEASE}:
        return ready(False, DatabaseReason.REMOVED, "DB1 is not needed any more")
    if ("StatefulSet", names.database(facts.event.name)) not in facts.observed.children:
        return ready(False, DatabaseReason.NOT_CREATED, "DB1 is about to be created")
    if not database.reachable:
        return ready(False, DatabaseReason.STARTING, database.error or "waiting for DB1's pod")
    if not database.migrated:
        return ready(False, DatabaseReason.MIGRATING, "installing pgmq and the intake schema")
    if not database.ready:
        return ready(False, DatabaseReason.SEEDING, "seeding slots; after a crash also what was claimed")
    if (known := database.connections) and known.claimers_at_limit:
        told = f"claimers have all {known.limit} connections that they may have, and more are refused"
        return ready(True, DatabaseReason.SEEDED, f"DB1 answers claims; {told}: docs/tuning.md")
    return ready(True, DatabaseReason.SEEDED, "DB1 answers claims")


def _intake_open(facts: Facts) -> Condition:
    def intake(value: bool, reason: IntakeReason, message: str) -> Condition:
        return Condition(ConditionType.INTAKE_OPEN, value, reason, message)

    spec = facts.event.spec
    if facts.stage is Stage.INERT:
        return intake(
            False, IntakeReason.WINDOW_PASSED, "the window had passed before anything was made; nothing is created"
        )
    if (
        facts.stage is Stage.RELEASE
        and memory.report(facts.event) is None
        and not has_to_be_proven(facts.event, facts.observed, facts.now)
    ):
        return intake(False, IntakeReason.NEVER_OPENED, "no claim was ever possible")
    if facts.stage is Stage.INVALID and not was_claimable(facts.event, facts.observed):
        return intake(False, IntakeReason.NOT_READY, "the spec cannot be understood, and nothing was ever for sale")
    if spec is None or facts.stage in {Stage.DRAIN, Stage.KEEP, Stage.RELEASE}:
        return intake(False, IntakeReason.WINDOW_CLOSED, "no more claims are accepted")
    if not facts.observed.database.ready:
        return intake(False, IntakeReason.NOT_READY, "DB1 is not ready to answer claims")
    if facts.now < spec.window.opens_at:
        return intake(False, IntakeReason.NOT_YET_OPEN, f"opens at {spec.window.opens_at.isoformat()}")
    if spec.paused:
        return intake(False, IntakeReason.PAUSED, "spec.paused is true")
    return intake(True, IntakeReason.WINDOW_OPEN, f"open until {spec.window.closes_at.isoformat()}")


def _scaling_active(facts: Facts) -> Condition:
    decision = facts.scaling
    if decision is None:
        return Condition(
            ConditionType.SCALING_ACTIVE, False, ScalingReason.STOPPED, "no bridges are wanted at this time"
        )
    value = None if decision.reason is ScalingReason.DEPTH_UNKNOWN else True
    return Condition(ConditionType.SCALING_ACTIVE, value, decision.reason, decision.message)


def _drained(facts: Facts) -> Condition:
    if facts.stage is Stage.INERT:
        return Condition(ConditionType.DRAINED, True, DrainReason.COMPLETED, "there was nothing to drain")
    database, proof = facts.observed.database, facts.observed.proof
    account = facts.observed.proof_error or "the account of this database is being made"
    messages = {
        DrainReason.NOT_STARTED: "the sale is not over",
        DrainReason.INTAKE_CLOSED: "closing the intake"
        + ("" if database.reachable else f"; DB1 is out of reach: {database.error}")
        + _collecting(facts),
        DrainReason.QUEUE_DRAINING: f"{database.depth} intents are left to commit{_paused(facts)}{_collecting(facts)}",
        DrainReason.VERIFYING: account,
        DrainReason.DEAD_LETTERS_BLOCK: f"{database.dead_letters} dead letters must be replayed or discarded first",
        DrainReason.PROOF_FAILED: "; ".join([*proof.failures, *_contradictions(facts)])[:1500] if proof else "",
        DrainReason.KEPT: f"every claim is accounted for; DB1 is kept, sealed, until {_kept(facts)}",
        DrainReason.BRIDGES_STOPPED: "removing the bridges",
        DrainReason.DATABASE_STOPPED: "removing DB1",
        DrainReason.VOLUMES_REMOVED: "removing volume, Services and Secrets",
        DrainReason.COMPLETED: "nothing is left but the report" if memory.report(facts.event) else "nothing is left",
    }
    done = facts.drain is DrainReason.COMPLETED
    return Condition(ConditionType.DRAINED, done, facts.drain, messages[facts.drain])


def _ledger_ready(facts: Facts) -> Condition:
    target = facts.event.spec.commit_target if facts.event.spec else None
    return Condition(ConditionType.LEDGER_READY, *ledger_ready(target, facts.observed, facts.problems))


def _contradictions(facts: Facts) -> list[str]:
    """The claims behind a proof that failed, once they have been compared one by one."""
    known = facts.observed.consistency
    return [known.message] if known and known.agrees is False else []


def _paused(facts: Facts) -> str:
    spec = facts.event.spec
    return "; spec.paused holds them: set it to false" if spec and spec.paused else ""


def _collecting(facts: Facts) -> str:
    ways = {"foregroundDeletion": "foreground", "orphan": "orphan"}
    found = [ways[each] for each in facts.event.finalizers if each in COLLECTING]
    if not found:
        return ""
    return (
        f"; the event was deleted with --cascade={found[0]}: the garbage collector takes its owner references away, "
        "DB1 and the bridges stay until the drain has ended"
    )


def _kept(facts: Facts) -> str:
    spec = facts.event.spec
    if facts.stage is not Stage.KEEP or spec is None:
        return ""
    return (spec.window.closes_at + keep_time(spec)).isoformat(timespec="seconds")


def _pool_unused(facts: Facts) -> Condition:
    """Asked before the first slot is seeded, and then no more: what was said then stands."""
    check = facts.observed.pool
    if check is not None:
        return Condition(ConditionType.POOL_UNUSED, _POOL_WORDS.get(check.reason), check.reason, check.message)
    before = next(
        (c for c in facts.event.status.get("conditions") or () if c["type"] == ConditionType.POOL_UNUSED), None
    )
    if before is None:
        return Condition(
            ConditionType.POOL_UNUSED, None, PoolReason.NOT_CHECKED, "the ledger was not asked about the pool"
        )
    value = {"True": True, "False": False}.get(before["status"])
    return Condition(ConditionType.POOL_UNUSED, value, before["reason"], before["message"])


def _degraded(facts: Facts) -> Condition:
    if not facts.problems:
        return Condition(ConditionType.DEGRADED, False, ALL_GOOD, "nothing is wrong")
    message = " | ".join(t.message for t in facts.problems)
    return Condition(ConditionType.DEGRADED, True, facts.problems[0].reason, message[:4000])


def _ledger_consistent(facts: Facts) -> Condition:
    said = verdict(facts.event, facts.observed, facts.stage)
    return Condition(ConditionType.LEDGER_CONSISTENT, said.agrees, said.reason, said.message[:2000])


def _numbers(facts: Facts) -> dict[str, Any]:
    """The counts: DB1's own while it is there, the report's afterwards."""
    event, observed = facts.event, facts.observed
    if memory.report(event) is not None:
        return _reported(facts)
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    numbers: dict[str, Any] = {
        "bridge": {
            "desired": facts.scaling.replicas if facts.scaling else 0,
            "ready": int((deployment or {}).get("status", {}).get("readyReplicas") or 0),
        },
        "nextTransitionTime": _next_transition(facts),
        "connection": _connection(facts),
        **memory.counts(event, observed, facts.now),
    }
    if (database := observed.database.status) is not None and not memory.volume_lost(event, observed):
        numbers |= {
            "claimsPerSecond": database.claims_per_second,
            "commitsPerSecond": database.commits_per_second,
            "effectiveBatchSize": min((worker.batch_size for worker in database.workers), default=None),
        }
    return {name: value for name, value in numbers.items() if value is not None}


def _connection(facts: Facts) -> dict[str, Any] | None:
    event = facts.event
    if facts.stage is Stage.INERT or names.claimer_secret(event.name) not in facts.observed.secret_fingerprints:
        return None
    return {"secretName": names.claimer_secret(event.name), "host": access.host(event)}


def _reported(facts: Facts) -> dict[str, Any]:
    report = memory.report(facts.event) or {}
    ends = {name: report[name] for name in ("committed", "voided", "released") if name in report}
    numbers: dict[str, Any] = {"bridge": {"desired": 0, "ready": 0}, "connection": _connection(facts), **ends}
    if facts.stage is Stage.KEEP:
        numbers["nextTransitionTime"] = _kept(facts)
    if "claims" in report:
        dead = int(report.get("deadLetters", 0))
        numbers["queue"] = {
            "depth": int(report.get("queued", 0)),
            "inFlight": 0,
            "oldestSeconds": 0,
            "deadLetters": dead,
        }
        if facts.event.spec:
            size, sold = facts.event.spec.inventory_size, int(report["committed"])
            reserved = int(report.get("queued", 0)) + dead
            left = {"available": size - sold - reserved, "reserved": reserved, "consumed": sold}
            numbers["inventory"] = {"size": size, **left}
    return {name: value for name, value in numbers.items() if value is not None}


def _next_transition(facts: Facts) -> str | None:
    spec = facts.event.spec
    if spec is None or facts.stage is not Stage.SERVE:
        return None
    moments = (spec.window.opens_at, spec.window.closes_at)
    return next((m.isoformat() for m in moments if m > facts.now), None)


def _before(facts: Facts, kind: ConditionType) -> dict[str, Any] | None:
    """A condition of the old status."""
    return next((c for c in facts.event.status.get("conditions") or () if c["type"] == kind), None)


def _stamp(condition: Condition, facts: Facts) -> dict[str, Any]:
    before = _before(facts, condition.type)
    value = {True: "True", False: "False", None: "Unknown"}[condition.status]
    since = before["lastTransitionTime"] if before and before["status"] == value else None
    return {
        "type": condition.type.value,
        "status": value,
        "reason": str(condition.reason),
        "message": condition.message,
        "observedGeneration": facts.event.generation,
        "lastTransitionTime": since or facts.now.isoformat(timespec="seconds"),
    }
