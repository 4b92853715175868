"""What queues an event: a change of it, or of a child. The watches tell of both, and kopf of the event as well."""

from collections.abc import Callable
from typing import Any, Final

import kopf

from intake_operator import names
from intake_operator.kube.store import Change, Store
from intake_operator.model.observed import Manifest
from intake_operator.workqueue import Key, WorkQueue

# The metadata of an event that a decision depends on. Every change of the spec raises the generation.
DECISIVE: Final = ("uid", "generation", "deletionTimestamp", "finalizers", "annotations")


def waker(queue: WorkQueue, gone: Callable[[Key], None]) -> Callable[[Change], None]:
    """Queues the event of each change. `gone` is called with the key of an event that was deleted."""

    def wake(change: Change) -> None:
        if change.kind != names.KIND:
            for key in {_event(found) for found in (change.old, change.new) if found and _moved(change)}:
                queue.add(key)
        elif change.new is None:
            if change.old is not None:
                gone(_key(change.old))
        # Every pass over a sale writes new counts: a change of the status alone must not queue the next pass. What a
        # new list has is always queued.
        elif change.listed or change.old is None or _decisive(change.old) != _decisive(change.new):
            queue.add(_key(change.new))

    return wake


def registry(store: Store) -> kopf.OperatorRegistry:
    """kopf logs in and watches events: a second way to hear of them. What it tells goes into the store, if newer.

    kopf writes nothing into objects.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=handlers)
    async def event_changed(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 -- kopf's word
        # Not a plain function: kopf would call it in a thread of its own.
        if type != "DELETED":  # of that the store's own watch tells
            store.answered(dict(body))

    return handlers


def settings() -> kopf.OperatorSettings:
    """The settings of kopf."""
    chosen = kopf.OperatorSettings()
    # A broken watch looks like one without changes: both sides end it after ten minutes, and a new one is started.
    chosen.watching.server_timeout = 600
    chosen.watching.client_timeout = 610
    chosen.watching.connect_timeout = 30
    chosen.watching.reconnect_backoff = 1
    chosen.networking.connect_timeout = 10
    chosen.networking.request_timeout = 60
    # Neither CRDs nor namespaces are watched: the operator has no right to list them.
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    # Less than the terminationGracePeriodSeconds of the pod, 30.
    chosen.process.ultimate_exiting_timeout = 20
    return chosen


def _moved(change: Change) -> bool:
    """Whether a child is another one than before: a new list has all of them."""
    versions = [found["metadata"].get("resourceVersion") for found in (change.old, change.new) if found]
    return len(versions) == 1 or versions[0] != versions[1]


def _key(found: Manifest) -> Key:
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def _event(child: Manifest) -> Key:
    return child["metadata"].get("namespace", ""), child["metadata"]["labels"][names.EVENT_LABEL]


def _decisive(event: Manifest) -> dict[str, Any]:
    return {name: event["metadata"].get(name) for name in DECISIVE}
