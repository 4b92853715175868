"""The chart, rendered by a real helm: what it asks for, what it refuses, and what its operator may do."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.e2e import stage
from tests.e2e.kube import REPOSITORY, CommandError, Kube, Object, run
from tests.patience import SLOWER

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


def test_helm_test_says_that_the_operator_is_ready_and_leaves_nothing(cluster: Kube) -> None:
    # Its namespace enforces `restricted`, too.
    operator = cluster.within(stage.OPERATOR_NAMESPACE)
    answer = operator.helm("test", stage.RELEASE, "--logs", f"--timeout={SLOWER * 60:.0f}s")
    assert "ok: operator ready\nok: IntakeEvents served\n" in answer
    assert operator.items("pods,serviceaccounts,roles,rolebindings", "app.kubernetes.io/component=test") == []


def test_helm_test_may_read_one_deployment_and_nothing_else() -> None:
    rendered = render_test()
    (role,) = of_kind(rendered, "Role")
    names = [stage.RELEASE]
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": names, "verbs": ["get"]}
    ]
    assert sorted(obj["kind"] for obj in rendered) == ["Pod", "Role", "RoleBinding", "ServiceAccount"]
    assert {obj["metadata"]["annotations"]["helm.sh/hook"] for obj in rendered} == {"test"}


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
    bound = [obj["roleRef"]["name"] for obj in rendered if "roleRef" in obj]
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


def test_a_role_is_enough_to_look_whether_its_namespace_is_being_deleted(shared: Kube) -> None:
    rendered = render("--set", f"watchNamespaces={{{shared.namespace}}}", release="narrow")
    shared.apply(*(obj for obj in rendered if obj["kind"] in {"Role", "RoleBinding"}))
    account = f"--as=system:serviceaccount:{stage.OPERATOR_NAMESPACE}:narrow-{stage.RELEASE}"
    shared.kubectl("get", "namespace", shared.namespace, account)
    with pytest.raises(CommandError, match="forbidden"):
        shared.kubectl("get", "namespace", "default", account)


@pytest.mark.parametrize(
    ("mode", "selector"),
    [
        (EVERYWHERE, {}),
        (
            TWO_NAMESPACES,
            {
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["north", "south"]}
                    ]
                }
            },
        ),
    ],
    ids=["everywhere", "two-namespaces"],
)
def test_guards_act_where_the_operator_is(mode: tuple[str, ...], selector: Object) -> None:
    policies, bindings = (of_kind(render(*mode), f"ValidatingAdmissionPolicy{kind}") for kind in ("", "Binding"))
    assert policies
    assert [binding["spec"]["policyName"] for binding in bindings] == [p["metadata"]["name"] for p in policies]
    for binding in bindings:
        assert binding["spec"].get("matchResources", {}) == selector
        assert binding["spec"]["validationActions"] == ["Deny"]


def test_guards_name_each_kind_and_act_on_nothing_but_deletions() -> None:
    for policy in of_kind(render(), "ValidatingAdmissionPolicy"):
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]:
            assert rule["operations"] == ["DELETE"]
            assert "*" not in [*rule["apiGroups"], *rule["apiVersions"], *rule["resources"]]
    rules = [rule for policy in guards(render()) for rule in policy["spec"]["matchConstraints"]["resourceRules"]]
    assert sorted(resource for rule in rules for resource in rule["resources"]) == [
        "deployments",
        "networkpolicies",
        "persistentvolumeclaims",
        "pods",
        "secrets",
        "services",
        "statefulsets",
    ]


def test_what_looks_events_up_refuses_nothing_where_their_crd_is_missing() -> None:
    (policy,) = (p for p in of_kind(render(), "ValidatingAdmissionPolicy") if "paramKind" in p["spec"])
    assert policy["spec"]["failurePolicy"] == "Ignore"
    assert {guard["spec"]["failurePolicy"] for guard in guards(render())} == {"Fail"}


def test_without_protection_there_is_no_guard_and_the_label_stays_the_same() -> None:
    rendered = render("--set", "protection.enabled=false")
    assert not any(obj["kind"].startswith("ValidatingAdmissionPolicy") for obj in rendered)
    assert environment(rendered)["INTAKE_GUARD"] == environment(render())["INTAKE_GUARD"] == stage.GUARD


def test_the_operator_that_is_let_through_is_the_one_that_is_installed() -> None:
    rendered = render("--set", "serviceAccount.create=false,serviceAccount.name=theirs")
    let_through = [policy for policy in guards(rendered) if f"{stage.OPERATOR_NAMESPACE}:theirs'" in str(policy)]
    assert [policy["metadata"]["name"].removeprefix(stage.GUARD) for policy in let_through] == ["-children", "-secrets"]


LONG = "a" * 63


@pytest.mark.parametrize(
    ("release", "namespace"),
    [
        ("intake-engine", "intake-system"),
        ("b" * 53, LONG),
        ("b" * 53, LONG[:53]),
        ("b" * 53, LONG[:52] + "-c"),
        ("b.c" + "b" * 50, LONG[:50]),
        ("r", LONG[:48] + "0"),
        ("r", LONG[:48]),
    ],
)
def test_a_guard_is_a_valid_label_and_a_valid_name(release: str, namespace: str) -> None:
    rendered = render(release=release, namespace=namespace)
    guard = environment(rendered)["INTAKE_GUARD"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", guard)
    part = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    for policy in of_kind(rendered, "ValidatingAdmissionPolicy"):
        assert re.fullmatch(rf"{part}(\.{part})*", policy["metadata"]["name"])
    for policy in guards(rendered):
        assert f"== '{guard}'" in policy["spec"]["matchConditions"][0]["expression"]


def test_two_operators_never_have_the_same_guard() -> None:
    releases = [
        ("intake-engine", "intake-system"),
        ("intake-engine", "other"),
        ("second", "intake-system"),
        # What tells these apart is behind the 63rd character.
        ("b" * 52, LONG),
        ("b" * 51 + "c", LONG),
        ("b" * 52, LONG[:62] + "d"),
    ]
    found = [
        environment(render(release=release, namespace=namespace))["INTAKE_GUARD"] for release, namespace in releases
    ]
    assert len(set(found)) == len(releases)


def test_the_chart_can_do_without_any_object_of_the_whole_cluster() -> None:
    off = "protection.enabled=false,admin.enabled=false,aggregateRoles.create=false,crds.install=false"
    rendered = render(*TWO_NAMESPACES, "--set", off)
    assert {obj["kind"] for obj in rendered} == {"Deployment", "Role", "RoleBinding", "ServiceAccount"}
    assert all(obj["metadata"].get("namespace") for obj in rendered)


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
        ("protection.enable=false", "enable"),
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


def render(*flags: str, release: str = stage.RELEASE, namespace: str = stage.OPERATOR_NAMESPACE) -> list[Object]:
    """The objects of the chart as they would be installed."""
    text = run("helm", "template", release, str(CHART), "--namespace", namespace, "--skip-tests", *flags)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def render_test(*flags: str) -> list[Object]:
    """The objects that `helm test` makes."""
    file = "templates/tests.yaml"
    text = run(
        "helm", "template", stage.RELEASE, str(CHART), f"--namespace={stage.OPERATOR_NAMESPACE}", "-s", file, *flags
    )
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kind(rendered: list[Object], kind: str) -> list[Object]:
    """Those of one kind, in their order."""
    return [obj for obj in rendered if obj["kind"] == kind]


def guards(rendered: list[Object]) -> list[Object]:
    """The admission policies that go by the label."""
    policies = of_kind(rendered, "ValidatingAdmissionPolicy")
    found = [policy for policy in policies if "guarded-by" in json.dumps(policy["spec"]["matchConditions"])]
    assert len(found) == 3
    return found


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
