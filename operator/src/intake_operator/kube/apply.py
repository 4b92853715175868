"""Server-side apply of children: only those that changed, and only those of the event."""

import hashlib
import json
from collections import defaultdict

from intake_operator import names
from intake_operator.kube.cached import Live
from intake_operator.kube.store import trimmed
from intake_operator.model.observed import ChildKey, Event, Manifest, owned
from intake_operator.model.secrets import without_content


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

    What it remembers (a digest of the manifest, and one of the result without its status) only saves requests: after a
    restart everything is applied once more.
    """

    def __init__(self, cluster: Live) -> None:
        self._cluster = cluster
        self._applied: defaultdict[str, dict[ChildKey, tuple[str, str]]] = defaultdict(dict)
        """By the event's uid."""

    async def apply(self, event: Event, wanted: Manifest, existing: Manifest | None) -> bool:
        """Apply `wanted`; True if a request was needed.

        Raises NotOursError if an object of that name exists which does not belong to this event.
        """
        key, applied = (wanted["kind"], wanted["metadata"]["name"]), self._applied[event.uid]
        digest = _digest(wanted)
        if existing and applied.get(key) == (digest, _settings(existing)):
            return False
        existing = existing or await self._cluster.get(key[0], event.namespace, key[1])
        if existing and not owned(existing, event.uid):
            raise NotOursError(*key, existing)
        if existing:
            # What was observed may be gone by now. An apply would create it anew, a Secret without its password: with
            # the uid, the API server refuses.
            wanted = wanted | {"metadata": wanted["metadata"] | {"uid": existing["metadata"]["uid"]}}
        result = await self._cluster.apply(wanted, names.FIELD_MANAGER)
        applied[key] = (digest, _settings(result))
        return True

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event that is gone."""
        self._applied.pop(uid, None)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _settings(found: Manifest) -> str:
    """A digest of what people and controllers set, and not of what they report: a status changes all the time."""
    kept = without_content(found) if found["kind"] == "Secret" else trimmed(found)
    meta = {name: value for name, value in kept["metadata"].items() if name != "resourceVersion"}
    rest = {name: value for name, value in kept.items() if name not in {"apiVersion", "kind", "metadata", "status"}}
    return _digest(rest | {"metadata": meta})
