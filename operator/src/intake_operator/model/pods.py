"""What the API server says about a pod."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.model.observed import Manifest


def component(pod: Manifest) -> str:
    """What runs in it: `database` or `bridge`; empty where it has no such label."""
    return str((pod["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL, ""))


def of_component(pods: Iterable[Manifest], wanted: str) -> list[Manifest]:
    """The pods of one component, also those that are terminating."""
    return [pod for pod in pods if component(pod) == wanted]


def is_terminating(pod: Manifest) -> bool:
    """Whether it was deleted and has not ended yet."""
    return "deletionTimestamp" in pod["metadata"]


def ends_at(pod: Manifest) -> datetime:
    """When its grace period is over. Only for a pod that is terminating."""
    return datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])


def is_ready(pod: Manifest) -> bool:
    """Whether its condition Ready is true."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions(pod))


def has_started(pod: Manifest) -> bool:
    """Whether each of its containers has passed its startup probe since it was last started."""
    states = containers(pod)
    return bool(states) and all(state.get("started") for state in states)


def ready_since(pod: Manifest) -> datetime:
    """When its condition Ready last changed. Only for a pod that has this condition."""
    return datetime.fromisoformat(next(c for c in conditions(pod) if c["type"] == "Ready")["lastTransitionTime"])


def unready_since(pod: Manifest) -> datetime:
    """When a pod that is not ready ceased to be, or was created."""
    changed = [c["lastTransitionTime"] for c in conditions(pod) if c["type"] == "Ready" and "lastTransitionTime" in c]
    return max([created(pod), *map(datetime.fromisoformat, changed)])


def created(pod: Manifest) -> datetime:
    """When it was created."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def conditions(pod: Manifest) -> list[dict[str, Any]]:
    """Its conditions."""
    return _status(pod).get("conditions") or []


def has_ended(pod: Manifest) -> bool:
    """All its containers have ended for good, as after an eviction by the kubelet."""
    return _status(pod).get("phase") in {"Failed", "Succeeded"}


def why_ended(pod: Manifest) -> str:
    """What the kubelet says of a pod that it has ended, such as `Evicted` with its reason."""
    status = _status(pod)
    return f"{status.get('reason', 'Failed')} {status.get('message', '')}".strip()


def containers(pod: Manifest) -> list[dict[str, Any]]:
    """The status of each container, injected ones included; those of init containers are not among them.

    Empty before the kubelet has reported any.
    """
    return _status(pod).get("containerStatuses") or []


def init_containers(pod: Manifest) -> list[dict[str, Any]]:
    """The status of each init container, sidecars included."""
    return _status(pod).get("initContainerStatuses") or []


def is_sidecar(pod: Manifest, container: str) -> bool:
    """Whether this init container runs as long as the pod does."""
    return any(each.get("restartPolicy") == "Always" for each in _definitions(pod, container))


def memory_limit(pod: Manifest, container: str) -> str:
    """The memory limit of one of its containers; empty without one."""
    limits = [(each.get("resources") or {}).get("limits") or {} for each in _definitions(pod, container)]
    return next((str(each["memory"]) for each in limits if "memory" in each), "")


def node(pod: Manifest) -> str:
    """The node that it was given to; empty before."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def _definitions(pod: Manifest, container: str) -> list[dict[str, Any]]:
    spec = pod.get("spec") or {}
    every = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return [each for each in every if each.get("name") == container]


def _status(pod: Manifest) -> dict[str, Any]:
    status: dict[str, Any] = pod.get("status") or {}
    return status
