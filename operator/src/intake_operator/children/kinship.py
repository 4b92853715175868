"""The owners of a child, its guard label, and what keeps it while its event is being deleted.

A foreground deletion of the event (Argo CD's default) makes the garbage collector delete every object without another
owner. So every child has a second owner, the anchor: DB1's NetworkPolicy, which has no owner. The collector then only
removes the event's owner reference.
"""

from typing import Any, Final

from intake_operator import names
from intake_operator.children import common
from intake_operator.model.observed import Event, Manifest

ANCHOR: Final = "NetworkPolicy"

# While the event has one of these finalizers, the garbage collector removes the owner references to it.
COLLECTING: Final = frozenset({"foregroundDeletion", "orphan"})


def as_anchor(manifest: Manifest, guard: str) -> Manifest:
    """The anchor: without an owner, and with our finalizer, because it has to exist until the last child is deleted.

    Without `app.kubernetes.io/instance`: by that label Argo CD may take an object without an owner for its own.
    """
    meta = dict(manifest["metadata"])
    meta["labels"] = {k: v for k, v in meta["labels"].items() if k != "app.kubernetes.io/instance"} | _guard(guard)
    return manifest | {"metadata": meta | {"finalizers": [names.FINALIZER]}}


def as_child(manifest: Manifest, event: Event, anchor: Manifest, guard: str) -> Manifest:
    """A child of the event and of the anchor. `guard` is empty once the claims of the event are settled."""
    owners = [reference(anchor)]
    if not COLLECTING & set(event.finalizers):
        owners.insert(0, common.owner(event))
    meta = dict(manifest["metadata"])
    meta["labels"] = meta["labels"] | _guard(guard)
    return manifest | {"metadata": meta | {"ownerReferences": owners}}


def reference(anchor: Manifest) -> dict[str, Any]:
    """An owner reference to the anchor as the API server has it."""
    meta = anchor["metadata"]
    return {"apiVersion": "networking.k8s.io/v1", "kind": ANCHOR, "name": meta["name"], "uid": meta["uid"]}


def _guard(guard: str) -> dict[str, str]:
    return {names.GUARD_LABEL: guard} if guard else {}
