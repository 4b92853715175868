"""What is wrong with an event: each finding has a constant reason, and a message that says what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.children.database import is_being_deleted
from intake_operator.decide import connections, memory, versions
from intake_operator.decide.consistency import verdict
from intake_operator.decide.stage import Stage, was_claimable
from intake_operator.model import pods
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reasons import PoolReason, Problem

# Longer than a start takes on a healthy node that has the image (DB1 4 s, bridge 2 s, measured), and short enough for a
# user who has just applied a manifest and waits.
START_PATIENCE: Final = timedelta(seconds=20)

# A Service takes a moment to route to a pod that has just become ready.
REACH_PATIENCE: Final = timedelta(seconds=10)

# As long as the bridge's startup probe allows: a bridge that has not registered in DB1 by then is not just slow.
CUT_OFF_PATIENCE: Final = timedelta(seconds=60)

IMAGE_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


_SHARE_CONNECTIONS: Final = (
    "Keep the connection pools of all web back ends together within the limit of claimers (docs/tuning.md), and end "
    "other sessions that take connections."
)


@dataclass(frozen=True)
class Finding:
    """One problem that was found."""

    reason: Problem
    message: str


def findings(event: Event, observed: Observed, stage: Stage, now: datetime) -> tuple[Finding, ...]:
    """All problems at this moment, in the order of `reasons.Problem`."""
    if stage in {Stage.INERT, Stage.KEEP, Stage.REMOVE}:
        return ()
    found = [*_spec(event), *_pods(observed, now), *_database(event, observed, now), *_ledger(observed)]
    found += [*_volume_claim(event, observed), *_namespace(event, observed), *_pool(observed)]
    found += [*_inventory(observed), *_workers(observed), *_dead_letters(event, observed)]
    found += [*_consistency(event, observed, stage), *_cut_off(event, observed, now), *_connections(event, observed)]
    found += _overdue(event, observed, stage, now)
    order = list(Problem)
    return tuple(sorted(found, key=lambda finding: order.index(finding.reason)))


def _spec(event: Event) -> Iterator[Finding]:
    if event.spec is None:
        yield Finding(
            Problem.SPEC_INVALID,
            f"the spec is invalid: {event.spec_error}. Correct it; existing objects are left as they are.",
        )


def _pods(observed: Observed, now: datetime) -> Iterator[Finding]:
    for pod in observed.pods:
        if pods.is_ready(pod) or pods.is_terminating(pod):
            continue
        name = pod["metadata"]["name"]
        waiting = [s["state"]["waiting"] for s in pods.containers(pod) if "waiting" in (s.get("state") or {})]
        image = next((w for w in waiting if w.get("reason") in IMAGE_REASONS), None)
        if image:
            where = "spec.database.image" if pods.component(pod) == "database" else "the operator's bridge image"
            yield Finding(
                Problem.IMAGE_UNAVAILABLE,
                f"pod {name} cannot pull its image ({image['reason']}): {image.get('message', '')}. Correct {where}.",
            )
        elif now - pods.created(pod) > START_PATIENCE and (why := _why_not_starting(pod, waiting)):
            yield Finding(Problem.PODS_NOT_STARTING, f"pod {name} does not start: {why}")


def _database(event: Event, observed: Observed, now: datetime) -> Iterator[Finding]:
    if memory.volume_lost(event, observed):
        yield Finding(Problem.VOLUME_LOST, _volume_lost(event))
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


def _cut_off(event: Event, observed: Observed, now: datetime) -> Iterator[Finding]:
    """Bridges that run while none has registered in DB1: nothing is committed, and no other finding shows it."""
    since = [pods.ready_since(p) for p in pods.of_component(observed.pods, "database") if pods.is_ready(p)]
    if not since or observed.database.status is None or observed.database.workers:
        return
    if observed.database.connections and observed.database.connections.exhausted:
        return  # that is the cause, and it has its own finding
    for pod in observed.pods:
        states = [s.get("state") or {} for s in pods.containers(pod)]
        idle = pods.component(pod) != "bridge" or pods.is_ready(pod) or pods.is_terminating(pod)
        if idle or not states or not all("running" in state for state in states):
            continue
        begun = [datetime.fromisoformat(at) for state in states if (at := state["running"].get("startedAt"))]
        if now - max(pods.created(pod), *begun, *since) > CUT_OFF_PATIENCE:
            yield Finding(
                Problem.PODS_NOT_STARTING,
                f"pod {pod['metadata']['name']} runs, but has not registered in DB1. Read its log, and check "
                f"network policies between it and {names.service(event.name)}.",
            )


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
        )


def _ledger(observed: Observed) -> Iterator[Finding]:
    # What a bridge reports counts more: the operator connects from another namespace, through other policies.
    ledgers = (worker.health.ledger for worker in observed.database.workers)
    answers = any(ledger is not None and ledger.state == "ok" for ledger in ledgers)
    if observed.ledger.problem and not (answers and observed.ledger.problem is Problem.LEDGER_UNREACHABLE):
        yield Finding(observed.ledger.problem, observed.ledger.message)


def _inventory(observed: Observed) -> Iterator[Finding]:
    if observed.inventory.problem:
        yield Finding(observed.inventory.problem, observed.inventory.message)


def _workers(observed: Observed) -> Iterator[Finding]:
    workers = observed.database.workers
    for dependency, states, reason, cure in (
        (
            "ledger",
            [worker.health.ledger for worker in workers],
            Problem.LEDGER_DOWN,
            "Claims wait in the queue; commits resume after the first that succeeds.",
        ),
        (
            "validator",
            [worker.health.validator for worker in workers],
            Problem.VALIDATOR_DOWN,
            "Claims wait in the queue; check spec.validation.webhook and its server.",
        ),
    ):
        down = [state for state in states if state is not None and state.state == "down"]
        if down:
            error = down[0].error or "no answer"
            yield Finding(
                reason, f"{len(down)} of {len(workers)} bridges report the {dependency} down: {error}. {cure}"
            )


def _dead_letters(event: Event, observed: Observed) -> Iterator[Finding]:
    if count := observed.database.dead_letters:
        subject = "1 dead letter keeps its slots" if count == 1 else f"{count} dead letters keep their slots"
        yield Finding(
            Problem.DEAD_LETTERS,
            f"{subject}. `intake-admin dead-letters list {event.name}` shows their errors; "
            "fix the cause, then replay them.",
        )


def _consistency(event: Event, observed: Observed, stage: Stage) -> Iterator[Finding]:
    found = verdict(event, observed, stage)
    if found.agrees is False:
        yield Finding(
            Problem.LEDGER_INCONSISTENT,
            f"DB1 and the ledger contradict each other: {found.message}. The operator corrects neither; "
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


def _why_not_starting(pod: Manifest, waiting: list[dict[str, Any]]) -> str:
    unscheduled = next((c for c in pods.conditions(pod) if c["type"] == "PodScheduled" and c["status"] != "True"), None)
    if unscheduled:
        return str(unscheduled.get("message") or unscheduled.get("reason") or "it cannot be scheduled")
    named = next((w for w in waiting if w.get("reason") not in {None, "PodInitializing"}), None)
    if named is None:
        return ""
    if named["reason"] == "ContainerCreating":
        return "a volume or Secret that it mounts does not exist yet; `kubectl describe pod` names it"
    return f"{named['reason']} {named.get('message', '')}".strip()
