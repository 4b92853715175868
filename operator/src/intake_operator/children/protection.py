"""Which pods may connect to DB1, and whether it may be evicted."""

from intake_operator import names
from intake_operator.children import common
from intake_operator.children.access import PORT
from intake_operator.model.observed import Event, Manifest


def network_policy(event: Event) -> Manifest:
    """Lets pods of DB1's namespace (web back ends and bridges) and operators connect to DB1, and no other pods.

    This object is also the anchor that keeps the other children (kinship.py).
    """
    operator = {
        "namespaceSelector": {},
        "podSelector": {
            "matchLabels": {"app.kubernetes.io/part-of": "intake-engine", "app.kubernetes.io/component": "operator"}
        },
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": common.metadata(event, names.database(event.name), "database"),
        "spec": {
            "podSelector": {"matchLabels": common.selector(event, "database")},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}, operator], "ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }


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
