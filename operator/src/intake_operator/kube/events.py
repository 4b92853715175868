"""Kubernetes Events: one for each condition whose reason changed."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.kube.cached import Live
from intake_operator.kube.client import ApiError
from intake_operator.model.observed import Event, Manifest
from intake_operator.reasons import ConditionType

# No Event for ScalingActive, which changes with every wave of buyers, and for Ready, which repeats the others.
QUIET = frozenset({ConditionType.SCALING_ACTIVE, ConditionType.READY})


def transitions(event: Event, status: Mapping[str, Any], now: datetime) -> Iterator[Manifest]:
    """An Event for every condition with another reason than in the old status."""
    before = {c["type"]: c["reason"] for c in event.status.get("conditions") or ()}
    for condition in status["conditions"]:
        kind, reason = condition["type"], condition["reason"]
        if kind in QUIET or before.get(kind) == reason:
            continue
        bad = kind == ConditionType.DEGRADED and condition["status"] == "True"
        stamp = now.isoformat(timespec="seconds")
        unique = hashlib.sha256(f"{event.uid}{kind}{reason}{now.isoformat()}".encode()).hexdigest()[:16]
        yield {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{event.name}.{unique}", "namespace": event.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": event.name,
                "namespace": event.namespace,
                "uid": event.uid,
            },
            "type": "Warning" if bad else "Normal",
            "reason": reason,
            "message": f"{kind}: {condition['message']}"[:1000],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }


def last_seen(found: Manifest) -> datetime:
    """When an Event was last repeated: which field says so depends on how its author writes Events."""
    series = (found.get("series") or {}).get("lastObservedTime")
    at = series or found.get("lastTimestamp") or found.get("eventTime") or found["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(at)


async def post(cluster: Live, found: Iterable[Manifest]) -> None:
    """Create them. Events are for people: a refusal, as in a namespace that is being deleted, does not end the pass."""
    for manifest in found:
        try:
            await cluster.create(manifest, names.FIELD_MANAGER)
        except ApiError as error:
            if error.status not in {403, 404, 409, 422}:
                raise
