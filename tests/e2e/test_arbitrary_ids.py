"""Every pod runs as a user that no image knows, as OpenShift gives one to each namespace.

An admission policy of Kubernetes stands in for OpenShift's: it writes the ids into pods that name none.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e import events, release, sql
from tests.e2e.kube import Kube, Object, eventually

# Beyond every range of Linux distributions. OpenShift sets user and fsGroup; the group is then 0.
UID: Final = 1000650000
POLICY: Final = "e2e-arbitrary-ids"


@pytest.fixture
def arbitrary(kube: Kube) -> Iterator[Kube]:
    """An operator that names no ids, and a namespace; pods of both get UID."""
    kube.apply(*policy(release.NAMESPACE, kube.namespace))
    try:
        eventually(
            lambda: all(is_active(kube.within(name)) for name in (release.NAMESPACE, kube.namespace)), 30, POLICY
        )
        release.install(kube, "podSecurity.fixedIds=false")
        yield kube
    finally:
        kube.kubectl("delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", POLICY)
        release.install(kube)


@pytest.mark.alone
def test_operator_db1_and_bridge_run_as_a_user_without_a_name(arbitrary: Kube) -> None:
    kube, operator = arbitrary, arbitrary.within(release.NAMESPACE)
    assert {uid_of(operator, pod) for pod in release.pods(kube)} == {UID}
    assert "ok: operator ready" in operator.helm("test", release.RELEASE, "--logs", "--timeout=180s")
    kube.apply(events.event("nobody", events.window(opens_in=2, lasts=3600)))
    events.await_phase(kube, "nobody", "Open", 60)
    sell(kube, "before")
    pods = kube.items("pods", f"{events.EVENT_LABEL}=nobody")
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {"database", "bridge"}
    assert {uid_of(kube, pod) for pod in pods} == {UID}

    # At its second start DB1 sets the Secret's password, in single-user mode, before the server starts.
    release.delete_as_operator(kube, "secret", "nobody-superuser")
    eventually(lambda: kube.find("secret", "nobody-superuser"), 30, "the Secret is made anew, with another password")
    former = kube.get("pod", "nobody-db-0")["metadata"]["uid"]
    kube.delete("pod", "nobody-db-0")
    eventually(lambda: kube.get("pod", "nobody-db-0")["metadata"]["uid"] != former, 60, "DB1's pod is replaced")
    sell(kube, "after")
    assert kube.execute("nobody-db-0", "sh", "-c", "cat $PGDATA/intake-superuser") != ""
    kube.delete("intakeevent", "nobody")
    eventually(lambda: kube.find("intakeevent", "nobody") is None, 90, "the event is drained and gone")


def sell(kube: Kube, request: str) -> None:
    """A claim, and its commit."""
    claim = f"SELECT outcome FROM intake.claim_resource('nobody-pool', '{request}', '{request}')"
    eventually(lambda: sql.in_database(kube, "nobody", claim) in {"claimed", "replayed"}, 60, "a claim is answered")
    sold = f"SELECT count(*) FROM ledger.claims WHERE user_id = '{request}' AND state = 'committed'"
    eventually(lambda: sql.in_ledger(kube, sold) == "1", 60, "the claim is in the ledger")


def uid_of(kube: Kube, pod: Object) -> int:
    """The user that a pod runs as. It has neither a name nor ids in its manifest but those that admission wrote."""
    context = pod["spec"]["securityContext"]
    assert "runAsGroup" not in context
    uid, names = kube.execute(pod["metadata"]["name"], "sh", "-c", "id -u; getent passwd $(id -u) || true").split(
        "\n", 1
    )
    assert names.strip() == ""
    return int(uid)


def policy(*namespaces: str) -> list[Object]:
    """What writes the ids into new pods of the operator and of events, in these namespaces."""
    ids = f"Object.spec.securityContext{{runAsUser: {UID}, fsGroup: {UID}}}"
    ours = "object.metadata.?labels[?'app.kubernetes.io/name'].orValue('') == 'intake-engine'"
    within = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    group = "admissionregistration.k8s.io/v1"
    return [
        {
            "apiVersion": group,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": POLICY},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchExpressions": [within]},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                    ],
                },
                "matchConditions": [
                    {"name": "ours", "expression": ours},
                    {"name": "names-none", "expression": "!has(object.spec.securityContext.runAsUser)"},
                ],
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {
                            "expression": f"Object{{spec: Object.spec{{securityContext: {ids}}}}}",
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": group,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY},
            "spec": {"policyName": POLICY},
        },
    ]


def is_active(kube: Kube) -> bool:
    """Whether the policy acts in the namespace."""
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "c", "image": "intake-engine/bridge:dev", "securityContext": own}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "checked", "labels": {"app.kubernetes.io/name": "intake-engine"}},
        "spec": {"securityContext": security, "containers": [container]},
    }
    made = kube.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
    return bool(json.loads(made)["spec"]["securityContext"].get("runAsUser") == UID)
