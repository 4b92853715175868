"""What is wrong with an event: each finding has a constant reason, and a message that says what to do."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.database import is_being_deleted
from intake_operator.decide import connections, memory, preflight, versions
from intake_operator.decide.consistency import verdict
from intake_operator.decide.health.bridges import of_bridges
from intake_operator.decide.health.finding import Finding
from intake_operator.decide.health.pods import of_pods
from intake_operator.decide.health.workloads import cut_off, not_ending, too_few_bridges, without_pods
from intake_operator.decide.stage import Stage, was_claimable
from intake_operator.model import pods
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import PoolReason, Problem

# Problems of pods that say why there are too few of them.
PODS: Final = frozenset(
    {Problem.PODS_NOT_CREATED, Problem.PODS_NOT_STARTING, Problem.IMAGE_UNAVAILABLE, Problem.OUT_OF_MEMORY}
)

# A Service takes a moment to route to a pod that has just become ready.
REACH_PATIENCE: Final = timedelta(seconds=10)

_SHARE_CONNECTIONS: Final = (
    "Keep the connection pools of all web back ends together within the limit of claimers (docs/tuning.md), and end "
    "other sessions that take connections."
)


def findings(event: Event, observed: Observed, stage: Stage, now: datetime) -> tuple[Finding, ...]:
    """All problems at this moment, in the order of `reasons.Problem`."""
    found: list[Finding] = []
    if stage is Stage.REMOVE:
        found = [*of_pods(event, observed, stage, now), *not_ending(observed, now)]
    elif stage is Stage.KEEP:
        found = [*of_pods(event, observed, stage, now), *without_pods(event, observed, now)]
        found += [*_database(event, observed, stage, now), *_namespace(event, observed)]
    elif stage is not Stage.INERT:
        found = [*_spec(event), *of_pods(event, observed, stage, now), *without_pods(event, observed, now)]
        found += [*_database(event, observed, stage, now), *_ledger(observed), *_volume_claim(event, observed)]
        found += [*_namespace(event, observed), *_pool(observed), *_inventory(observed), *of_bridges(observed)]
        found += [*_dead_letters(event, observed), *_consistency(event, observed, stage)]
        found += [*cut_off(event, observed, now), *_connections(event, observed)]
        found += _overdue(event, observed, stage, now)
        found += [Finding(*each) for each in preflight.problems(event, observed.preflight, stage)]
        if not any(each.reason in PODS for each in found):
            found += too_few_bridges(event, observed, now)
    order = list(Problem)
    return tuple(sorted(found, key=lambda finding: order.index(finding.reason)))


def _spec(event: Event) -> Iterator[Finding]:
    if event.spec is None:
        yield Finding(
            Problem.SPEC_INVALID,
            f"the spec is invalid: {event.spec_error}. Correct it; existing objects are left as they are.",
        )


def _database(event: Event, observed: Observed, stage: Stage, now: datetime) -> Iterator[Finding]:
    if memory.volume_lost(event, observed):
        yield Finding(Problem.VOLUME_LOST, _KEPT_FOR_NOTHING if stage is Stage.KEEP else _volume_lost(event))
    if why := versions.unsupported(event, observed):
        yield Finding(
            Problem.DATABASE_VERSION_UNSUPPORTED,
            f"{why}. DB1 opens and closes the window by itself, and bridges that run go on; edits, scaling and the "
            "drain wait. Install the version of the operator again with which the event began (docs/upgrading.md).",
        )
    since = [pods.ready_since(p) for p in pods.of_component(observed.pods, "database") if pods.is_ready(p)]
    if observed.database.refused:
        yield Finding(
            Problem.CONNECTIONS_EXHAUSTED,
            f"DB1 refuses connections, even the operator's: {observed.database.error}. {_SHARE_CONNECTIONS}",
        )
    elif since and now - since[0] > REACH_PATIENCE and not observed.database.reachable:
        yield Finding(
            Problem.DATABASE_UNREACHABLE,
            f"DB1 is ready, but the operator cannot connect to it: {observed.database.error}. Check network policies "
            f"between the operator and {event.namespace}/{names.service(event.name)}.",
        )


_KEPT_FOR_NOTHING: Final = (
    "DB1 came back empty: its volume is gone. Every claim was settled before, and the report stands, but DB1 does not "
    "say any more what became of a claim. Delete the event to remove it now."
)


def _volume_lost(event: Event) -> str:
    lost = (
        "DB1 came back empty: its volume is gone, and with it every claim that had not reached the ledger. Nothing is "
        "sold from the new volume. Restore the old one, or "
    )
    abandon = f"give up the claims that are lost with the annotation {names.ABANDON_ANNOTATION}: {event.name}"
    if event.spec and event.spec.commit_target.postgres is None:
        return (
            f"{lost}{abandon}. A webhook ledger cannot be asked what it holds, so the sale cannot be rebuilt from it."
        )
    rebuild = f"rebuild the sale from the ledger with the annotation {names.RECOVER_ANNOTATION}: {event.name}"
    return f"{lost}{rebuild}, or {abandon}."


def _volume_claim(event: Event, observed: Observed) -> Iterator[Finding]:
    claim = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    if is_being_deleted(claim) and was_claimable(event, observed):
        yield Finding(
            Problem.VOLUME_CLAIM_TERMINATING,
            f"PersistentVolumeClaim {names.volume_claim(event.name)} is being deleted, which cannot be undone. A "
            "finalizer keeps its data, and DB1's pod goes on; a new pod would not start. End the sale while this pod "
            "runs, or set the volume to Retain and bind it to a new claim (docs/runbooks.md).",
            stops=False,
        )


def _namespace(event: Event, observed: Observed) -> Iterator[Finding]:
    """What is missing in a namespace that is being deleted stays missing: only the abandon annotation ends that."""
    if event.namespace_deleted_at is None:
        return
    message = (
        f"namespace {event.namespace} is being deleted, so the sale ended and drains; no object can be created in it"
    )
    if not observed.database.reachable or observed.ledger.problem:
        message += (
            ". If the drain cannot end, because DB1's pod, the bridges or the ledger are gone, give up the claims that "
            f"are left with the annotation {names.ABANDON_ANNOTATION}: {event.name}"
        )
    yield Finding(Problem.NAMESPACE_TERMINATING, f"{message}.")


def _pool(observed: Observed) -> Iterator[Finding]:
    problems = {PoolReason.USED_BEFORE: Problem.POOL_USED_BEFORE, PoolReason.IN_USE: Problem.POOL_IN_USE}
    if observed.pool and observed.pool.blocks:
        yield Finding(problems[observed.pool.reason], observed.pool.message)


def _connections(event: Event, observed: Observed) -> Iterator[Finding]:
    known = observed.database.connections
    if known is None or event.spec is None:
        return
    if known.exhausted:
        yield Finding(
            Problem.CONNECTIONS_EXHAUSTED,
            f"all connections of DB1 are taken ({known.taken} of {known.most}, {known.claimers} of them by claimers, "
            f"whose limit is {known.limit}), and bridges are refused. {_SHARE_CONNECTIONS}",
        )
    if known.most < (needed := connections.needed(known, event.spec)):
        yield Finding(
            Problem.MAX_CONNECTIONS_TOO_SMALL,
            f"DB1 runs with max_connections {known.most}, and bridge.maxReplicas {event.spec.bridge.max_replicas} "
            f"needs {needed}: some bridges may be refused. Lower bridge.maxReplicas, or raise max_connections in "
            "database.parameters, which takes effect at DB1's next start.",
            stops=False,
        )


def _ledger(observed: Observed) -> Iterator[Finding]:
    # What a bridge reports counts more: the operator connects from another namespace, through other policies.
    ledgers = (worker.health.ledger for worker in observed.database.workers)
    answers = any(ledger is not None and ledger.state == "ok" for ledger in ledgers)
    if observed.ledger.problem and not (answers and observed.ledger.problem is Problem.LEDGER_UNREACHABLE):
        yield Finding(observed.ledger.problem, observed.ledger.message)


def _inventory(observed: Observed) -> Iterator[Finding]:
    if observed.inventory.problem:
        # What is on sale stays on sale.
        yield Finding(observed.inventory.problem, observed.inventory.message, stops=not observed.database.ready)


def _dead_letters(event: Event, observed: Observed) -> Iterator[Finding]:
    count, at = memory.dead_letters(event, observed)
    if count:
        subject = "1 dead letter keeps its slots" if count == 1 else f"{count} dead letters keep their slots"
        yield Finding(
            Problem.DEAD_LETTERS,
            f"{subject}{at}. `intake-admin dead-letters list {event.name}` shows their errors; "
            "fix the cause, then replay them.",
            stops=False,
        )


def _consistency(event: Event, observed: Observed, stage: Stage) -> Iterator[Finding]:
    found = verdict(event, observed, stage)
    if found.agrees is False:
        yield Finding(
            Problem.LEDGER_INCONSISTENT,
            f"DB1 and the ledger contradict each other: {found.told}. The operator corrects neither; "
            f"`intake-admin reconcile {event.name}` lists the claims.",
        )


def _overdue(event: Event, observed: Observed, stage: Stage, now: datetime) -> Iterator[Finding]:
    """The time in which holds may still be confirmed does not count.

    Once the last hold is gone, DB1 cannot tell when it ended: it is taken to have lasted as long as a hold can.
    """
    if stage is not Stage.DRAIN or event.spec is None:
        return
    since = min(filter(None, (event.deleted_at, event.namespace_deleted_at, event.spec.window.closes_at)))
    patience = timedelta(seconds=event.spec.teardown.drain_timeout_seconds)
    checkout, hold_ends = event.spec.checkout, observed.database.last_hold_ends
    # Compared as differences: nothing can be added to the last second of the calendar.
    if hold_ends is not None:
        overdue = min(now - since, now - hold_ends) > patience
    else:
        overdue = now - since > patience + (checkout.longest if checkout else timedelta(0))
    if overdue:
        limit = "spec.teardown.drainTimeoutSeconds" + (" after the last hold" if checkout else "")
        yield Finding(
            Problem.DRAIN_OVERDUE,
            f"draining since {since.isoformat(timespec='seconds')}, longer than {limit}. The drain goes on; to give up "
            f"the claims that are left, set the annotation {names.ABANDON_ANNOTATION}: {event.name}.",
        )
