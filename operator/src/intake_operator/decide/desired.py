"""What has to exist while an event serves, drains or is kept: children, a DB1 that answers claims, bridges."""

from collections.abc import Callable
from datetime import UTC, datetime

from intake_operator import names
from intake_operator.children import access, bridge, database, kinship, protection, templates
from intake_operator.children.installation import Installation
from intake_operator.decide import connections, database_pod, kept, memory, pool, scaling, steps, versions
from intake_operator.decide.facts import Facts
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage
from intake_operator.model import pods
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
    if database.is_being_deleted(observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))):
        return ""
    return observed.database.identity if _stocked(spec, observed.database) and _pool_announced(event, observed) else ""


def children(facts: Facts, installation: Installation) -> list[steps.Step]:
    """Every child as it has to be, the anchor first: without it no other may be created."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    guard = "" if facts.settled else installation.guard
    anchor = observed.children.get((kinship.ANCHOR, names.database(event.name)))
    first = kinship.as_anchor(protection.network_policy(event, installation.namespace), guard)
    if anchor is None:
        return _applicable(facts, [steps.Apply(first)])
    todo: list[steps.Step] = [steps.Apply(first)]
    if "deletionTimestamp" in anchor["metadata"]:
        unguard = steps.Unguard(kinship.ANCHOR, names.database(event.name), finalizer=True)
        todo = [unguard] if _may_renew_anchor(facts) else []

    def child(manifest: Manifest) -> Manifest:
        return kinship.as_child(manifest, event, anchor, guard)

    if facts.stage is Stage.WAIT:
        todo += _secrets(event, observed, child)
        return _applicable(facts, [*todo, *(steps.Apply(child(service)) for service in access.services(event))])
    volume = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    identity = facts.claimable
    unsettled = bool(identity) and not facts.settled
    serves = not facts.settled and (observed.database.ready or facts.stage is Stage.DRAIN)
    has_volume = event.spec.database.volume is not None  # otherwise the pod is the data
    manifests = [
        *access.services(event),
        protection.disruption_budget(
            event,
            keep_pod=serves or (unsettled and not has_volume),
            # A broken DB1 serves nobody. During the sale a person decides; after it a drained node need not wait.
            evict_broken=facts.settled or (facts.stage is Stage.DRAIN and has_volume),
        ),
        database.volume_claim(event, event.spec.database, identity=identity, unsettled=unsettled, existing=volume),
        _stateful_set(facts, event.spec, identity, installation),
    ]
    if memory.volume_lost(event, observed) and event.says(names.RECOVER_ANNOTATION):
        # A bridge that still runs might commit a claim that the new DB1 does not know yet.
        todo += no_bridges(observed, event)
    todo += _secrets(event, observed, child)
    todo += [steps.Apply(child(manifest)) for manifest in manifests if manifest is not None]
    if found := database_pod.to_replace(event, observed, facts.now):
        todo.append(steps.ReplaceDatabasePod(*found))
    return _applicable(facts, todo)


def _stateful_set(facts: Facts, spec: IntakeEventSpec, identity: str, installation: Installation) -> Manifest:
    """While the sale is under way it keeps its pod template: a pod that dies comes back as it was."""
    existing = facts.observed.children.get(("StatefulSet", names.database(facts.event.name)))
    made = database.stateful_set(facts.event, spec.database, installation, identity=identity, existing=existing)
    return templates.fitting(templates.kept(made, existing) if kept.under_way(facts) else made, existing)


def has_credentials(event: Event, observed: Observed) -> bool:
    """Whether the event's own Secrets are there. No watch tells when they are."""
    return _credentials(event).keys() <= observed.secret_fingerprints.keys()


def _secrets(event: Event, observed: Observed, child: Callable[[Manifest], Manifest]) -> list[steps.Step]:
    return [
        steps.Apply(child(access.secret(event, name)))
        if name in observed.secret_fingerprints
        else steps.CreateCredentials(name, role)
        for name, role in _credentials(event).items()
    ]


