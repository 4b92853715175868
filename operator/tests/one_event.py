"""A cluster as the admin API asks it: one event with its Secrets, and users with rights."""

import base64
from collections.abc import Mapping

from intake_operator import names
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import Event, Manifest


class OneEvent(Cluster):
    """One event with its DB1. A token is the name of its user; rights are (verb, subresource) by user."""

    def __init__(
        self, event: Event, slots: int, rights: Mapping[str, set[tuple[str, str]]], ledger_uri: str = ""
    ) -> None:
        self._event = event
        self._slots = slots
        self._rights = rights
        self._ledger_uri = ledger_uri

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        if kind == names.KIND:
            spec = {
                "pool": self._event.pool,
                "inventorySize": self._slots,
                "batchSize": 5,
                "window": {"opensAt": "2026-12-01T18:00:00Z", "closesAt": "2026-12-01T20:00:00Z"},
                "commitTarget": {"postgres": {"secretRef": {"name": "core-ledger", "key": "uri"}}},
            }
            metadata = {"name": name, "namespace": namespace, "uid": self._event.uid, "generation": 1}
            return {"metadata": metadata | {"creationTimestamp": "2026-11-01T00:00:00Z"}, "spec": spec}
        labels = {names.EVENT_UID_LABEL: self._event.uid}
        data = {"password": "", "uri": base64.b64encode(self._ledger_uri.encode()).decode()}
        return {"metadata": {"name": name, "labels": labels}, "data": data}

    async def review(self, kind: str, spec: Manifest) -> Manifest:
        if kind == "TokenReview":
            return {"authenticated": True, "audiences": spec.get("audiences"), "user": {"username": spec["token"]}}
        asked = spec["resourceAttributes"]
        return {"allowed": (asked["verb"], asked["subresource"]) in self._rights[spec["user"]]}
