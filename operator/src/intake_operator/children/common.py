"""What all children share: metadata, labels, and the security contexts of Pod Security `restricted`."""

from collections.abc import Mapping
from typing import Any

from intake_operator import names
from intake_operator.children.installation import Installation
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.pod_settings import PodSettings


def metadata(event: Event, name: str, component: str) -> Manifest:
    """Name, namespace and labels of a child; `kinship` adds its owners."""
    return {"name": name, "namespace": event.namespace, "labels": labels(event, component)}


def labels(event: Event, component: str) -> dict[str, str]:
    """The recommended labels of Kubernetes, and ours."""
    return {
        names.EVENT_LABEL: event.name,
        names.EVENT_UID_LABEL: event.uid,
        "app.kubernetes.io/name": "intake-engine",
        "app.kubernetes.io/instance": event.name,
        names.COMPONENT_LABEL: component,
        "app.kubernetes.io/part-of": "intake-engine",
        "app.kubernetes.io/managed-by": "intake-operator",
    }


def selector(event: Event, component: str) -> dict[str, str]:
    """Labels that never change: selectors are immutable."""
    return {names.EVENT_LABEL: event.name, names.COMPONENT_LABEL: component}


def owner(event: Event) -> Manifest:
    """An owner reference to the event, by which people and Argo CD find the child. It blocks no deletion."""
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": event.name, "uid": event.uid}


def status_of(event: Event, status: Mapping[str, Any]) -> Manifest:
    """The event with its status and nothing else, for the status subresource."""
    meta = {"name": event.name, "namespace": event.namespace}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "status": status}


def pod_template(
    event: Event, component: str, uid: int, settings: PodSettings, installation: Installation, **spec: Any
) -> Manifest:
    """What every pod of ours has, what the event or the chart says of it, and `spec`. Our labels and fields win."""
    own = labels(event, component) | {names.GUARD_LABEL: installation.guard}
    meta: Manifest = {"labels": (settings.pod_labels or {}) | own}
    if settings.pod_annotations:
        meta["annotations"] = settings.pod_annotations
    always = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": restricted_pod(uid if installation.fixed_ids else None),
    }
    return {"metadata": meta, "spec": _scheduling(settings, selector(event, component)) | always | spec}


def _scheduling(settings: PodSettings, own: Mapping[str, str]) -> Manifest:
    """The fields of a pod that say where it runs. A spread constraint without a selector counts its own kind."""
    found = settings.part("node_selector", "tolerations", "affinity", "priority_class_name", "image_pull_secrets")
    constraints = settings.part("topology_spread_constraints").get("topologySpreadConstraints", ())
    if constraints:
        found["topologySpreadConstraints"] = [{"labelSelector": {"matchLabels": own}} | each for each in constraints]
    return found


def restricted_pod(uid: int | None) -> dict[str, Any]:
    """Pod security context for a numeric user; with None for the user that the cluster's admission sets."""
    ids = {} if uid is None else {"runAsUser": uid, "runAsGroup": uid, "fsGroup": uid}
    return {
        "runAsNonRoot": True,
        **ids,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def restricted_container() -> dict[str, Any]:
    """Container security context: no privileges, and a read-only file system but for the mounts."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
