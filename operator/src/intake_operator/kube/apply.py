"""Server-side apply of children: only those that changed, and only those of the event."""

import hashlib
import json
from collections import defaultdict

from intake_operator import names
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import ChildKey, Event, Manifest, owned


class NotOursError(Exception):
    """An object that has the name of a child does not belong to the event."""

    def __init__(self, kind: str, name: str, found: Manifest) -> None:
        earlier = (found["metadata"].get("labels") or {}).get(names.EVENT_UID_LABEL)
        whose = (
            f"belongs to an earlier IntakeEvent of this name (uid {earlier}): claims may be in it (docs/runbooks.md)"
            if earlier
            else "does not belong to this event. Remove it, or give the event another name"
        )
        super().__init__(f"{kind} {name} exists and {whose}.")


class Applier:
    """Applies children, and skips those that are as the last apply left them.

    What it remembers (a digest of the manifest, and the resourceVersion of the result) only saves requests: after a
    restart everything is applied once more.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: defaultdict[str, dict[ChildKey, tuple[str, str]]] = defaultdict(dict)
        """By the event's uid."""

    async def apply(self, event: Event, wanted: Manifest, existing: Manifest | None) -> bool:
        """Apply `wanted`; True if a request was needed.

        Raises NotOursError if an object of that name exists which does not belong to this event.
        """
        key, applied = (wanted["kind"], wanted["metadata"]["name"]), self._applied[event.uid]
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        if existing and applied.get(key) == (digest, existing["metadata"]["resourceVersion"]):
            return False
        existing = existing or await self._cluster.get(key[0], event.namespace, key[1])
        if existing and not owned(existing, event.uid):
            raise NotOursError(*key, existing)
        result = await self._cluster.apply(wanted, names.FIELD_MANAGER)
        applied[key] = (digest, result["metadata"]["resourceVersion"])
        return True

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event that is gone."""
        self._applied.pop(uid, None)
