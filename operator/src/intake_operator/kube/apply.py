"""Server-side apply of children: only what moved, and only what is ours."""

import hashlib
import json

from intake_operator import names
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import Event, Manifest, owned


class NotOursError(Exception):
    """An object of the name that we need belongs to somebody else."""

    def __init__(self, kind: str, name: str, found: Manifest) -> None:
        earlier = (found["metadata"].get("labels") or {}).get(names.EVENT_UID_LABEL)
        whose = (
            f"belongs to an earlier IntakeEvent of this name (uid {earlier}): claims may be in it (docs/runbooks.md)"
            if earlier
            else "does not belong to this event. Remove it, or give the event another name"
        )
        super().__init__(f"{kind} {name} exists and {whose}.")


class Applier:
    """Applies children, and skips those that are as it left them.

    What it remembers (a digest of the wish, the resourceVersion of the result) saves calls and is never relied on:
    after a restart everything is applied once more.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._left: dict[tuple[str, str, str], tuple[str, str]] = {}

    async def apply(self, event: Event, wanted: Manifest, existing: Manifest | None) -> bool:
        """Make `wanted` so; True if it was sent.

        Raises NotOursError when an object of that name is there which does not belong to this event.
        """
        kind, meta = wanted["kind"], wanted["metadata"]
        key = (kind, meta["namespace"], meta["name"])
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        if existing and self._left.get(key) == (digest, existing["metadata"]["resourceVersion"]):
            return False
        existing = existing or await self._cluster.get(*key)
        if existing and not owned(existing, event.uid):
            raise NotOursError(kind, meta["name"], existing)
        result = await self._cluster.apply(wanted, names.FIELD_MANAGER)
        self._left[key] = (digest, result["metadata"]["resourceVersion"])
        return True

    def forget(self, namespace: str, event: str) -> None:
        """Drop what is remembered of an event that is gone."""
        gone = [key for key in self._left if key[1] == namespace and key[2].startswith(f"{event}-")]
        for key in gone:
            del self._left[key]
