"""What has to be there while an event serves, drains or is kept: children, a DB1 that can be claimed from, bridges."""

from collections.abc import Callable
from datetime import UTC, datetime

from intake_operator import names
from intake_operator.children import access, bridge, database, kinship, protection
from intake_operator.children.bridge import Installation
from intake_operator.decide import memory, pool, room, scaling
from intake_operator.decide.health import stuck_database_pod
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage
from intake_operator.decide.status import Facts
from intake_operator.decide.steps import (
    Apply,
    Configure,
    CreateCredentials,
    Delete,
    KeepRoom,
    Migrate,
    Recover,
    ReplaceDatabasePod,
    ScaleBridges,
    Seed,
    SetLogins,
    Step,
    Stock,
    Unguard,
)
from intake_operator.model.observed import DatabaseState, Event, Manifest, Observed
from intake_operator.model.spec import IntakeEventSpec


def claimable(event: Event, spec: IntakeEventSpec, observed: Observed) -> str:
    """The identity of the DB1 that is claimable from this pass on; empty as long as none is.

    Known in the pass that seeds it, and not before: a DB1 that waits for its inventory, or for the ledger's answer
    about its pool, can be removed as it is. It stays empty while its volume claim is being deleted: nothing could keep
    its data.
    """
    if known := memory.identity(event, observed):
        return known
    if database.is_going(observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))):
        return ""
    return observed.database.identity if _stocked(spec, observed.database) and _pool_told(event, observed) else ""


def children(facts: Facts, by: Installation) -> list[Step]:
    """Every child as it has to be, the anchor first: without it none of the others may be made."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    guard = "" if facts.settled else by.guard
    anchor = observed.children.get((kinship.ANCHOR, names.database(event.name)))
    first = kinship.as_anchor(protection.network_policy(event), guard)
    if anchor is None:
        return _possible(facts, [Apply(first)])
    steps: list[Step] = [Apply(first)]
    if "deletionTimestamp" in anchor["metadata"]:
        steps = [Unguard(kinship.ANCHOR, names.database(event.name), finalizer=True)] if _may_renew(facts) else []

    def child(manifest: Manifest) -> Manifest:
        return kinship.as_child(manifest, event, anchor, guard)

    volume = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    held = bool(facts.claimable) and not facts.settled
    serves = not facts.settled and (observed.database.ready or facts.stage is Stage.DRAIN)
    manifests = [
        *access.services(event),
        # Without a volume its pod is the data.
        protection.disruption_budget(event, held=serves or (held and event.spec.database.volume is None)),
        database.volume_claim(event, event.spec.database, mark=facts.claimable, held=held, existing=volume),
        database.stateful_set(event, event.spec.database, mark=facts.claimable, guard=by.guard),
    ]
    if memory.volume_lost(event, observed) and event.says(names.RECOVER_ANNOTATION):
        # A bridge that is still there might commit what the new DB1 does not know of yet.
        steps += no_bridges(observed, event)
    steps += _secrets(event, observed, child)
    steps += [Apply(child(manifest)) for manifest in manifests if manifest is not None]
    if stuck := stuck_database_pod(event, observed, facts.now):
        steps.append(ReplaceDatabasePod(*stuck))
    return _possible(facts, steps)


def _secrets(event: Event, observed: Observed, child: Callable[[Manifest], Manifest]) -> list[Step]:
    return [
        Apply(child(access.secret(event, name)))
        if name in observed.secret_fingerprints
        else CreateCredentials(name, role)
        for name, role in _credentials(event).items()
    ]


def _may_renew(facts: Facts) -> bool:
    """Whether the anchor may go and be made anew: every other child must have the event's reference meanwhile."""
    event, observed = facts.event, facts.observed
    others = [child for (kind, _), child in observed.children.items() if kind != kinship.ANCHOR]
    return not event.deleting and all(
        any(owner.get("uid") == event.uid for owner in child["metadata"].get("ownerReferences") or ())
        for child in others
    )


def _possible(facts: Facts, steps: list[Step]) -> list[Step]:
    """In a namespace that is being deleted nothing can be made any more; what is there can be changed."""
    if facts.event.namespace_deleted_at is None:
        return steps
    there = facts.observed.children

    def possible(step: Step) -> bool:
        match step:
            case Apply(manifest):
                return (manifest["kind"], manifest["metadata"]["name"]) in there
            case ScaleBridges():
                return ("Deployment", names.bridge(facts.event.name)) in there
            case _:
                return not isinstance(step, CreateCredentials)

    return [step for step in steps if possible(step)]


