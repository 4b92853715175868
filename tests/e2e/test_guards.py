"""The chart's guards: who may delete what a sale needs while its claims are not all settled.

The objects are made by hand and labelled as the operator labels its children, so that nothing but the guard decides. A
pod waits for an image that is never pulled: it is bound to the node and runs nothing.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e import stage
from tests.e2e.kube import CommandError, Kube, Object, condition, eventually

CONTROLLERS: Final = "system:serviceaccount:kube-system:"
PERSON: Final = ""
OPERATOR: Final = f"system:serviceaccount:{stage.OPERATOR_NAMESPACE}:{stage.RELEASE}"
NAMESPACE_CONTROLLER: Final = f"{CONTROLLERS}namespace-controller"
COLLECTOR: Final = f"{CONTROLLERS}generic-garbage-collector"

CHILDREN: Final = ("statefulset", "deployment", "service", "secret", "persistentvolumeclaim", "networkpolicy")
KINDS: Final = ("pod", *CHILDREN)
# Every kind that the labels of an event can be on.
ALL_KINDS: Final = ",".join(KINDS)

# One object of each kind in each of these states.
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

# The API server looks at new policies within a second or two; this is for a loaded machine.
POLICY_SECONDS: Final = 30.0
# The namespace controller begins after five seconds, and tries again after a growing while.
NAMESPACE_SECONDS: Final = 60.0
# What the namespace controller leaves alone while there is an event with our finalizer.
STAYS: Final = f"{ALL_KINDS},replicasets,controllerrevisions,configmaps,serviceaccounts,endpoints,endpointslices,roles"


@pytest.fixture(scope="module")
def sale(shared: Kube) -> Iterator[Kube]:
    """Each kind in each state, once the policies act."""
    labels = {stage.GUARD_LABEL: stage.GUARD, stage.EVENT_LABEL: "drop"}
    shared.apply(
        *objects(GUARDED, labels),
        *objects(UNGUARDED, {}),
        *objects(OTHERS, labels | {stage.GUARD_LABEL: f"other.{stage.RELEASE}"}),
        *(secret(name, labels | {BROKEN_LABEL: ""}, data) for name, data in BROKEN_SECRETS.items()),
    )
    eventually(lambda: acting(shared) == len(KINDS), POLICY_SECONDS, "the policies act on each kind")
    eventually(lambda: node_of(shared, GUARDED), stage.POD_SECONDS, "the pod is bound to a node")
    yield shared
    # Or the namespace would never go.
    shared.kubectl("label", ALL_KINDS, "--all", f"{stage.GUARD_LABEL}-")


@pytest.mark.parametrize("who", [NAMESPACE_CONTROLLER, COLLECTOR], ids=["namespace", "collector"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_collector_nor_namespace_takes_what_an_unsettled_event_needs(sale: Kube, kind: str, who: str) -> None:
    assert_says_what_why_and_what_to_do(refusal(sale, kind, GUARDED, who), kind)


@pytest.mark.parametrize("kind", CHILDREN)
def test_nor_does_a_person(sale: Kube, kind: str) -> None:
    assert_says_what_why_and_what_to_do(refusal(sale, kind, GUARDED, PERSON), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_does(sale: Kube, kind: str) -> None:
    assert refusal(sale, kind, GUARDED, OPERATOR) == ""


@pytest.mark.parametrize("who", ["person", "statefulset", "replicaset", "node-lifecycle", "pod-garbage", "node"])
def test_whoever_has_a_reason_that_concerns_the_pod_itself_may_delete_it(sale: Kube, who: str) -> None:
    users = {
        "person": PERSON,
        "statefulset": f"{CONTROLLERS}statefulset-controller",
        "replicaset": f"{CONTROLLERS}replicaset-controller",
        # Who evicts by taint, too.
        "node-lifecycle": f"{CONTROLLERS}node-controller",
        # It removes pods of nodes that are no more, and is not the collector that follows owner references.
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


@pytest.mark.parametrize("who", [NAMESPACE_CONTROLLER, COLLECTOR, PERSON], ids=["namespace", "collector", "person"])
@pytest.mark.parametrize("state", [UNGUARDED, OTHERS])
def test_what_this_operator_does_not_guard_is_not_its_business(sale: Kube, state: str, who: str) -> None:
    named = [f"{kind}/{state}" for kind in KINDS]
    deleted = sale.kubectl("delete", *named, "--dry-run=server", *impersonating(who))
    assert deleted.count("(server dry run)") == len(KINDS)


@pytest.mark.parametrize("name", BROKEN_SECRETS)
def test_a_secret_that_the_operator_calls_broken_may_be_deleted(sale: Kube, name: str) -> None:
    assert refusal(sale, "secret", name, PERSON) == ""


def test_a_collection_is_refused_for_the_one_in_it_that_is_guarded(sale: Kube) -> None:
    # As the namespace controller does it: one request without names.
    def delete(path: str, selector: str) -> None:
        uri = f"{path}?dryRun=All&labelSelector={selector}"
        sale.kubectl("delete", "--raw", uri, *impersonating(NAMESPACE_CONTROLLER))

    pods = f"/api/v1/namespaces/{sale.namespace}/pods"
    claims = f"/api/v1/namespaces/{sale.namespace}/persistentvolumeclaims"
    for path in (pods, claims):
        with pytest.raises(CommandError, match=stage.GUARD):
            delete(path, "")
        delete(path, f"{stage.GUARD_LABEL}!={stage.GUARD}")


def test_a_person_who_deletes_by_label_is_refused_object_by_object(sale: Kube) -> None:
    with pytest.raises(CommandError) as refusal:
        sale.kubectl("delete", ALL_KINDS, "--selector", f"{stage.EVENT_LABEL}=drop", "--dry-run=server")
    assert str(refusal.value).count("denied request") == len(CHILDREN)


@pytest.mark.parametrize("policy", ["pods", "children", "secrets", "namespaces"])
def test_the_api_server_finds_no_fault_with_the_expressions(sale: Kube, policy: str) -> None:
    def checked() -> Object | None:
        found = sale.get("validatingadmissionpolicy", f"{stage.GUARD}-{policy}")
        status: Object = found.get("status", {})
        return status if status.get("observedGeneration") == found["metadata"]["generation"] else None

    status = eventually(checked, POLICY_SECONDS, "the expressions have been checked")
    assert status is not None
    assert not status.get("typeChecking")


@pytest.fixture(scope="module")
def without_operator(cluster: Kube) -> Iterator[None]:
    """The operator is gone, and its policies are still there."""
    operator = cluster.within(stage.OPERATOR_NAMESPACE)
    operator.kubectl("scale", f"deployment/{stage.RELEASE}", "--replicas=0")
    eventually(lambda: not stage.operator_pods(cluster), stage.POD_SECONDS, "the operator is gone")
    yield
    operator.kubectl("scale", f"deployment/{stage.RELEASE}", "--replicas=1")
    stage.await_rollout(operator, f"deployment/{stage.RELEASE}")


@pytest.mark.alone
@pytest.mark.usefixtures("without_operator")
def test_a_deleted_namespace_stays_as_it_is_until_its_event_has_drained(namespace: Kube) -> None:
    namespace.apply(*abandoned_event("taylor-drop"), *objects(UNGUARDED, {}))
    namespace.kubectl("create", "role", "theirs", "--verb=get", "--resource=pods")
    eventually(lambda: len(namespace.items("endpointslices")) == 2, stage.POD_SECONDS, "Services have addresses")
    before = names(namespace)
    namespace.delete("namespace", namespace.namespace)

    def refused() -> bool:
        failure = condition(namespace.get("namespace", namespace.namespace), "NamespaceDeletionContentFailure")
        assert "stays as it is until IntakeEvent taylor-drop has drained" in failure.get("message", "")
        return bool(namespace.get("intakeevent", "taylor-drop")["metadata"].get("deletionTimestamp"))

    eventually(refused, NAMESPACE_SECONDS, "the namespace controller has tried, and deleted the event")
    assert names(namespace) == before

    stage.let_go(namespace, "taylor-drop")
    eventually(lambda: namespace.find("namespace", namespace.namespace) is None, NAMESPACE_SECONDS, "it is gone")


@pytest.mark.alone
@pytest.mark.usefixtures("without_operator")
def test_without_an_operator_the_documented_commands_let_go_of_an_event(namespace: Kube) -> None:
    namespace.apply(*abandoned_event("taylor-drop"))
    eventually(lambda: acting(namespace) == len(KINDS), POLICY_SECONDS, "all is guarded")
    namespace.delete("intakeevent", "taylor-drop")
    stage.let_go(namespace, "taylor-drop")
    assert namespace.find("intakeevent", "taylor-drop") is None
    eventually(lambda: not stage.leftovers(namespace, "taylor-drop"), stage.POD_SECONDS, "nothing is left")


def names(kube: Kube) -> list[str]:
    """Kind and name of everything that has to stay, in their order."""
    return sorted(f"{obj['kind']}/{obj['metadata']['name']}" for obj in kube.items(STAYS))


def refusal(kube: Kube, kind: str, name: str, who: str) -> str:
    """What a policy of ours says to a deletion; empty where it says nothing. Any other refusal is an error."""
    try:
        kube.kubectl("delete", kind, name, "--dry-run=server", *impersonating(who))
    except CommandError as error:
        _, ours, said = str(error).partition(f"ValidatingAdmissionPolicy '{stage.GUARD}-")
        if not ours:
            raise
        return said
    return ""


def assert_says_what_why_and_what_to_do(said: str, kind: str) -> None:
    """The words of a refusal."""
    assert re.search(rf"\b{kind} {GUARDED} [^.]* the sale drop\b", said, re.IGNORECASE)
    assert "not all settled" in said
    assert "delete the IntakeEvent drop: " in said
    assert "set the annotation intake-engine.io/abandon: drop on it" in said


def acting(kube: Kube) -> int:
    """How many guarded objects a policy refuses to the namespace controller."""
    selector = f"{stage.GUARD_LABEL}={stage.GUARD},!{BROKEN_LABEL}"
    who = impersonating(NAMESPACE_CONTROLLER)
    try:
        kube.kubectl("delete", ALL_KINDS, "--selector", selector, "--dry-run=server", *who)
    except CommandError as error:
        return str(error).count("denied request")
    return 0


def impersonating(who: str) -> tuple[str, ...]:
    """kubectl's flags for another identity. The API server knows the groups of a service account, but not of a node."""
    if who == PERSON:
        return ()
    return (f"--as={who}", "--as-group=system:nodes") if who.startswith("system:node:") else (f"--as={who}",)


