"""Whose child an object is, what keeps others from removing it, and what keeps it while its event is being deleted.

A foreground deletion of the event (Argo CD's default) makes the garbage collector remove whatever has no other owner.
So every child has a second owner, the anchor: DB1's NetworkPolicy, which has no owner. The collector then only takes
the event's reference away.
"""

from typing import Any, Final

from intake_operator import names
from intake_operator.children import common
from intake_operator.model.observed import Event, Manifest

ANCHOR: Final = "NetworkPolicy"

# While the event has one of these, the garbage collector takes the references to it away, and would again.
COLLECTING: Final = frozenset({"foregroundDeletion", "orphan"})


def as_anchor(manifest: Manifest, guard: str) -> Manifest:
    """The anchor: no owner, and our finalizer, because it has to stand until the last child is gone.

    Without `app.kubernetes.io/instance`: by that label Argo CD may take an object that nobody owns for one of its own.
    """
    meta = dict(manifest["metadata"])
    meta["labels"] = {k: v for k, v in meta["labels"].items() if k != "app.kubernetes.io/instance"} | _guard(guard)
    return manifest | {"metadata": meta | {"finalizers": [names.FINALIZER]}}


def as_child(manifest: Manifest, event: Event, anchor: Manifest, guard: str) -> Manifest:
    """A child of the event and of the anchor. `guard` is empty once the claims of the event are accounted for."""
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
