"""The number of pods of a workload, which the scaler alone sets."""

from datetime import datetime

from intake_operator import names
from intake_operator.model.observed import Event, Manifest


def database(event: Event, replicas: int) -> Manifest:
    """The replicas of DB1's StatefulSet, and nothing else of it."""
    return _scaled("StatefulSet", event, names.database(event.name), replicas)


def bridges(event: Event, replicas: int, scale_in_after: datetime) -> Manifest:
    """The replicas of the bridges' Deployment, and until when none of them is removed."""
    manifest = _scaled("Deployment", event, names.bridge(event.name), replicas)
    until = scale_in_after.isoformat(timespec="seconds")
    manifest["metadata"]["annotations"] = {names.SCALE_IN_AFTER_ANNOTATION: until}
    return manifest


def _scaled(kind: str, event: Event, name: str, replicas: int) -> Manifest:
    meta = {"name": name, "namespace": event.namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": {"replicas": replicas}}
