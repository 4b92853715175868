"""Pods that should be there and are not, and objects that should be gone."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.decide import memory, needs, scaling
from intake_operator.decide.health.finding import Finding, told
from intake_operator.decide.health.pods import END_PATIENCE, START_PATIENCE
from intake_operator.model import pods
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import Problem

# As long as the bridge's startup probe allows: a bridge that has not registered in DB1 by then is not just slow.
CUT_OFF_PATIENCE: Final = timedelta(seconds=60)


def without_pods(event: Event, observed: Observed, now: datetime) -> Iterator[Finding]:
    """Workloads whose controllers cannot create their pods: a quota, Pod Security, a policy."""
    since = memory.without_database_since(event, observed)
    if needs.refusals(event, observed) and since is not None and now - since > START_PATIENCE:
        name = names.database(event.name)
        why = told(observed.refusal) or (
            f"Kubernetes does not say why; `kubectl describe statefulset {name}` and its controller's log may"
        )
        yield Finding(
            Problem.PODS_NOT_CREATED,
            f"StatefulSet {name} has no pod, so no claim is answered: {why}. Its controller tries again by itself.",
        )
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    wanted = scaling.replicas_of(deployment)
    for condition in ((deployment or {}).get("status") or {}).get("conditions") or ():
        if wanted and condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            workers = len(observed.database.workers)
            yield Finding(
                Problem.PODS_NOT_CREATED,
                f"Deployment {names.bridge(event.name)} cannot create pods, and {workers} of {wanted} bridges are "
                f"registered in DB1: {told(condition.get('message') or condition.get('reason'))}. Claims wait in the "
                "queue; its controller tries again by itself.",
                stops=not workers,
            )


def cut_off(event: Event, observed: Observed, now: datetime) -> Iterator[Finding]:
    """Bridges that run and are not registered in DB1."""
    since = [pods.ready_since(p) for p in pods.of_component(observed.pods, "database") if pods.is_ready(p)]
    if not since or observed.database.status is None:
        return
    if observed.database.connections and observed.database.connections.exhausted:
        return  # that is the cause, and it has its own finding
    registered = {worker.pod for worker in observed.database.workers}
    for pod in pods.of_component(observed.pods, "bridge"):
        states = [s.get("state") or {} for s in pods.containers(pod)]
        idle = pods.is_ready(pod) or pods.is_terminating(pod) or pod["metadata"].get("uid") in registered
        if idle or not states or not all("running" in state for state in states):
            continue
        begun = [datetime.fromisoformat(at) for state in states if (at := state["running"].get("startedAt"))]
        if now - max(pods.unready_since(pod), *begun, *since) > CUT_OFF_PATIENCE:
            where = f" on node {node}" if (node := pods.node(pod)) else ""
            yield Finding(
                Problem.PODS_NOT_STARTING,
                f"pod {pod['metadata']['name']} runs{where}, but is not registered in DB1. Read its log, and check "
                f"network policies between it and {names.service(event.name)}.",
                stops=not registered,
            )


def too_few_bridges(event: Event, observed: Observed, now: datetime) -> Iterator[Finding]:
    """Fewer bridges in DB1 than are wanted, while intents wait. Only where no pod of a bridge says why."""
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    wanted, workers = scaling.replicas_of(deployment), len({worker.pod for worker in observed.database.workers})
    status = observed.database.status
    if deployment is None or status is None or workers >= wanted or not status.queue.depth:
        return
    if event.spec is None or event.spec.paused or status.queue.oldest_seconds <= CUT_OFF_PATIENCE.total_seconds():
        return
    newest = max(map(pods.created, pods.of_component(observed.pods, "bridge")), default=None)
    added = scaling.added_at(deployment)
    recent = [at for at in (newest, added if workers else None) if at is not None]
    if any(now - at <= CUT_OFF_PATIENCE for at in recent):
        return
    yield Finding(
        Problem.TOO_FEW_BRIDGES,
        f"{workers} of {wanted} bridges are registered in DB1, and the oldest intent has waited for more than "
        f"{CUT_OFF_PATIENCE.seconds} s. `kubectl describe deployment {names.bridge(event.name)}` and the logs of its "
        "pods say what keeps the others.",
        stops=not workers,
    )


def not_ending(observed: Observed, now: datetime) -> Iterator[Finding]:
    """Objects whose deletion does not end, once no pod needs them any more."""
    if observed.pods:
        return
    for (kind, name), child in observed.children.items():
        meta = child["metadata"]
        if (at := meta.get("deletionTimestamp")) and now - datetime.fromisoformat(at) > END_PATIENCE:
            kept = ", ".join(told(each) for each in meta.get("finalizers") or ())
            why = f"its finalizers keep it: {kept}" if kept else "the API server does not remove it"
            yield Finding(
                Problem.OBJECTS_NOT_ENDING,
                f"{kind} {name} is being deleted since {at}, and {why}. `kubectl describe` says what still uses it; "
                "whoever set a finalizer has to remove it.",
            )
