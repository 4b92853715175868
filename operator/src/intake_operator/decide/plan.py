"""From what is wanted and what was seen to what is done next: the whole operator, without I/O."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.build import access, bridge, database, protection, report
from intake_operator.build.bridge import BridgeImage
from intake_operator.decide import scaling, status
from intake_operator.decide.health import problems, stuck_database_pod
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage, abandoned, mark, stage_of, volume_lost
from intake_operator.decide.status import Facts
from intake_operator.decide.steps import (
    AddFinalizer,
    Apply,
    Configure,
    CreateCredentials,
    Delete,
    Migrate,
    RemoveFinalizer,
    ReplaceDatabasePod,
    ScaleBridges,
    Seal,
    Seed,
    SetLogins,
    Step,
    Stock,
)
from intake_operator.model.observed import Engine, Event, Observed
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import Drain

# Bridges start this long before the window opens, so that the first buyer does not wait for an image.
WARM_UP: Final = timedelta(seconds=60)

# How soon to look again, in seconds, where no watch event would tell: DB1's numbers and Secrets are only seen by
# looking.
SOON: Final = 1.0
WHILE_OPEN: Final = 2.0
WHILE_SCHEDULED: Final = 10.0

# Order of deletion once the bridges and DB1 are stopped; Secrets are looked up by name, the rest by label.
REMAINS: Final = ("PersistentVolumeClaim", "Service", "NetworkPolicy", "PodDisruptionBudget")


@dataclass(frozen=True)
class Plan:
    """The steps in their order, the status to write before the first of them, and when to look again (seconds)."""

    steps: tuple[Step, ...]
    status: dict[str, Any]
    requeue_after: float | None


def plan(event: Event, observed: Observed, image: BridgeImage, now: datetime) -> Plan:
    """Decide the next steps for one event. Pure: the same arguments give the same plan."""
    stage = stage_of(event, observed, now)
    facts = Facts(event, observed, stage, now, problems=problems(event, observed, stage, now))
    match stage:
        case Stage.INERT | Stage.INVALID:
            return Plan((), status.build(facts), None)
        case Stage.SERVE:
            return _serve(facts, image)
        case Stage.DRAIN:
            return _drain(facts, image)
        case Stage.RELEASE:
            return _release(facts)


def _serve(facts: Facts, image: BridgeImage) -> Plan:
    event, observed, now = facts.event, facts.observed, facts.now
    assert event.spec is not None
    if names.FINALIZER not in event.finalizers:
        return Plan((AddFinalizer(),), status.build(facts), SOON)
    steps = [
        *_children(event, event.spec, observed, now, serving=observed.engine.ready),
        *_engine(event, event.spec, observed),
    ]
    # Added to now: Go's zero time, 0001-01-01, is a way to say `at once`, and nothing can be taken from it.
    warm = now + WARM_UP >= event.spec.window.opens_at or bool(observed.engine.depth)
    if observed.engine.ready and warm:
        decision, bridges = _bridges(event, event.spec, observed, image, now)
        facts = replace(facts, scaling=decision)
        steps += bridges
    if not observed.engine.ready:
        again = SOON
    elif now >= event.spec.window.opens_at:
        again = WHILE_OPEN
    else:
        again = min(WHILE_SCHEDULED, _seconds_until(_next_boundary(event.spec, now), now))
    return Plan(tuple(steps), status.build(facts), again)


def _drain(facts: Facts, image: BridgeImage) -> Plan:
    event, observed, now = facts.event, facts.observed, facts.now
    if abandoned(event):
        return _finish(replace(facts, drain=Drain.VERIFYING), proof_given=False)
    steps: list[Step] = []
    if event.spec is not None:
        steps += _children(event, event.spec, observed, now, serving=True)
        steps += _engine(event, event.spec, observed)
        decision, bridges = _bridges(event, event.spec, observed, image, now)
        facts = replace(facts, scaling=decision)
        steps += bridges if observed.engine.reachable else []
    engine = observed.engine
    if not engine.sealed:
        # Without a deletion the window's end is DB1's to declare; its clock and ours need not agree.
        if engine.status is not None and (event.deleting or engine.window_closed):
            steps.append(Seal("deleted" if event.deleting else "the window closed"))
        return Plan(tuple(steps), status.build(replace(facts, drain=Drain.INTAKE_CLOSED)), SOON)
    if engine.depth:
        return Plan(tuple(steps), status.build(replace(facts, drain=Drain.QUEUE_DRAINING)), SOON)
    if engine.dead_letters:
        return Plan(tuple(steps), status.build(replace(facts, drain=Drain.DEAD_LETTERS_BLOCK)), WHILE_OPEN)
    if observed.proof is None:
        return Plan(tuple(steps), status.build(replace(facts, drain=Drain.VERIFYING)), SOON)
    if observed.proof.failures:
        return Plan(tuple(steps), status.build(replace(facts, drain=Drain.PROOF_FAILED)), WHILE_OPEN)
    return _finish(replace(facts, drain=Drain.VERIFYING), proof_given=True)


def _finish(facts: Facts, *, proof_given: bool) -> Plan:
    manifest = report.report(facts.event, facts.observed.proof if proof_given else None, facts.now)
    return Plan((Apply(manifest),), status.build(facts), 0.0)


def _release(facts: Facts) -> Plan:
    event, observed = facts.event, facts.observed

    def there(kind: str, name: str, component: str) -> bool:
        running = any(p["metadata"]["labels"].get("app.kubernetes.io/component") == component for p in observed.pods)
        return (kind, name) in observed.children or running

    steps: list[Step] = []
    if there("Deployment", names.bridge(event.name), "bridge"):
        state = Drain.BRIDGES_STOPPED
        if ("Deployment", names.bridge(event.name)) in observed.children:
            steps = [Delete("Deployment", names.bridge(event.name))]
    elif there("StatefulSet", names.database(event.name), "database"):
        state = Drain.DATABASE_STOPPED
        if ("StatefulSet", names.database(event.name)) in observed.children:
            steps = [Delete("StatefulSet", names.database(event.name))]
    elif remains := [key for key in observed.children if key[0] in REMAINS]:
        state = Drain.VOLUMES_RELEASED
        steps = [Delete(*key) for key in remains]
    elif observed.secret_fingerprints:
        state = Drain.VOLUMES_RELEASED
        steps = [Delete("Secret", name) for name in observed.secret_fingerprints]
    else:
        state = Drain.COMPLETED
        if names.FINALIZER in event.finalizers:
            steps = [RemoveFinalizer()]
    done = state is Drain.COMPLETED
    return Plan(tuple(steps), status.build(replace(facts, drain=state)), None if done else SOON)


def _children(event: Event, spec: IntakeEventSpec, observed: Observed, now: datetime, *, serving: bool) -> list[Step]:
    # Marked in the pass that seeds it, and not before: an engine that waits for its inventory can be let go as it is.
    identity = mark(event, observed) or (observed.engine.identity if _stocked(spec, observed.engine) else "")
    steps: list[Step] = [
        CreateCredentials(name, role)
        for name, role in _credentials(event).items()
        if name not in observed.secret_fingerprints
    ]
    volume = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    wanted = [
        *access.services(event),
        protection.network_policy(event),
        protection.disruption_budget(event, serving=serving),
        database.volume_claim(event, spec.database, mark=identity, existing=volume),
        database.stateful_set(event, spec.database, mark=identity),
    ]
    steps += [Apply(manifest) for manifest in wanted if manifest is not None]
    if stuck := stuck_database_pod(event, observed, now):
        steps.append(ReplaceDatabasePod(*stuck))
    return steps


def _engine(event: Event, spec: IntakeEventSpec, observed: Observed) -> list[Step]:
    engine = observed.engine
    if not engine.reachable or volume_lost(event, observed):
        return []
    steps: list[Step] = []
    if not engine.migrated:
        steps.append(Migrate())
    logins = {role: name for name, role in _credentials(event).items() if role != names.SUPERUSER}
    stale = {
        role: name for role, name in logins.items() if engine.logins.get(role) != observed.secret_fingerprints.get(name)
    }
    if stale:
        steps.append(SetLogins(stale))
    config = spec.engine_config() | {"inventorySize": _size(spec, engine)}
    if engine.sealed:
        # The window and the inventory of a sealed engine are history; the throttle is not.
        config = {name: value for name, value in config.items() if name not in {"opensAt", "closesAt", "inventorySize"}}
    steps.append(Configure(config))
    inventory = engine.status["inventory"] if engine.status else {}
    seeded = sum(inventory.get(part, 0) for part in ("available", "reserved", "consumed"))
    grows = seeded < _size(spec, engine) and not engine.sealed
    if (not engine.ready or grows) and _stocked(spec, engine):
        steps.append(Seed())
    elif spec.inventory and observed.inventory.due:
        # Not in the pass of a rebuild: a million rows take seconds, and the crowd waits.
        steps.append(Stock(spec.inventory, spec.inventory_size))
    return steps


def _size(spec: IntakeEventSpec, engine: Engine) -> int:
    """The inventory to configure: growth waits for its rows, so that a crash meanwhile can be repaired."""
    if spec.inventory is None or engine.status is None or engine.stocked >= spec.inventory_size:
        return spec.inventory_size
    return int(engine.status["inventory"]["size"])


def _stocked(spec: IntakeEventSpec, engine: Engine) -> bool:
    """DB1 has a row for each slot that it is configured for, or needs none."""
    return spec.inventory is None or engine.stocked >= _size(spec, engine)


def _bridges(
    event: Event, spec: IntakeEventSpec, observed: Observed, image: BridgeImage, now: datetime
) -> tuple[Decision, list[Step]]:
    existing = observed.children.get(("Deployment", names.bridge(event.name)))
    current = int(existing["spec"].get("replicas", 1)) if existing else 0
    annotations = (existing or {}).get("metadata", {}).get("annotations") or {}
    stamp = annotations.get(names.SCALED_AT_ANNOTATION)
    scaled_at = datetime.fromisoformat(stamp).astimezone(UTC) if stamp else None
    decision = scaling.decide(observed.engine.depth, current, spec.bridge, scaled_at, now)
    if existing is None and decision.replicas == 0:
        return decision, []
    steps: list[Step] = [Apply(bridge.deployment(event, spec, image, observed.input_fingerprints))]
    if decision.replicas != current or not stamp:
        steps.append(ScaleBridges(decision.replicas))
    return decision, steps


def _credentials(event: Event) -> dict[str, str]:
    return {
        names.superuser_secret(event.name): names.SUPERUSER,
        names.claimer_secret(event.name): names.CLAIMER_ROLE,
        names.bridge_secret(event.name): names.BRIDGE_ROLE,
    }


def _next_boundary(spec: IntakeEventSpec, now: datetime) -> datetime:
    boundaries = (spec.window.opens_at - WARM_UP, spec.window.opens_at, spec.window.closes_at)
    return min((b for b in boundaries if b > now), default=now)


def _seconds_until(moment: datetime, now: datetime) -> float:
    return max((moment - now).total_seconds(), 0.0)
