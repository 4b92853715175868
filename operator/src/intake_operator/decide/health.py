"""What is wrong, in the words of a condition: a constant reason, and a message that says what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.children.database import is_going
from intake_operator.decide import memory, room
from intake_operator.decide.consistency import verdict
from intake_operator.decide.stage import Stage, was_claimable
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reasons import PoolReason, Problem

# Longer than a start on a healthy node takes, image present (DB1 4 s, bridge 2 s, measured), and short enough for a
# person who has just applied a file and is looking.
START_PATIENCE: Final = timedelta(seconds=20)

# A Service takes a moment to lead to a pod that has just become ready.
REACH_PATIENCE: Final = timedelta(seconds=10)

# As long as the bridge's startup probe gives it; after that one that says nothing to DB1 is not just slow.
CUT_OFF_PATIENCE: Final = timedelta(seconds=60)

# DB1 is not restarted for a changed definition when the window is this near: a start takes seconds, a recovery longer.
QUIET_BEFORE: Final = timedelta(minutes=5)

IMAGE_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


_SHARE_CONNECTIONS: Final = (
    "All pools of the web back ends together may have as many as claimers may have (docs/tuning.md); end what holds "
    "connections besides."
)


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    reason: Problem
    message: str


def problems(event: Event, observed: Observed, stage: Stage, now: datetime) -> tuple[Trouble, ...]:
    """Everything wrong at this moment, in the order of `reasons.Problem`."""
    if stage in {Stage.INERT, Stage.KEEP, Stage.RELEASE}:
        return ()
    found = [*_spec(event), *_pods(observed, now), *_database(event, observed, now), *_ledger(observed)]
    found += [*_volume_claim(event, observed), *_namespace(event, observed), *_pool(observed)]
    found += [*_inventory(observed), *_workers(observed), *_dead_letters(event, observed), *_overdue(event, stage, now)]
    found += [*_consistency(event, observed, stage), *_cut_off(event, observed, now), *_connections(event, observed)]
    order = list(Problem)
    return tuple(sorted(found, key=lambda trouble: order.index(trouble.reason)))


def stuck_database_pod(event: Event, observed: Observed, now: datetime) -> tuple[str, str] | None:
    """DB1's pod, and why it has to be replaced; None when it should be left alone.

    A StatefulSet does not replace a pod that never became ready, so a mended image would wait for ever.
    """
    wanted = observed.children.get(("StatefulSet", names.database(event.name)))
    pod = next(
        (p for p in observed.pods if _component(p) == "database" and "deletionTimestamp" not in p["metadata"]), None
    )
    if wanted is None or pod is None:
        return None
    if event.spec and event.spec.database.volume is None and was_claimable(event, observed):
        # The pod is the data: nothing that a new one would mend is worth a claim that was acknowledged.
        return None
    claim = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    if is_going(claim) and not was_claimable(event, observed):
        return pod["metadata"]["name"], "its volume claim is being deleted, and nothing was sold from it"
    if observed.database.login_failed:
        return pod["metadata"]["name"], "its superuser password is not the one in the Secret; it takes it at start"
    revision = (wanted.get("status") or {}).get("updateRevision")
    outdated = revision and pod["metadata"]["labels"].get("controller-revision-hash") != revision
    if outdated and not _ready(pod):
        return pod["metadata"]["name"], "it never became ready, and its definition has changed since"
    if outdated and event.spec and now + QUIET_BEFORE < event.spec.window.opens_at:
        return pod["metadata"]["name"], "its definition has changed, and nobody is buying yet"
    return None


def _spec(event: Event) -> Iterator[Trouble]:
    if event.spec is None:
        yield Trouble(Problem.SPEC_INVALID, f"{event.spec_error}. Correct the spec; nothing that exists was touched.")


def _pods(observed: Observed, now: datetime) -> Iterator[Trouble]:
    for pod in observed.pods:
        if _ready(pod) or "deletionTimestamp" in pod["metadata"]:
            continue
        name = pod["metadata"]["name"]
        waiting = [s["state"]["waiting"] for s in _containers(pod) if "waiting" in (s.get("state") or {})]
        image = next((w for w in waiting if w.get("reason") in IMAGE_REASONS), None)
        if image:
            where = "spec.database.image" if _component(pod) == "database" else "the operator's bridge image"
            yield Trouble(
                Problem.IMAGE_UNAVAILABLE,
                f"pod {name} cannot get its image ({image['reason']}): {image.get('message', '')}. Correct {where}.",
            )
        elif now - _created(pod) > START_PATIENCE and (why := _why_not_starting(pod, waiting)):
            yield Trouble(Problem.PODS_NOT_STARTING, f"pod {name} does not start: {why}")


def _database(event: Event, observed: Observed, now: datetime) -> Iterator[Trouble]:
    if memory.volume_lost(event, observed):
        yield Trouble(Problem.VOLUME_LOST, _volume_lost(event))
    since = [_ready_since(p) for p in observed.pods if _component(p) == "database" and _ready(p)]
    if observed.database.refused:
        yield Trouble(
            Problem.CONNECTIONS_EXHAUSTED,
            f"DB1 refuses even the operator: {observed.database.error}. {_SHARE_CONNECTIONS}",
        )
    elif since and now - since[0] > REACH_PATIENCE and not observed.database.reachable:
        yield Trouble(
            Problem.DATABASE_UNREACHABLE,
            f"DB1 runs but cannot be spoken to: {observed.database.error}. Check network policies between the operator "
            f"and {event.namespace}/{names.service(event.name)}.",
        )


def _volume_lost(event: Event) -> str:
    told = (
        "DB1 came back empty: its volume is gone, and with it every claim that had not reached the ledger. Nothing is "
        "sold from it. Bring the volume back, or "
    )
    if event.spec and event.spec.commit_target.postgres is None:
        return (
            f"{told}give the rest up with the annotation {names.ABANDON_ANNOTATION}: {event.name}. A webhook ledger "
            "cannot be asked what it holds, so the sale cannot be rebuilt."
        )
    return (
        f"{told}rebuild the sale from what the ledger holds with the annotation {names.RECOVER_ANNOTATION}: "
        f"{event.name}, or give the rest up with {names.ABANDON_ANNOTATION}: {event.name}."
    )


def _volume_claim(event: Event, observed: Observed) -> Iterator[Trouble]:
    claim = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    if is_going(claim) and was_claimable(event, observed):
        yield Trouble(
            Problem.VOLUME_CLAIM_TERMINATING,
            f"PersistentVolumeClaim {names.volume_claim(event.name)} is being deleted, which cannot be undone. Its "
            "bytes are kept, and DB1's pod goes on; a new pod would not start. End the sale while it runs, or set the "
            "volume to Retain and bind it to a new claim (docs/runbooks.md).",
        )


def _namespace(event: Event, observed: Observed) -> Iterator[Trouble]:
    """Whatever is missing in a namespace that is being deleted stays missing: only a person's word ends that."""
    if event.namespace_deleted_at is None:
        return
    told = (
        f"namespace {event.namespace} is being deleted, so the sale was ended and drains; nothing new can be made here"
    )
    if not observed.database.reachable or observed.ledger.problem:
        told += (
            ". What cannot be drained any more, because DB1's pod, the bridges or the ledger are gone, is given up "
            f"with the annotation {names.ABANDON_ANNOTATION}: {event.name}"
        )
    yield Trouble(Problem.NAMESPACE_TERMINATING, f"{told}.")


