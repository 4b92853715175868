"""Which pods may connect to DB1, and whether it may be evicted."""

from typing import Final

from intake_operator import names
from intake_operator.children import common
from intake_operator.children.access import PORT
from intake_operator.model.observed import Event, Manifest

# Labels of the operator's pod, whatever else the chart is told to give it.
OPERATOR: Final = {"app.kubernetes.io/part-of": "intake-engine", "app.kubernetes.io/component": "operator"}


def network_policy(event: Event, operator_namespace: str) -> Manifest:
    """Lets pods connect to DB1: all of its own namespace, all of the namespaces that the spec allows, and the operator.

    Any pod can carry the operator's labels, so its namespace counts as well. An operator that runs outside of the
    cluster is not in the policy. This object is also the anchor that keeps the other children (kinship.py).
    """
    peers: list[Manifest] = [{"podSelector": {}}]
    if allowed := event.spec and event.spec.database.allowed_namespaces:
        peers.append({"namespaceSelector": _named(*sorted(allowed))})
    if operator_namespace:
        peers.append({"namespaceSelector": _named(operator_namespace), "podSelector": {"matchLabels": dict(OPERATOR)}})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": common.metadata(event, names.database(event.name), "database"),
        "spec": {
            "podSelector": {"matchLabels": common.selector(event, "database")},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }


def _named(*namespaces: str) -> Manifest:
    """Namespaces by their names, by a label that Kubernetes itself sets."""
    key = "kubernetes.io/metadata.name"
    return {"matchExpressions": [{"key": key, "operator": "In", "values": list(namespaces)}]}


def disruption_budget(event: Event, *, keep_pod: bool, evict_broken: bool) -> Manifest:
    """No voluntary eviction of DB1 with `keep_pod`; otherwise its node may be drained.

    `evict_broken` says whether that is allowed, all the same, for a pod that is not ready.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": common.metadata(event, names.database(event.name), "database"),
        "spec": {
            "maxUnavailable": 0 if keep_pod else 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow" if evict_broken else "IfHealthyBudget",
            "selector": {"matchLabels": common.selector(event, "database")},
        },
    }