def database_steps(facts: Facts) -> list[Step]:
    """A DB1 that answers claims: schema, logins, configuration, rows, slots."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    known, spec = observed.database, event.spec
    if not known.reachable:
        return []
    lost = memory.volume_lost(event, observed)
    if lost and not _may_recover(event, spec, observed):
        return []
    steps: list[Step] = []
    if not known.migrated:
        steps.append(Migrate())
    others, connections = room.beside(spec), known.connections
    if connections is None or connections.limit != room.limit(connections, others):
        steps.append(KeepRoom(others))  # before anybody can log in
    logins = {role: name for name, role in _credentials(event).items() if role != names.SUPERUSER}
    stale = {
        role: name for role, name in logins.items() if known.logins.get(role) != observed.secret_fingerprints.get(name)
    }
    if stale or known.altered_roles:
        steps.append(SetLogins(stale, known.altered_roles))
    config = spec.engine_config() | {"inventorySize": _size(spec, known)}
    if known.sealed:
        # The window and the inventory of a sealed database are history; the throttle is not.
        config = {name: value for name, value in config.items() if name not in {"opensAt", "closesAt", "inventorySize"}}
    steps.append(Configure(config))
    return steps + (_recovered(spec, known) if lost else _seeded(facts, spec, known))


def _seeded(facts: Facts, spec: IntakeEventSpec, known: DatabaseState) -> list[Step]:
    seeded = known.status.inventory.seeded if known.status else 0
    grows = seeded < _size(spec, known) and not known.sealed
    if (not known.ready or grows) and _stocked(spec, known):
        return [Seed()] if facts.claimable else []
    if spec.inventory and facts.observed.inventory.due:
        # Not in the pass of a rebuild: a million rows take seconds, and the crowd waits.
        return [Stock(spec.inventory, spec.inventory_size)]
    return []


def _recovered(spec: IntakeEventSpec, known: DatabaseState) -> list[Step]:
    """The ledger's claims into an empty DB1, once it has the rows that they stand on."""
    assert spec.commit_target.postgres is not None
    if known.status is None:
        return []
    if not _stocked(spec, known):
        assert spec.inventory is not None
        return [Stock(spec.inventory, spec.inventory_size)]
    return [Recover(spec.commit_target.postgres.secret_ref)]


def _may_recover(event: Event, spec: IntakeEventSpec, observed: Observed) -> bool:
    """A person asked for it, the ledger can be asked, and no bridge is left that might still commit."""
    bridging = any(p["metadata"]["labels"].get("app.kubernetes.io/component") == "bridge" for p in observed.pods)
    return event.says(names.RECOVER_ANNOTATION) and spec.commit_target.postgres is not None and not bridging


def bridges(facts: Facts, by: Installation) -> tuple[Decision, list[Step]]:
    """As many bridges as the queue asks for."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    existing = observed.children.get(("Deployment", names.bridge(event.name)))
    anchor = observed.children.get((kinship.ANCHOR, names.database(event.name)))
    current = scaling.replicas_of(existing)
    annotations = (existing or {}).get("metadata", {}).get("annotations") or {}
    stamp = annotations.get(names.SCALE_IN_AFTER_ANNOTATION)
    rests_until = datetime.fromisoformat(stamp).astimezone(UTC) if stamp else None
    queue = scaling.Queue(observed.database.depth, observed.database.peak_depth)
    decision = scaling.decide(queue, current, event.spec.bridge, rests_until, facts.now)
    if anchor is None or (existing is None and decision.replicas == 0):
        return decision, []
    manifest = bridge.deployment(event, event.spec, by, observed.input_fingerprints)
    steps: list[Step] = [Apply(kinship.as_child(manifest, event, anchor, "" if facts.settled else by.guard))]
    if decision.replicas != current or decision.rests or not stamp:
        steps.append(ScaleBridges(decision.replicas))
    return decision, _possible(facts, steps)


def no_bridges(observed: Observed, event: Event) -> list[Step]:
    """The bridges' Deployment to no pods, and those away that it does not know."""
    existing = observed.children.get(("Deployment", names.bridge(event.name)))
    if existing and existing["spec"].get("replicas", 1):
        return [ScaleBridges(0)]
    return strays(observed, "bridge", existing)


def strays(observed: Observed, component: str, workload: Manifest | None) -> list[Step]:
    """Pods that outlived their workload: it was removed and perhaps made anew, and the guard kept its pods.

    No controller removes them any more, and the garbage collector may not.
    """
    if workload and (workload["spec"].get("replicas", 1) or (workload.get("status") or {}).get("replicas")):
        return []
    return [
        Delete("Pod", pod["metadata"]["name"])
        for pod in observed.pods
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == component
        and "deletionTimestamp" not in pod["metadata"]
    ]


def _pool_told(event: Event, observed: Observed) -> bool:
    """The pool may be sold, and the status has said so: another event that looks at the same time reads it there."""
    return observed.pool is not None and observed.pool.allows and pool.told(event) == observed.pool.reason


def _size(spec: IntakeEventSpec, known: DatabaseState) -> int:
    """The inventory to configure: growth waits for its rows, so that a crash meanwhile can be repaired."""
    if spec.inventory is None or known.status is None or known.stocked >= spec.inventory_size:
        return spec.inventory_size
    return known.status.inventory.size


def _stocked(spec: IntakeEventSpec, known: DatabaseState) -> bool:
    """DB1 has a row for each slot that it is configured for, or needs none."""
    return spec.inventory is None or known.stocked >= _size(spec, known)


def _credentials(event: Event) -> dict[str, str]:
    return {
        names.superuser_secret(event.name): names.SUPERUSER,
        names.claimer_secret(event.name): names.CLAIMER_ROLE,
        names.bridge_secret(event.name): names.BRIDGE_ROLE,
    }