def node_of(kube: Kube, pod: str) -> str:
    """The node that a pod is bound to; empty before that."""
    name: str = kube.get("pod", pod)["spec"].get("nodeName", "")
    return name


def objects(name: str, labels: dict[str, str]) -> list[Object]:
    """One object of each kind, of one name."""
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
    """An event in mid-sale, as an operator that will not come back leaves it: finalizers, guards and all."""
    labels = {stage.GUARD_LABEL: stage.GUARD, stage.EVENT_LABEL: name}
    children = objects(f"{name}-db", labels)
    held = [obj for obj in children if obj["kind"] == "NetworkPolicy"]
    claim = volume_claim(f"data-{name}-db-0", labels)
    event = stage.event(name, stage.window(opens_in=3600, lasts=3600))
    for obj in (event, claim, *held):
        obj["metadata"]["finalizers"] = [stage.FINALIZER]
    return [event, *(obj for obj in children if obj["kind"] != "PersistentVolumeClaim"), claim]


def child(version: str, kind: str, name: str, labels: dict[str, str], **fields: Any) -> Object:
    """An object; without labels it has none at all, as objects of others may."""
    metadata = {"name": name, "labels": labels} if labels else {"name": name}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def secret(name: str, labels: dict[str, str], data: dict[str, str]) -> Object:
    """A Secret; the data in base64."""
    return child("v1", "Secret", name, labels, data=data) if data else child("v1", "Secret", name, labels)


def volume_claim(name: str, labels: dict[str, str]) -> Object:
    """A claim that no class provides a volume for."""
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
