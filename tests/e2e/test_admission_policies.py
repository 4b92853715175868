"""The chart's admission policies: which identity may delete the objects of a sale whose claims are not all settled.

The tests create the objects themselves, with the labels that the operator gives to its children, so that only the
policies decide. Their pod waits for an image that is never pulled: it is bound to a node and runs nothing.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e import events, release
from tests.e2e.kube import POD_SECONDS, CommandError, Kube, Object, condition, eventually

CONTROLLERS: Final = "system:serviceaccount:kube-system:"
USER: Final = ""
OPERATOR: Final = f"system:serviceaccount:{release.NAMESPACE}:{release.RELEASE}"
NAMESPACE_CONTROLLER: Final = f"{CONTROLLERS}namespace-controller"
GARBAGE_COLLECTOR: Final = f"{CONTROLLERS}generic-garbage-collector"

CHILDREN: Final = ("statefulset", "deployment", "service", "secret", "persistentvolumeclaim", "networkpolicy")
KINDS: Final = ("pod", *CHILDREN)
# Every kind that can have the label of an event.
ALL_KINDS: Final = ",".join(KINDS)

# There is one object of each kind in each of these states: with our label, without it, with another operator's.
GUARDED: Final = "guarded"
UNGUARDED: Final = "unguarded"
OTHERS: Final = "others"
PASSWORD: Final = base64.b64encode(b"secret").decode()
BROKEN_LABEL: Final = "broken"
BROKEN_SECRETS: Final[dict[str, dict[str, str]]] = {
    "without-data": {},
    "without-password": {"user": PASSWORD},
    "empty-password": {"password": ""},
}

# The API server enforces new policies within two seconds; this is for a loaded machine.
POLICY_SECONDS: Final = 30.0
# The namespace controller begins after five seconds and retries with a growing delay.
NAMESPACE_SECONDS: Final = 60.0
# What the namespace controller may not delete while an event has our finalizer.
STAYS: Final = f"{ALL_KINDS},replicasets,controllerrevisions,configmaps,serviceaccounts,endpoints,endpointslices,roles"


@pytest.fixture(scope="module")
def sale(shared_namespace: Kube) -> Iterator[Kube]:
    """One object of each kind in each state; the policies are in force."""
    labels = {release.GUARD_LABEL: release.GUARD, events.EVENT_LABEL: "drop"}
    shared_namespace.apply(
        *objects(GUARDED, labels),
        *objects(UNGUARDED, {}),
        *objects(OTHERS, labels | {release.GUARD_LABEL: f"other.{release.RELEASE}"}),
        *(secret(name, labels | {BROKEN_LABEL: ""}, data) for name, data in BROKEN_SECRETS.items()),
    )
    eventually(
        lambda: refused_objects(shared_namespace) == len(KINDS),
        POLICY_SECONDS,
        "the policies are in force for each kind",
    )
    eventually(lambda: node_of(shared_namespace, GUARDED), POD_SECONDS, "the pod is bound to a node")
    yield shared_namespace
    # Otherwise the namespace could not be deleted.
    shared_namespace.kubectl("label", ALL_KINDS, "--all", f"{release.GUARD_LABEL}-")


@pytest.mark.parametrize("who", [NAMESPACE_CONTROLLER, GARBAGE_COLLECTOR], ids=["namespace", "garbage-collector"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_garbage_collector_nor_namespace_controller_may_delete_a_child_of_an_unsettled_event(
    sale: Kube, kind: str, who: str
) -> None:
    assert_message_says_what_why_and_what_to_do(refusal(sale, kind, GUARDED, who), kind)


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_user_may_not_delete_a_child_of_an_unsettled_event(sale: Kube, kind: str) -> None:
    assert_message_says_what_why_and_what_to_do(refusal(sale, kind, GUARDED, USER), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_may_delete_a_child_of_an_unsettled_event(sale: Kube, kind: str) -> None:
    assert refusal(sale, kind, GUARDED, OPERATOR) == ""


@pytest.mark.parametrize("who", ["user", "statefulset", "replicaset", "node-lifecycle", "pod-garbage", "node"])
def test_an_identity_that_acts_for_the_pod_itself_may_delete_it(sale: Kube, who: str) -> None:
    users = {
        "user": USER,
        "statefulset": f"{CONTROLLERS}statefulset-controller",
        "replicaset": f"{CONTROLLERS}replicaset-controller",
        # It also evicts by taint.
        "node-lifecycle": f"{CONTROLLERS}node-controller",
        # It deletes pods of nodes that do not exist any more. It is not the controller that follows owner references.
        "pod-garbage": f"{CONTROLLERS}pod-garbage-collector",
        "node": f"system:node:{node_of(sale, GUARDED)}",
    }
    assert refusal(sale, "pod", GUARDED, users[who]) == ""


def test_a_pod_can_be_evicted(sale: Kube) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": GUARDED, "namespace": sale.namespace},
        "deleteOptions": {"dryRun": ["All"]},
    }
    path = f"/api/v1/namespaces/{sale.namespace}/pods/{GUARDED}/eviction"
    sale.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


@pytest.mark.parametrize(
    "who", [NAMESPACE_CONTROLLER, GARBAGE_COLLECTOR, USER], ids=["namespace", "garbage-collector", "user"]
)
@pytest.mark.parametrize("state", [UNGUARDED, OTHERS])
def test_the_policies_ignore_objects_without_the_label_of_this_release(sale: Kube, state: str, who: str) -> None:
    named = [f"{kind}/{state}" for kind in KINDS]
    deleted = sale.kubectl("delete", *named, "--dry-run=server", *impersonating(who))
    assert deleted.count("(server dry run)") == len(KINDS)


@pytest.mark.parametrize("name", BROKEN_SECRETS)
def test_a_secret_without_a_password_may_be_deleted(sale: Kube, name: str) -> None:
    assert refusal(sale, "secret", name, USER) == ""


def test_a_deletion_of_a_collection_is_refused_if_one_object_in_it_has_the_label(sale: Kube) -> None:
    # As the namespace controller deletes: one request without names.
    def delete(path: str, selector: str) -> None:
        uri = f"{path}?dryRun=All&labelSelector={selector}"
        sale.kubectl("delete", "--raw", uri, *impersonating(NAMESPACE_CONTROLLER))

    pods = f"/api/v1/namespaces/{sale.namespace}/pods"
    claims = f"/api/v1/namespaces/{sale.namespace}/persistentvolumeclaims"
    for path in (pods, claims):
        with pytest.raises(CommandError, match=release.GUARD):
            delete(path, "")
        delete(path, f"{release.GUARD_LABEL}!={release.GUARD}")


def test_a_deletion_by_label_is_refused_for_each_object(sale: Kube) -> None:
    with pytest.raises(CommandError) as refusal:
        sale.kubectl("delete", ALL_KINDS, "--selector", f"{events.EVENT_LABEL}=drop", "--dry-run=server")
    assert str(refusal.value).count("denied request") == len(CHILDREN)


@pytest.mark.parametrize("policy", ["pods", "children", "secrets", "namespaces"])
def test_the_api_server_s_type_check_finds_no_error_in_the_expressions(sale: Kube, policy: str) -> None:
    def checked() -> Object | None:
        found = sale.get("validatingadmissionpolicy", f"{release.GUARD}-{policy}")
        status: Object = found.get("status", {})
        return status if status.get("observedGeneration") == found["metadata"]["generation"] else None

    status = eventually(checked, POLICY_SECONDS, "the expressions have been type-checked")
    assert status is not None
    assert not status.get("typeChecking")


@pytest.fixture(scope="module")
def without_operator(cluster: Kube) -> Iterator[None]:
    """The operator is scaled to zero; its policies are still installed."""
    with release.scaled_to_zero(cluster):
        yield


@pytest.mark.alone
@pytest.mark.usefixtures("without_operator")
def test_a_deleted_namespace_keeps_its_objects_until_its_event_has_drained(namespace: Kube) -> None:
    namespace.apply(*abandoned_event("taylor-drop"), *objects(UNGUARDED, {}))
    namespace.kubectl("create", "role", "theirs", "--verb=get", "--resource=pods")
    eventually(lambda: len(namespace.items("endpointslices")) == 2, POD_SECONDS, "Services have addresses")
    before = names(namespace)
    namespace.delete("namespace", namespace.namespace)

    def refused() -> bool:
        failure = condition(namespace.get("namespace", namespace.namespace), "NamespaceDeletionContentFailure")
        assert "stays as it is until IntakeEvent taylor-drop has drained" in failure.get("message", "")
        return bool(namespace.get("intakeevent", "taylor-drop")["metadata"].get("deletionTimestamp"))

    eventually(refused, NAMESPACE_SECONDS, "the namespace controller was refused, and has deleted the event")
    assert names(namespace) == before

    events.remove_by_hand(namespace, "taylor-drop")
    eventually(
        lambda: namespace.find("namespace", namespace.namespace) is None, NAMESPACE_SECONDS, "the namespace is gone"
    )


@pytest.mark.alone
@pytest.mark.usefixtures("without_operator")
def test_without_an_operator_the_documented_commands_remove_an_event(namespace: Kube) -> None:
    namespace.apply(*abandoned_event("taylor-drop"))
    eventually(
        lambda: refused_objects(namespace) == len(KINDS), POLICY_SECONDS, "the policies are in force for each kind"
    )
    namespace.delete("intakeevent", "taylor-drop")
    events.remove_by_hand(namespace, "taylor-drop")
    assert namespace.find("intakeevent", "taylor-drop") is None
    eventually(lambda: not events.leftovers(namespace, "taylor-drop"), POD_SECONDS, "nothing is left")


def names(kube: Kube) -> list[str]:
    """Kind and name of every object of STAYS, sorted."""
    return sorted(f"{obj['kind']}/{obj['metadata']['name']}" for obj in kube.items(STAYS))


def refusal(kube: Kube, kind: str, name: str, who: str) -> str:
    """The message with which one of our policies refuses a deletion; empty if it is allowed."""
    try:
        kube.kubectl("delete", kind, name, "--dry-run=server", *impersonating(who))
    except CommandError as error:
        _, ours, message = str(error).partition(f"ValidatingAdmissionPolicy '{release.GUARD}-")
        if not ours:
            raise
        return message
    return ""


def assert_message_says_what_why_and_what_to_do(message: str, kind: str) -> None:
    """Check the text of a refusal."""
    assert re.search(rf"\b{kind} {GUARDED} [^.]* the sale drop\b", message, re.IGNORECASE)
    assert "not all settled" in message
    assert "delete the IntakeEvent drop: " in message
    assert "set the annotation intake-engine.io/abandon: drop on it" in message


def refused_objects(kube: Kube) -> int:
    """How many objects with our label the policies refuse to the namespace controller."""
    selector = f"{release.GUARD_LABEL}={release.GUARD},!{BROKEN_LABEL}"
    who = impersonating(NAMESPACE_CONTROLLER)
    try:
        kube.kubectl("delete", ALL_KINDS, "--selector", selector, "--dry-run=server", *who)
    except CommandError as error:
        return str(error).count("denied request")
    return 0


def impersonating(who: str) -> tuple[str, ...]:
    """kubectl's flags for another identity. The groups of a node must be given, those of a service account not."""
    if who == USER:
        return ()
    return (f"--as={who}", "--as-group=system:nodes") if who.startswith("system:node:") else (f"--as={who}",)