def _pool(observed: Observed) -> Iterator[Trouble]:
    problems = {PoolReason.USED_BEFORE: Problem.POOL_USED_BEFORE, PoolReason.IN_USE: Problem.POOL_IN_USE}
    if observed.pool and observed.pool.blocks:
        yield Trouble(problems[observed.pool.reason], observed.pool.message)


def _cut_off(event: Event, observed: Observed, now: datetime) -> Iterator[Trouble]:
    """Bridges that run, while DB1 has not heard of any: nothing would be committed, and nothing else would say so."""
    since = [_ready_since(p) for p in observed.pods if _component(p) == "database" and _ready(p)]
    if not since or observed.database.status is None or observed.database.workers:
        return
    if observed.database.connections and observed.database.connections.exhausted:
        return  # that is why, and it is told
    for pod in observed.pods:
        states = [s.get("state") or {} for s in _containers(pod)]
        idle = _component(pod) != "bridge" or _ready(pod) or "deletionTimestamp" in pod["metadata"]
        if idle or not states or not all("running" in state for state in states):
            continue
        begun = [datetime.fromisoformat(at) for state in states if (at := state["running"].get("startedAt"))]
        if now - max(_created(pod), *begun, *since) > CUT_OFF_PATIENCE:
            yield Trouble(
                Problem.PODS_NOT_STARTING,
                f"pod {pod['metadata']['name']} runs, but DB1 hears nothing of it. Its log tells why; check network "
                f"policies between it and {names.service(event.name)}.",
            )


