"""The chart, rendered by a real helm: what it asks for, what it refuses, and what its operator may do."""

import json
from typing import Any

import pytest
import yaml

from tests.e2e import stage
from tests.e2e.kube import REPOSITORY, CommandError, Kube, Object, run

CHART = REPOSITORY / stage.CHART
EVERYWHERE: tuple[str, ...] = ()
TWO_NAMESPACES = ("--set", "watchNamespaces={north,south}")
WITH_TLS = ("--set", "admin.tlsSecretName=admin-tls")
MODES = pytest.mark.parametrize(
    "mode", [EVERYWHERE, TWO_NAMESPACES, WITH_TLS], ids=["everywhere", "two-namespaces", "tls"]
)


@MODES
def test_every_pod_passes_pod_security_restricted(shared: Kube, mode: tuple[str, ...]) -> None:
    templates = [obj["spec"]["template"] for obj in render(*mode) if "template" in obj.get("spec", {})]
    assert templates
    for template in templates:
        # The namespace enforces `restricted`, so the API server itself is the judge. Its account is not there.
        spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "judged"}, "spec": spec}
        shared.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in spec["containers"])


@MODES
def test_no_role_has_a_wildcard(mode: tuple[str, ...]) -> None:
    rules = [(obj["metadata"]["name"], rule) for obj in render(*mode) for rule in obj.get("rules", ())]
    assert rules
    for name, rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], (name, rule)


@pytest.mark.parametrize("api", [True, False], ids=["with-admin-api", "without"])
def test_a_list_of_namespaces_gives_the_operator_rights_there_and_nowhere_else(*, api: bool) -> None:
    rendered = render(*TWO_NAMESPACES, *(() if api else ("--set", "admin.enabled=false")))
    bindings = [
        (obj["kind"], obj["metadata"].get("namespace"), obj["roleRef"]["name"])
        for obj in rendered
        if obj["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    ]
    # Whose token it is and what he may are questions to the whole cluster; this role lets ask them, and nothing else.
    cluster_wide = [("ClusterRoleBinding", None, "system:auth-delegator")] if api else []
    assert bindings == [
        *cluster_wide,
        ("RoleBinding", "north", stage.RELEASE),
        ("RoleBinding", "south", stage.RELEASE),
    ]
    assert environment(rendered)["INTAKE_NAMESPACES"] == "north,south"
    assert environment(rendered)["INTAKE_ADMIN_PORT"] == ("8081" if api else "0")


def test_the_admin_api_leaves_the_pod_only_with_a_certificate() -> None:
    assert "Service" not in {obj["kind"] for obj in render()}
    assert "INTAKE_ADMIN_TLS_DIR" not in environment(render())
    rendered = render("--set", "admin.tlsSecretName=admin-tls")
    (service,) = (obj for obj in rendered if obj["kind"] == "Service")
    (container,) = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == 8443
    assert {"name": "admin-tls", "secret": {"secretName": "admin-tls", "defaultMode": 0o440}} in deployment(rendered)[
        "spec"
    ]["template"]["spec"]["volumes"]


def test_the_operator_s_settings_are_the_chart_s_and_not_those_of_services_beside_it() -> None:
    assert deployment(render())["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_without_a_list_the_operator_watches_every_namespace() -> None:
    rendered = render()
    bound = [obj["roleRef"]["name"] for obj in rendered if obj["kind"].endswith("Binding")]
    assert sorted(bound) == [stage.RELEASE, "system:auth-delegator"]
    assert environment(rendered)["INTAKE_NAMESPACES"] == ""


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("patch", "intakeevents.intake-engine.io", True),
        ("patch", "intakeevents.intake-engine.io/status", True),
        ("delete", "intakeevents.intake-engine.io", False),
        ("create", "statefulsets.apps", True),
        ("get", "secrets", True),
        ("patch", "secrets", True),
        ("list", "secrets", False),
        ("watch", "secrets", False),
        ("get", "configmaps", True),
        ("list", "configmaps", False),
        ("watch", "configmaps", False),
        ("delete", "configmaps", False),
        ("create", "pods", False),
        ("create", "pods/exec", False),
        ("get", "namespaces", True),
        ("list", "namespaces", False),
        ("delete", "namespaces", False),
        ("create", "tokenreviews.authentication.k8s.io", True),
        ("create", "subjectaccessreviews.authorization.k8s.io", True),
    ],
)
def test_what_the_installed_operator_may_do(shared: Kube, verb: str, resource: str, *, allowed: bool) -> None:
    account = f"system:serviceaccount:{stage.OPERATOR_NAMESPACE}:{stage.RELEASE}"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": attributes(shared.namespace, verb, resource)},
    }
    status = json.loads(shared.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))["status"]
    assert status["allowed"] is allowed


def test_the_chart_ships_the_one_crd() -> None:
    shipped = [obj for obj in render() if obj["kind"] == "CustomResourceDefinition"]
    assert shipped == [yaml.safe_load((REPOSITORY / "crds" / "intakeevents.yaml").read_text())]
    # Without this, `helm uninstall` would delete every event there is.
    assert shipped[0]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_crd_can_be_left_to_somebody_else() -> None:
    assert "CustomResourceDefinition" not in {obj["kind"] for obj in render("--set", "crds.install=false")}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("watchNamespace={north}", "watchNamespace"),
        ("bridge.image.tagg=1", "tagg"),
        ("logLevel=loud", "logLevel"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("watchNamespaces={North}", "watchNamespaces"),
        ("image.tag=", "tag"),
    ],
)
def test_a_mistake_in_the_values_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(CommandError, match=named):
        render("--set", setting)


def test_every_optional_object_is_one_that_helm_can_render() -> None:
    rendered = render(
        "--set", "podMonitor.enabled=true,podMonitor.labels.release=prometheus,aggregateRoles.create=false"
    )
    kinds = [obj["kind"] for obj in rendered]
    assert "PodMonitor" in kinds
    assert kinds.count("ClusterRole") == 1
    without_account = render("--set", "serviceAccount.create=false,serviceAccount.name=theirs")
    assert "ServiceAccount" not in [obj["kind"] for obj in without_account]
    assert deployment(without_account)["spec"]["template"]["spec"]["serviceAccountName"] == "theirs"


def test_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART))


def render(*flags: str) -> list[Object]:
    """The objects of the chart as they would be installed."""
    text = run("helm", "template", stage.RELEASE, str(CHART), "--namespace", stage.OPERATOR_NAMESPACE, *flags)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def deployment(rendered: list[Object]) -> Object:
    """The operator's only Deployment."""
    (found,) = (obj for obj in rendered if obj["kind"] == "Deployment")
    return found


def environment(rendered: list[Object]) -> dict[str, str]:
    """What the operator is told."""
    (container,) = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def attributes(namespace: str, verb: str, resource: str) -> dict[str, Any]:
    """`resource.group/subresource` in the form that an access review asks for."""
    name, _, subresource = resource.partition("/")
    plural, _, group = name.partition(".")
    return {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": subresource}
