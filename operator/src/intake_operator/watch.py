"""What kopf does for us: watch and log in. Handlers only put keys on the queue, so kopf leaves no trace on objects."""

from collections.abc import Callable
from typing import Any, Final

import kopf

from intake_operator import names
from intake_operator.workqueue import Key, WorkQueue

# Group/version/plural of the children whose changes wake their event. Secrets are not among them: watching them would
# need leave to list every Secret there is. They are looked at on every pass.
CHILDREN: Final = (
    ("apps", "v1", "statefulsets"),
    ("apps", "v1", "deployments"),
    ("", "v1", "services"),
    ("", "v1", "pods"),
    ("", "v1", "persistentvolumeclaims"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("policy", "v1", "poddisruptionbudgets"),
)

# Of an event's metadata, what a decision depends on; every change of the spec counts the generation up.
TELLING: Final = ("uid", "generation", "deletionTimestamp", "finalizers", "annotations")


def registry(queue: WorkQueue, gone: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Handlers for events and their children."""
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
        # Every pass over a sale writes new numbers: the echo of our own status must not call for the next pass. What a
        # new watch lists has no type, and is looked at in any case.
        told = {word: meta.get(word) for word in TELLING}
        if type != "MODIFIED" or known.get(key) != told:
            known[key] = told
            queue.add(key)

    def child_changed(namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
        queue.add((namespace or "", labels[names.EVENT_LABEL]))

    for group, version, plural in CHILDREN:
        watch = kopf.on.event(group, version, plural, labels={names.EVENT_LABEL: kopf.PRESENT}, registry=handlers)
        watch(child_changed)
    return handlers


def settings() -> kopf.OperatorSettings:
    """kopf's settings, each with its reason."""
    chosen = kopf.OperatorSettings()
    # A watch that fell silent looks like one where nothing happens: end it from both sides and start anew.
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 30
    chosen.watching.reconnect_backoff = 1
    chosen.networking.connect_timeout = 10
    chosen.networking.request_timeout = 60
    # Filtered by the server: in a large cluster hardly any pod is ours.
    for child in CHILDREN:
        chosen.watching.label_selectors[child] = names.EVENT_LABEL
    # Neither CRDs nor namespaces are watched: their lists would need rights that we do not ask for.
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    # Less than the pod's terminationGracePeriodSeconds of 30.
    chosen.process.ultimate_exiting_timeout = 20
    return chosen
