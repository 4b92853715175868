"""kopf only logs in and watches. Its handlers put keys on the queue, so kopf writes nothing into objects."""

from collections.abc import Callable
from typing import Any, Final

import kopf

from intake_operator import names
from intake_operator.workqueue import Key, WorkQueue

# Group, version and plural of the children whose changes queue their event. Secrets are not watched: a watch needs the
# right to list all Secrets. Every pass reads those of its event.
CHILDREN: Final = (
    ("apps", "v1", "statefulsets"),
    ("apps", "v1", "deployments"),
    ("", "v1", "services"),
    ("", "v1", "pods"),
    ("", "v1", "persistentvolumeclaims"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("policy", "v1", "poddisruptionbudgets"),
)

# The metadata of an event that a decision depends on. Every change of the spec raises the generation.
DECISIVE: Final = ("uid", "generation", "deletionTimestamp", "finalizers", "annotations")


def registry(queue: WorkQueue, gone: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Handlers for events and their children. `gone` is called with the key of an event that was deleted."""
    handlers = kopf.OperatorRegistry()
    known: dict[Key, dict[str, Any]] = {}

    @kopf.on.login(registry=handlers)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=handlers)
    def event_changed(
        namespace: str | None,
        name: str | None,
        type: str | None,  # noqa: A002 -- kopf's word
        meta: kopf.Meta,
        **_: Any,
    ) -> None:
        key = (namespace or "", name or "")
        if type == "DELETED":
            known.pop(key, None)
            gone(key)
            return
        # Every pass over a sale writes new counts: a change of the status alone must not queue the next pass. What a
        # new watch lists has no type, and is always queued.
        decisive = {name: meta.get(name) for name in DECISIVE}
        if type != "MODIFIED" or known.get(key) != decisive:
            known[key] = decisive
            queue.add(key)

    def child_changed(namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
        queue.add((namespace or "", labels[names.EVENT_LABEL]))

    for group, version, plural in CHILDREN:
        watch = kopf.on.event(group, version, plural, labels={names.EVENT_LABEL: kopf.PRESENT}, registry=handlers)
        watch(child_changed)
    return handlers


def settings() -> kopf.OperatorSettings:
    """The settings of kopf."""
    chosen = kopf.OperatorSettings()
    # A broken watch looks like one without changes: both sides end it after five minutes, and a new one is started.
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 30
    chosen.watching.reconnect_backoff = 1
    chosen.networking.connect_timeout = 10
    chosen.networking.request_timeout = 60
    # The API server filters: in a large cluster most pods are not ours.
    for child in CHILDREN:
        chosen.watching.label_selectors[child] = names.EVENT_LABEL
    # Neither CRDs nor namespaces are watched: the operator has no right to list them.
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    # Less than the terminationGracePeriodSeconds of the pod, 30.
    chosen.process.ultimate_exiting_timeout = 20
    return chosen