def node_of(kube: Kube, pod: str) -> str:
    """The node that a pod is bound to; empty if it is not bound."""
    name: str = kube.get("pod", pod)["spec"].get("nodeName", "")
    return name


def objects(name: str, labels: dict[str, str]) -> list[Object]:
    """One object of each kind, all with the same name."""
    selector = {"matchLabels": {"app": name}}
    template = {"metadata": {"labels": {"app": name} | labels}, "spec": pod_spec()}
    workload = {"replicas": 0, "selector": selector, "template": template}
    return [
        child("v1", "Pod", name, labels, spec=pod_spec()),
        child("apps/v1", "StatefulSet", name, labels, spec=workload | {"serviceName": name}),
        child("apps/v1", "Deployment", name, labels, spec=workload),
        child("v1", "Service", name, labels, spec={"selector": {"app": name}, "ports": [{"port": 5432}]}),
        volume_claim(name, labels),
        child("networking.k8s.io/v1", "NetworkPolicy", name, labels, spec={"podSelector": selector}),
        secret(name, labels, {"password": PASSWORD}),
    ]


def abandoned_event(name: str) -> list[Object]:
    """An open event with its children, finalizers and labels, as an operator that was uninstalled leaves it."""
    labels = {release.GUARD_LABEL: release.GUARD, events.EVENT_LABEL: name}
    children = objects(f"{name}-db", labels)
    anchor = [obj for obj in children if obj["kind"] == "NetworkPolicy"]
    claim = volume_claim(f"data-{name}-db-0", labels)
    event = events.event(name, events.window(opens_in=3000, lasts=3600))
    for obj in (event, claim, *anchor):
        obj["metadata"]["finalizers"] = [events.FINALIZER]
    return [event, *(obj for obj in children if obj["kind"] != "PersistentVolumeClaim"), claim]


def child(version: str, kind: str, name: str, labels: dict[str, str], **fields: Any) -> Object:
    """An object. If `labels` is empty, it has no field for them."""
    metadata = {"name": name, "labels": labels} if labels else {"name": name}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def secret(name: str, labels: dict[str, str], data: dict[str, str]) -> Object:
    """A Secret; the data in base64."""
    return child("v1", "Secret", name, labels, data=data) if data else child("v1", "Secret", name, labels)


def volume_claim(name: str, labels: dict[str, str]) -> Object:
    """A claim without a storage class, so that no volume is provided for it."""
    request = {"requests": {"storage": "1Mi"}}
    spec = {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": request}
    return child("v1", "PersistentVolumeClaim", name, labels, spec=spec)


def pod_spec() -> Object:
    """A pod that passes Pod Security `restricted` and never starts."""
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "never",
                "image": "never.invalid/never:1",
                "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
