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


def created(pod: Manifest) -> datetime:
    """When it was created."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def conditions(pod: Manifest) -> list[dict[str, Any]]:
    """Its conditions."""
    return (pod.get("status") or {}).get("conditions") or []


def containers(pod: Manifest) -> list[dict[str, Any]]:
    """The status of each of its containers; empty before the kubelet has reported any."""
    return (pod.get("status") or {}).get("containerStatuses") or []
