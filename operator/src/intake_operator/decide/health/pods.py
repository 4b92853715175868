"""Pods that do not start, are killed for their memory, or do not end."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator.decide.health.finding import Finding, told
from intake_operator.decide.stage import Stage, was_claimable
from intake_operator.model import pods
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reasons import Problem

# Longer than a start takes on a healthy node that has the image (DB1 4 s, bridge 2 s, measured), and short enough for a
# user who has just applied a manifest and waits.
START_PATIENCE: Final = timedelta(seconds=20)

# Beyond the grace period, in which the kubelet kills a pod: it then has to unmount its volumes and to report.
END_PATIENCE: Final = timedelta(seconds=30)

# A container that was killed for its memory and runs again is told of for so long.
KILLED_LATELY: Final = timedelta(minutes=10)

IMAGE_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})

# Our own containers, and the fields that say what they are made of.
_IMAGES: Final = {
    "postgres": "spec.database.image",
    "bridge": "the operator's bridge image (see docs/upgrading.md if the event keeps a former one)",
}
_RESOURCES: Final = {"postgres": "spec.database.resources", "bridge": "spec.bridge.resources"}


def of_pods(event: Event, observed: Observed, stage: Stage, now: datetime) -> Iterator[Finding]:
    """What is wrong with each pod."""
    # DB1's first: a bridge waits for it.
    for pod in sorted(observed.pods, key=lambda pod: pods.component(pod) != "database"):
        if pods.is_terminating(pod):
            yield from _ending(event, observed, pod, stage, now)
        elif stage is not Stage.REMOVE and not (pods.component(pod) == "bridge" and pods.has_ended(pod)):
            yield from _running(pod, now, stops=_stops(observed, pod))


def _stops(observed: Observed, pod: Manifest) -> bool:
    """Whether the sale needs this pod: DB1's always, a bridge's while no bridge is registered in DB1."""
    return pods.component(pod) != "bridge" or not observed.database.workers


def _running(pod: Manifest, now: datetime, *, stops: bool) -> Iterator[Finding]:
    ready = pods.is_ready(pod)
    if killed := _killed(pod, now):
        yield Finding(Problem.OUT_OF_MEMORY, killed, stops=stops and not ready)
    elif not ready and (image := _image(pod)):
        yield Finding(Problem.IMAGE_UNAVAILABLE, image, stops=stops)
    elif not ready and (why := _why_not_ready(pod, now)):
        yield Finding(Problem.PODS_NOT_STARTING, f"pod {pod['metadata']['name']} {why}", stops=stops)


def _every(pod: Manifest) -> list[dict[str, Any]]:
    """Init containers come first: the others wait for them."""
    return [*pods.init_containers(pod), *pods.containers(pod)]


def _image(pod: Manifest) -> str:
    for each in _every(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE_REASONS:
            name = each.get("name", "")
            where = _IMAGES.get(name, f"the image of container {name}, which is not ours, where it is injected")
            what = f"{waiting['reason']}): {told(waiting.get('message'))}"
            return f"pod {pod['metadata']['name']} cannot pull its image ({what}. Correct {where}."
    return ""


def _killed(pod: Manifest, now: datetime) -> str:
    for each in _every(pod):
        states = [each.get("state") or {}, each.get("lastState") or {}]
        ends = [state["terminated"] for state in states if "terminated" in state]
        killed = next((end for end in ends if end.get("reason") == "OOMKilled"), None)
        if killed is None:
            continue
        at = killed.get("finishedAt")
        if at and now - datetime.fromisoformat(at) > KILLED_LATELY and "waiting" not in states[0]:
            continue
        name = each.get("name", "")
        limit, count = pods.memory_limit(pod, name), int(each.get("restartCount") or 0)
        used = f"it used more than its limit of {limit}" if limit else "its node had none left, and it has no limit"
        again = f" It was restarted {count} times." if count > 1 else ""
        where = _RESOURCES.get(name, "its resources, where it is injected")
        return (
            f"container {name} of pod {pod['metadata']['name']} was killed for its memory: {used}.{again} "
            f"Raise {where}."
        )
    return ""


def _why_not_ready(pod: Manifest, now: datetime) -> str:
    """What keeps it from being ready for longer than a start takes; empty where nothing is known, or it is early."""
    since = pods.unready_since(pod)
    if now - since <= START_PATIENCE:
        return ""
    unscheduled = next((c for c in pods.conditions(pod) if c["type"] == "PodScheduled" and c["status"] != "True"), None)
    if unscheduled:
        why = told(unscheduled.get("message") or unscheduled.get("reason")) or "it cannot be scheduled"
        return f"does not start: {why}"
    if pods.has_ended(pod):
        return f"has ended: {told(pods.why_ended(pod))}"
    if why := next(filter(None, map(_why_not_running, _every(pod))), ""):
        return f"does not start: {why}"
    reasons = [((each.get("state") or {}).get("waiting") or {}).get("reason") for each in _every(pod)]
    if "ContainerCreating" in reasons or (reasons and not pods.containers(pod)):
        return "does not start: a volume or Secret that it mounts does not exist yet; `kubectl describe pod` names it"
    for each in pods.init_containers(pod):
        name, running = each.get("name", ""), (each.get("state") or {}).get("running")
        if running is not None and not pods.is_sidecar(pod, name):
            return f"does not start: init container {name} has not ended yet. Read its log"
    return _why_unready(pod, now) if pods.component(pod) == "database" else ""


def _why_not_running(container: dict[str, Any]) -> str:
    """Why a container waits, or has ended."""
    name, state = container.get("name", ""), container.get("state") or {}
    last = (container.get("lastState") or {}).get("terminated") or {}
    code = f", last with exit code {last['exitCode']}" if last.get("exitCode") else ""
    waiting, ended, count = state.get("waiting") or {}, state.get("terminated") or {}, container.get("restartCount")
    if waiting.get("reason") not in {None, "PodInitializing", "ContainerCreating"}:
        return f"container {name}: {waiting['reason']} {told(waiting.get('message'))}".strip() + code
    if ended.get("exitCode"):
        return f"container {name} ended with exit code {ended['exitCode']} {told(ended.get('message'))}".strip()
    if "running" in state and last and not container.get("ready"):
        times = "once" if count == 1 else f"{count} times"
        return f"container {name} was restarted {times}{code}. Read its log with --previous"
    return ""


def _why_unready(pod: Manifest, now: datetime) -> str:
    """Of a DB1 that runs."""
    begun = [(each.get("state") or {}).get("running") for each in pods.containers(pod)]
    if not begun or not all(begun):
        return ""
    at = max(datetime.fromisoformat(each["startedAt"]) for each in begun if each and "startedAt" in each)
    if now - at <= START_PATIENCE:
        return ""
    node = pods.node(pod)
    where = f", and whether its node is well: `kubectl get node {node}`" if node else ""
    return (
        f"has run since {at.isoformat(timespec='seconds')} and is not ready: Postgres accepts no connections, or "
        f"nobody can say. Read its log{where}"
    )


def _ending(event: Event, observed: Observed, pod: Manifest, stage: Stage, now: datetime) -> Iterator[Finding]:
    due = pods.ends_at(pod)
    if now - due <= END_PATIENCE:
        return
    database, name = pods.component(pod) == "database", pods.node(pod)
    node = f"node {name}" if name else "its node"
    message = f"pod {pod['metadata']['name']} should have ended at {due.isoformat(timespec='seconds')}, and "
    data_is_here = event.spec is not None and event.spec.database.volume is None and was_claimable(event, observed)
    if finalizers := pod["metadata"].get("finalizers"):
        message += f"its finalizers keep it: {', '.join(map(told, finalizers))}. Whoever set them has to remove them."
    elif database and data_is_here and stage in {Stage.SERVE, Stage.DRAIN}:
        message += f"{node} does not confirm it. The pod is the data: bring {node} back."
    else:
        message += (
            f"{node} does not confirm it: perhaps it is down. Bring it back; or make sure that the machine is off, and "
            f"`kubectl delete node {name or '<node>'}`. Kubernetes then removes the pod."
        )
    if database and stage in {Stage.SERVE, Stage.DRAIN}:
        message += " Until then DB1 answers nobody: a new pod starts when this one is gone."
    yield Finding(Problem.PODS_NOT_ENDING, message, stops=database or stage is Stage.REMOVE)