def _may_renew_anchor(facts: Facts) -> bool:
    """Whether the anchor may be deleted and created again: until then, the event must own every other child."""
    event, observed = facts.event, facts.observed
    others = [child for (kind, _), child in observed.children.items() if kind != kinship.ANCHOR]
    return not event.deleting and all(
        any(owner.get("uid") == event.uid for owner in child["metadata"].get("ownerReferences") or ())
        for child in others
    )


def _applicable(facts: Facts, todo: list[steps.Step]) -> list[steps.Step]:
    """All steps; in a namespace that is being deleted only those that create no object."""
    if facts.event.namespace_deleted_at is None:
        return todo
    existing = facts.observed.children

    def applicable(step: steps.Step) -> bool:
        match step:
            case steps.Apply(manifest):
                return (manifest["kind"], manifest["metadata"]["name"]) in existing
            case steps.ScaleBridges():
                return ("Deployment", names.bridge(facts.event.name)) in existing
            case _:
                return not isinstance(step, steps.CreateCredentials)

    return [step for step in todo if applicable(step)]


def database_steps(facts: Facts) -> list[steps.Step]:
    """The steps to a DB1 that answers claims: schema, logins, configuration, rows, slots."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    known, spec = observed.database, event.spec
    if not known.reachable:
        return []
    lost = memory.volume_lost(event, observed)
    if (lost and not _may_recover(event, spec, observed)) or versions.unsupported(event, observed):
        return []
    todo: list[steps.Step] = []
    if versions.to_install(event, observed):
        todo.append(steps.Migrate())
    others, seen = connections.for_others(spec), known.connections
    if seen is None or seen.limit != connections.claimer_limit(seen, others):
        todo.append(steps.LimitClaimers(others))  # before a claimer can log in
    logins = {role: name for name, role in _credentials(event).items() if role != names.SUPERUSER}
    stale = {
        role: name for role, name in logins.items() if known.logins.get(role) != observed.secret_fingerprints.get(name)
    }
    if stale or known.altered_roles:
        todo.append(steps.SetLogins(stale, known.altered_roles))
    config = spec.engine_config() | {"inventorySize": _size(spec, known)}
    if known.sealed:
        # A sealed database is past its window and inventory; the throttle still counts.
        config = {name: value for name, value in config.items() if name not in {"opensAt", "closesAt", "inventorySize"}}
    todo.append(steps.Configure(versions.known_settings(config, known.version)))
    return todo + (_recovered(spec, known) if lost else _seeded(facts, spec, known))


def appended_sql(facts: Facts) -> list[steps.Step]:
    """New files of SQL that a person asks for. The last step: one that waits for a lock fails, and is tried again."""
    return [steps.Migrate()] if versions.to_append(facts.event, facts.observed) else []


def _seeded(facts: Facts, spec: IntakeEventSpec, known: DatabaseState) -> list[steps.Step]:
    seeded = known.status.inventory.seeded if known.status else 0
    grows = seeded < _size(spec, known) and not known.sealed
    if (not known.ready or grows) and _stocked(spec, known):
        return [steps.Seed()] if facts.claimable else []
    if spec.inventory and facts.observed.inventory.due:
        # Not in the pass of a rebuild: a million rows take seconds, and claimers wait.
        return [steps.Stock(spec.inventory, spec.inventory_size)]
    return []


def _recovered(spec: IntakeEventSpec, known: DatabaseState) -> list[steps.Step]:
    """Bring the ledger's claims into an empty DB1, once it has the inventory rows that they refer to."""
    assert spec.commit_target.postgres is not None
    if known.status is None:
        return []
    if not _stocked(spec, known):
        assert spec.inventory is not None
        return [steps.Stock(spec.inventory, spec.inventory_size)]
    return [steps.Recover(spec.commit_target.postgres)]


