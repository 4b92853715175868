"""The status of an event, rebuilt on every pass from what was seen. The old status lends only its transition times."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.build import access
from intake_operator.decide.consistency import verdict
from intake_operator.decide.contract import ledger_ready
from intake_operator.decide.health import Trouble
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage, was_claimable
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reasons import ALL_GOOD, ConditionType, Database, Drain, Intake, Phase, Scaling


@dataclass(frozen=True)
class Facts:
    """What the status is made of. `drain` is set by the teardown, `scaling` once bridges are wanted."""

    event: Event
    observed: Observed
    stage: Stage
    now: datetime
    problems: tuple[Trouble, ...] = ()
    drain: Drain = Drain.NOT_STARTED
    scaling: Decision | None = None


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
    ]
    status = {
        "observedGeneration": facts.event.generation,
        "phase": phase(facts).value,
        "conditions": [_stamp(c, facts) for c in conditions],
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
            return Phase.COMPLETED if facts.drain is Drain.COMPLETED else Phase.DRAINING
        case Stage.DRAIN:
            return Phase.DRAINING
        case Stage.SERVE:
            return _serving_phase(facts)


def _serving_phase(facts: Facts) -> Phase:
    assert facts.event.spec is not None
    if not facts.observed.children:
        return Phase.PENDING
    if not facts.observed.engine.ready:
        return Phase.PROVISIONING
    return Phase.OPEN if facts.now >= facts.event.spec.window.opens_at else Phase.SCHEDULED


def _ready(facts: Facts) -> Condition:
    def ready(value: bool, reason: str, message: str) -> Condition:
        return Condition(ConditionType.READY, value, reason, message)

    if facts.problems:
        first = facts.problems[0]
        return ready(False, first.reason, first.message)
    if facts.stage is Stage.SERVE and not facts.observed.engine.ready:
        return ready(False, "Provisioning", "DB1 is being made ready")
    return ready(True, phase(facts).value, "everything is as it should be at this time")


def _database_ready(facts: Facts) -> Condition:
    def database(value: bool, reason: Database, message: str) -> Condition:
        return Condition(ConditionType.DATABASE_READY, value, reason, message)

    engine = facts.observed.engine
    if facts.stage in {Stage.INERT, Stage.RELEASE}:
        return database(False, Database.RELEASED, "DB1 is not needed any more")
    if ("StatefulSet", names.database(facts.event.name)) not in facts.observed.children:
        return database(False, Database.NOT_CREATED, "DB1 is about to be created")
    if not engine.reachable:
        return database(False, Database.STARTING, engine.error or "waiting for DB1's pod")
    if not engine.migrated:
        return database(False, Database.MIGRATING, "installing pgmq and the intake schema")
    if not engine.ready:
        return database(False, Database.SEEDING, "seeding slots; after a crash also the holds")
    return database(True, Database.SEEDED, "DB1 answers claims")


def _intake_open(facts: Facts) -> Condition:
    def intake(value: bool, reason: Intake, message: str) -> Condition:
        return Condition(ConditionType.INTAKE_OPEN, value, reason, message)

    spec = facts.event.spec
    if facts.stage is Stage.INERT:
        return intake(False, Intake.WINDOW_PASSED, "the window had passed before anything was made; nothing is created")
    if (
        facts.stage is Stage.RELEASE
        and facts.observed.report is None
        and not was_claimable(facts.event, facts.observed)
    ):
        return intake(False, Intake.NEVER_OPENED, "no claim was ever possible")
    if facts.stage is Stage.INVALID and not was_claimable(facts.event, facts.observed):
        # Not WindowClosed: `was_claimable` would read it as a sale that has to be proven.
        return intake(False, Intake.NOT_READY, "the spec cannot be understood, and nothing was ever for sale")
    if spec is None or facts.stage in {Stage.DRAIN, Stage.RELEASE}:
        return intake(False, Intake.WINDOW_CLOSED, "no more claims are accepted")
    if not facts.observed.engine.ready:
        return intake(False, Intake.NOT_READY, "DB1 is not ready to answer claims")
    if facts.now < spec.window.opens_at:
        return intake(False, Intake.NOT_YET_OPEN, f"opens at {spec.window.opens_at.isoformat()}")
    if spec.paused:
        return intake(False, Intake.PAUSED, "spec.paused is true")
    return intake(True, Intake.WINDOW_OPEN, f"open until {spec.window.closes_at.isoformat()}")


def _scaling_active(facts: Facts) -> Condition:
    decision = facts.scaling
    if decision is None:
        return Condition(ConditionType.SCALING_ACTIVE, False, Scaling.STOPPED, "no bridges are wanted at this time")
    value = None if decision.reason is Scaling.DEPTH_UNKNOWN else True
    return Condition(ConditionType.SCALING_ACTIVE, value, decision.reason, decision.message)


def _drained(facts: Facts) -> Condition:
    if facts.stage is Stage.INERT:
        return Condition(ConditionType.DRAINED, True, Drain.COMPLETED, "there was nothing to drain")
    engine, proof = facts.observed.engine, facts.observed.proof
    account = facts.observed.proof_error or "the account of this engine is being made"
    messages = {
        Drain.NOT_STARTED: "the sale is not over",
        Drain.INTAKE_CLOSED: "closing the intake"
        + ("" if engine.reachable else f"; DB1 is out of reach: {engine.error}"),
        Drain.QUEUE_DRAINING: f"{engine.depth} intents are left to commit{_paused(facts)}",
        Drain.VERIFYING: account,
        Drain.DEAD_LETTERS_BLOCK: f"{engine.dead_letters} dead letters must be replayed or discarded first",
        Drain.PROOF_FAILED: "; ".join([*proof.failures, *_contradictions(facts)])[:1500] if proof else "",
        Drain.BRIDGES_STOPPED: "removing the bridges",
        Drain.DATABASE_STOPPED: "removing DB1",
        Drain.VOLUMES_RELEASED: "removing volume, Services and Secrets",
        Drain.COMPLETED: "nothing is left but the report" if facts.observed.report else "nothing is left",
    }
    done = facts.drain is Drain.COMPLETED
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
    if facts.observed.report is not None:
        return _reported(facts.observed.report)
    event, observed = facts.event, facts.observed
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    numbers: dict[str, Any] = {
        "bridge": {
            "desired": facts.scaling.replicas if facts.scaling else 0,
            "ready": int((deployment or {}).get("status", {}).get("readyReplicas") or 0),
        },
        "nextTransitionTime": _next_transition(facts),
    }
    if facts.stage is not Stage.INERT and names.claimer_secret(event.name) in observed.secret_fingerprints:
        numbers["connection"] = {"secretName": names.claimer_secret(event.name), "host": access.host(event)}
    if (engine := observed.engine.status) is not None:
        numbers |= {
            "inventory": engine["inventory"],
            "queue": engine["queue"],
            "committed": engine["committed"],
            "voided": engine["voided"],
            "released": engine["released"],
            "claimsPerSecond": engine["claimsPerSecond"],
            "commitsPerSecond": engine["commitsPerSecond"],
            "effectiveBatchSize": min((w["batchSize"] for w in engine["workers"]), default=None),
        }
    return {name: value for name, value in numbers.items() if value is not None}


def _reported(report: Manifest) -> dict[str, Any]:
    data: dict[str, str] = report["data"]
    summary: dict[str, Any] = {"configMapName": report["metadata"]["name"], "ledgerVerified": data["ledger"]}
    numbers: dict[str, Any] = {"bridge": {"desired": 0, "ready": 0}, "report": summary}
    if "claims" in data:
        ends = {name: int(data[name]) for name in ("committed", "voided", "released")}
        summary |= {"claims": int(data["claims"])} | ends
        numbers |= ends
        numbers["queue"] = {"depth": 0, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
        if "inventorySize" in data:
            size, sold = int(data["inventorySize"]), ends["committed"]
            numbers["inventory"] = {"size": size, "available": size - sold, "reserved": 0, "consumed": sold}
    return numbers


def _next_transition(facts: Facts) -> str | None:
    spec = facts.event.spec
    if spec is None or facts.stage is not Stage.SERVE:
        return None
    moments = (spec.window.opens_at, spec.window.closes_at)
    return next((m.isoformat() for m in moments if m > facts.now), None)


def _stamp(condition: Condition, facts: Facts) -> dict[str, Any]:
    before = next((c for c in facts.event.status.get("conditions") or () if c["type"] == condition.type), None)
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