def _connections(event: Event, observed: Observed) -> Iterator[Trouble]:
    known = observed.database.connections
    if known is None or event.spec is None:
        return
    if known.exhausted:
        yield Trouble(
            Problem.CONNECTIONS_EXHAUSTED,
            f"all connections of DB1 are taken ({known.taken} of {known.most}, {known.claimers} of them by claimers, "
            f"who may have {known.limit}), and bridges are refused. {_SHARE_CONNECTIONS}",
        )
    if known.most < (needed := room.needed(known, event.spec)):
        yield Trouble(
            Problem.MAX_CONNECTIONS_TOO_SMALL,
            f"DB1 runs with max_connections {known.most}, and bridge.maxReplicas {event.spec.bridge.max_replicas} asks "
            f"for {needed}: some bridges may be refused. Lower bridge.maxReplicas, or raise max_connections in "
            "database.parameters, which takes effect when DB1 starts the next time.",
        )


def _ledger(observed: Observed) -> Iterator[Trouble]:
    # A bridge's word beats the operator's, which looks from another namespace, perhaps through other network policies.
    ledgers = (worker.health.ledger for worker in observed.database.workers)
    answers = any(ledger is not None and ledger.state == "ok" for ledger in ledgers)
    if observed.ledger.problem and not (answers and observed.ledger.problem is Problem.LEDGER_UNREACHABLE):
        yield Trouble(observed.ledger.problem, observed.ledger.message)


def _inventory(observed: Observed) -> Iterator[Trouble]:
    if observed.inventory.problem:
        yield Trouble(observed.inventory.problem, observed.inventory.message)


def _workers(observed: Observed) -> Iterator[Trouble]:
    workers = observed.database.workers
    for target, states, reason, cure in (
        (
            "ledger",
            [worker.health.ledger for worker in workers],
            Problem.LEDGER_DOWN,
            "Claims wait in the queue; commits go on with the first that succeeds.",
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
            told = down[0].error or "no answer"
            yield Trouble(reason, f"{len(down)} of {len(workers)} bridges report the {target} down: {told}. {cure}")


def _dead_letters(event: Event, observed: Observed) -> Iterator[Trouble]:
    if count := observed.database.dead_letters:
        yield Trouble(
            Problem.DEAD_LETTERS,
            f"{count} claims gave up and hold their slots. `intake-admin dead-letters list {event.name}` tells why; "
            "mend the cause, then replay them.",
        )


def _consistency(event: Event, observed: Observed, stage: Stage) -> Iterator[Trouble]:
    said = verdict(event, observed, stage)
    if said.agrees is False:
        yield Trouble(
            Problem.LEDGER_INCONSISTENT,
            f"DB1 and the ledger contradict each other: {said.message}. Nothing is changed by itself; "
            f"`intake-admin reconcile {event.name}` names the claims.",
        )


def _overdue(event: Event, stage: Stage, now: datetime) -> Iterator[Trouble]:
    if stage is not Stage.DRAIN or event.spec is None:
        return
    since = min(filter(None, (event.deleted_at, event.namespace_deleted_at, event.spec.window.closes_at)))
    patience = timedelta(seconds=event.spec.teardown.drain_timeout_seconds)
    if now - since > patience:
        yield Trouble(
            Problem.DRAIN_OVERDUE,
            f"draining since {since.isoformat(timespec='seconds')}, longer than spec.teardown.drainTimeoutSeconds. "
            f"It goes on; to give up what is left, set annotation {names.ABANDON_ANNOTATION}: {event.name}.",
        )


def _why_not_starting(pod: Manifest, waiting: list[dict[str, Any]]) -> str:
    conditions = (pod.get("status") or {}).get("conditions") or []
    unscheduled = next((c for c in conditions if c["type"] == "PodScheduled" and c["status"] != "True"), None)
    if unscheduled:
        return str(unscheduled.get("message") or unscheduled.get("reason") or "it cannot be scheduled")
    named = next((w for w in waiting if w.get("reason") not in {None, "PodInitializing"}), None)
    if named is None:
        return ""
    if named["reason"] == "ContainerCreating":
        return "a volume or Secret it mounts is not there yet; `kubectl describe pod` names it"
    return f"{named['reason']} {named.get('message', '')}".strip()


def _containers(pod: Manifest) -> list[dict[str, Any]]:
    return (pod.get("status") or {}).get("containerStatuses") or []


def _component(pod: Manifest) -> str | None:
    component: str | None = pod["metadata"]["labels"].get("app.kubernetes.io/component")
    return component


def _ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _ready_since(pod: Manifest) -> datetime:
    conditions = pod["status"]["conditions"]
    return datetime.fromisoformat(next(c for c in conditions if c["type"] == "Ready")["lastTransitionTime"])


def _created(pod: Manifest) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