def _may_recover(event: Event, spec: IntakeEventSpec, observed: Observed) -> bool:
    """The annotation asks for it, the ledger can be asked, and no bridge is left that might still commit."""
    bridging = bool(pods.of_component(observed.pods, "bridge"))
    return event.says(names.RECOVER_ANNOTATION) and spec.commit_target.postgres is not None and not bridging


def bridges(facts: Facts, installation: Installation) -> tuple[Decision, list[steps.Step]]:
    """As many bridges as the queue needs: the decision, and the steps to it."""
    event, observed = facts.event, facts.observed
    assert event.spec is not None
    existing = observed.children.get(("Deployment", names.bridge(event.name)))
    anchor = observed.children.get((kinship.ANCHOR, names.database(event.name)))
    current = scaling.replicas_of(existing)
    annotations = (existing or {}).get("metadata", {}).get("annotations") or {}
    stamp = annotations.get(names.SCALE_IN_AFTER_ANNOTATION)
    not_before = datetime.fromisoformat(stamp).astimezone(UTC) if stamp else None
    queue = scaling.Queue(observed.database.depth, observed.database.peak_depth)
    policy = scaling.policy_for(event.spec, observed.database)
    decision = scaling.decide(queue, current, policy, not_before, facts.now)
    if anchor is None or (existing is None and (decision.replicas == 0 or versions.unsupported(event, observed))):
        return decision, []
    settings = kept.of_event(facts, installation)
    manifest = bridge.deployment(event, event.spec, settings, observed.input_fingerprints)
    if kept.keeps_bridges(facts):
        manifest = templates.kept(manifest, existing)
    manifest = templates.fitting(manifest, existing)
    guard = "" if facts.settled else installation.guard
    todo: list[steps.Step] = [steps.Apply(kinship.as_child(manifest, event, anchor, guard))]
    if decision.replicas != current or decision.postpones or not stamp:
        todo.append(steps.ScaleBridges(decision.replicas))
    return decision, _applicable(facts, todo)


def no_bridges(observed: Observed, event: Event) -> list[steps.Step]:
    """Scale the bridges to zero, and delete the pods that their Deployment does not know."""
    existing = observed.children.get(("Deployment", names.bridge(event.name)))
    if existing and existing["spec"].get("replicas", 1):
        return [steps.ScaleBridges(0)]
    return strays(observed, "bridge", existing)


def strays(observed: Observed, component: str, workload: Manifest | None) -> list[steps.Step]:
    """Delete the pods that outlived their workload: it was deleted, perhaps created again, and the guard kept its pods.

    No controller removes them any more, and the garbage collector may not.
    """
    if workload and (workload["spec"].get("replicas", 1) or (workload.get("status") or {}).get("replicas")):
        return []
    return [
        steps.Delete("Pod", pod["metadata"]["name"])
        for pod in pods.of_component(observed.pods, component)
        if not pods.is_terminating(pod)
    ]


def _pool_announced(event: Event, observed: Observed) -> bool:
    """The pool may be sold, and the status says so: another event that checks at the same time reads it there."""
    return observed.pool is not None and observed.pool.allows and pool.announced(event) == observed.pool.reason


def _size(spec: IntakeEventSpec, known: DatabaseState) -> int:
    """The inventory size to configure: it grows when DB1 has the rows, so that a crash in between can be repaired."""
    if spec.inventory is None or known.status is None or known.stocked >= spec.inventory_size:
        return spec.inventory_size
    return known.status.inventory.size


def _stocked(spec: IntakeEventSpec, known: DatabaseState) -> bool:
    """DB1 has a row for each slot that it is configured for; an inventory counted by us needs no rows."""
    return spec.inventory is None or known.stocked >= _size(spec, known)


def _credentials(event: Event) -> dict[str, str]:
    return {
        names.superuser_secret(event.name): names.SUPERUSER,
        names.claimer_secret(event.name): names.CLAIMER_ROLE,
        names.bridge_secret(event.name): names.BRIDGE_ROLE,
    }
