"""The API server: the objects of one namespace, what admission refuses, and when a deleted object is gone."""

import marshal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.kube.client import ApiError
from intake_operator.model.observed import ChildKey, Manifest

OPERATOR, PERSON = "intake-operator", "person"
COLLECTOR, NAMESPACES = "generic-garbage-collector", "namespace-controller"

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
IN_USE = "kubernetes.io/pvc-protection"

GUARDED = frozenset({"StatefulSet", "Deployment", "Service", "Secret", "PersistentVolumeClaim", "NetworkPolicy"})
# Not gone at once when they are deleted: the kubelet ends them.
GRACEFUL = frozenset({"Pod"})
WITH_REPLICAS = frozenset({"StatefulSet", "Deployment"})


def copied(manifest: Manifest) -> Manifest:
    """A copy, as a client gets it: it shares no object with the server."""
    found: Manifest = marshal.loads(marshal.dumps(manifest))
    return found


def refused(status: int, reason: str, message: str = "") -> ApiError:
    """The error of a request that the API server refuses."""
    return ApiError(status, reason, message)


@dataclass(frozen=True)
class Deletion:
    """A request to delete that was granted."""

    key: ChildKey
    by: str


class Api:
    """Objects by kind and name. `clock` gives the time; `protected` says whether the chart's policies are installed."""

    def __init__(self, namespace: str, clock: Callable[[], datetime], *, protected: bool) -> None:
        self.namespace, self._clock, self.protected = namespace, clock, protected
        self.objects: dict[ChildKey, Manifest] = {}
        self.deletions: list[Deletion] = []
        self.hear: Callable[[str, Manifest], None] = lambda *_: None
        """What a watch would tell: the type of the change, and the object."""
        self._applied: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._version = 0
        self.put({"kind": "Namespace", "metadata": {"name": namespace, "finalizers": ["kubernetes"]}})

    # What controllers and people use.

    def find(self, kind: str, name: str) -> Manifest | None:
        """The object itself, to be read."""
        return self.objects.get((kind, name))

    def of(self, kind: str) -> list[Manifest]:
        """All objects of a kind."""
        return [each for (found, _), each in self.objects.items() if found == kind]

    def put(self, manifest: Manifest) -> Manifest:
        """Create an object."""
        key = manifest["kind"], manifest["metadata"]["name"]
        if key in self.objects:
            raise refused(409, "AlreadyExists")
        if key[0] != "Namespace" and self.terminating:
            raise refused(403, "Forbidden", "the namespace is being terminated")
        made = self.objects[key] = copied(manifest)
        meta = made["metadata"]
        meta["uid"], meta["creationTimestamp"] = f"uid-{self._version}", self._clock().isoformat()
        meta["generation"] = 1
        if key[0] != "Namespace":
            meta["namespace"] = self.namespace
        if key[0] == "PersistentVolumeClaim":
            meta["finalizers"] = [*meta.get("finalizers", ()), IN_USE]
        if key[0] in WITH_REPLICAS:
            made["spec"].setdefault("replicas", 1)
        self.touch(made)
        return made

    def touch(self, manifest: Manifest) -> None:
        """Give a changed object its next resourceVersion."""
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        self.hear("MODIFIED", copied(manifest))

    def gone(self, key: ChildKey) -> Manifest | None:
        """Take an object away, whatever keeps it."""
        found = self.objects.pop(key, None)
        if found is not None:
            self._version += 1
            found["metadata"]["resourceVersion"] = str(self._version)
            self.hear("DELETED", copied(found))
        return found

    def remove_of(self, key: ChildKey, by: str, policy: str = "") -> None:
        """Delete as this client, in the foreground, as orphan, or (the default) in the background."""
        found = self.objects.get(key)
        if found is None:
            raise refused(404, "NotFound")
        self._admit(found, by)
        meta = found["metadata"]
        self.deletions.append(Deletion(key, by))
        if "deletionTimestamp" not in meta:  # afterwards the policy cannot be changed any more
            meta["deletionTimestamp"] = self._clock().isoformat()
            meta["finalizers"] = [*meta.get("finalizers", ()), *([policy] if policy else ())]
        self.touch(found)
        self.release(found)

    def release(self, manifest: Manifest, finalizer: str = "", *, ended: bool = False) -> None:
        """Remove a finalizer, or end a pod. An object that is being deleted and has no finalizer left is gone."""
        meta = manifest["metadata"]
        if finalizer in (meta.get("finalizers") or ()):
            meta["finalizers"] = [each for each in meta["finalizers"] if each != finalizer]
            self.touch(manifest)
        if "deletionTimestamp" in meta and not meta.get("finalizers") and (ended or manifest["kind"] not in GRACEFUL):
            self.gone((manifest["kind"], meta["name"]))

    @property
    def version(self) -> int:
        """The latest resourceVersion."""
        return self._version

    @property
    def terminating(self) -> bool:
        """Whether the namespace is being deleted."""
        found = self.find("Namespace", self.namespace)
        return found is None or "deletionTimestamp" in found["metadata"]

    def _admit(self, found: Manifest, by: str) -> None:
        """The policies of charts/intake-engine/templates/protection.yaml."""
        if not self.protected:
            return
        guarded = names.GUARD_LABEL in (found["metadata"].get("labels") or {})
        if guarded and found["kind"] == "Pod" and by in {COLLECTOR, NAMESPACES}:
            raise refused(403, "Forbidden", "this pod may hold claims")
        if guarded and found["kind"] in GUARDED and by != OPERATOR:
            raise refused(403, "Forbidden", "only the operator removes it")
        held = any(names.FINALIZER in (each["metadata"].get("finalizers") or ()) for each in self.of(names.KIND))
        if by == NAMESPACES and held and found["kind"] != names.KIND:
            raise refused(403, "Forbidden", "the namespace stays until its events have drained")

    # What the operator uses: the methods of kube.client.Cluster.

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""
        found = self.find(kind, name)
        return copied(found) if found else None

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind with this label."""
        key, value = label_selector.split("=")
        return [copied(each) for each in self.of(kind) if (each["metadata"].get("labels") or {}).get(key) == value]

    async def events_about(self, *_: str) -> Sequence[Manifest]:
        """None: Events are not kept."""
        return ()

    async def create(self, manifest: Manifest, field_manager: str) -> Manifest:
        """Create; Events are not kept."""
        return copied(manifest if manifest["kind"] == "Event" else self.put(manifest))

    async def delete(
        self, kind: str, namespace: str, name: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Delete in the background; no error if it is gone, or if its name has another uid by now."""
        found = self.find(kind, name)
        if found is None or (uid and found["metadata"]["uid"] != uid):
            return
        if grace_seconds is not None:
            found["metadata"]["deletionGracePeriodSeconds"] = grace_seconds
        self.remove_of((kind, name), OPERATOR)

    async def patch(
        self, kind: str, namespace: str, name: str, patch: Sequence[Mapping[str, object]], field_manager: str
    ) -> Manifest:
        """A JSON patch: all of it, or nothing."""
        found = self.find(kind, name)
        if found is None:
            raise refused(404, "NotFound")
        before = found["metadata"].get("finalizers") or []
        changed = copied(found)
        for operation in patch:
            _operate(changed, str(operation["op"]), str(operation["path"]), operation.get("value"))
        self._no_new_finalizers(found, changed["metadata"].get("finalizers") or [], before)
        found["metadata"] = changed["metadata"]
        self.touch(found)
        self.release(found)
        return copied(found)

    async def apply(self, manifest: Manifest, field_manager: str, *, subresource: str = "") -> Manifest:
        """Server-side apply: removes what this manager left out since, and keeps the fields of others."""
        key = manifest["kind"], manifest["metadata"]["name"]
        found = self.find(*key)
        if subresource == "status":
            if found is None:
                raise refused(404, "NotFound")
            found["status"] = copied(manifest["status"])
            self.touch(found)
            return copied(found)
        uid = manifest["metadata"].get("uid")
        if uid and uid != (found or {"metadata": {}})["metadata"].get("uid"):
            if found is not None:
                raise refused(422, "Invalid", "metadata.uid: field is immutable")
            raise refused(409, "Conflict", "uid mismatch")
        found = self.put(manifest) if found is None else found
        meta, wanted = found["metadata"], copied(manifest)["metadata"]
        before = self._applied.get((meta["uid"], field_manager), {})
        finalizers = [f for f in meta.get("finalizers") or [] if f not in before.get("finalizers", ())]
        finalizers += [f for f in wanted.get("finalizers") or [] if f not in finalizers]
        self._no_new_finalizers(found, finalizers, meta.get("finalizers") or [])
        owners = {o["uid"]: o for o in meta.get("ownerReferences") or []}
        owners = {uid: o for uid, o in owners.items() if uid not in before.get("ownerReferences", ())}
        owners |= {o["uid"]: o for o in wanted.get("ownerReferences") or []}
        meta |= {"finalizers": finalizers, "ownerReferences": list(owners.values())}
        for part in ("labels", "annotations"):
            kept = {k: v for k, v in (meta.get(part) or {}).items() if k not in before.get(part, ())}
            meta[part] = kept | (wanted.get(part) or {})
        for part in manifest.keys() - {"metadata", "kind", "apiVersion"}:
            found[part] = (found.get(part) or {}) | copied(manifest[part])
        self._applied[meta["uid"], field_manager] = {
            "finalizers": set(wanted.get("finalizers") or ()),
            "ownerReferences": {o["uid"] for o in wanted.get("ownerReferences") or ()},
            "labels": set(wanted.get("labels") or ()),
            "annotations": set(wanted.get("annotations") or ()),
        }
        self.touch(found)
        self.release(found)
        return copied(found)

    def _no_new_finalizers(self, found: Manifest, wanted: Sequence[str], before: Sequence[str]) -> None:
        if "deletionTimestamp" in found["metadata"] and set(wanted) - set(before):
            raise refused(422, "Invalid", "no new finalizers can be added if the object is being deleted")


def owners(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Its owner references."""
    yield from manifest["metadata"].get("ownerReferences") or ()


def _operate(document: Manifest, op: str, path: str, value: object) -> None:
    *way, last = [word.replace("~1", "/").replace("~0", "~") for word in path.split("/")[1:]]
    place: Any = document
    for word in way:
        place = place[word]
    if op == "test" and (place.get(last) or None) != value:  # the API server keeps no empty list
        raise refused(422, "Invalid", f"{path} has changed")
    if op == "remove" and last not in place:
        raise refused(422, "Invalid", f"{path} does not exist")
    if op == "add":
        place[last] = value
    if op == "remove":
        del place[last]
