"""The chart, rendered by helm: its objects, the values that it refuses, and the rights of its operator."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.e2e import release
from tests.e2e.kube import REPOSITORY, CommandError, Kube, Object, run
from tests.patience import SLOWER

CHART = REPOSITORY / release.CHART
EVERYWHERE: tuple[str, ...] = ()
TWO_NAMESPACES = ("--set", "watchNamespaces={north,south}")
WITH_TLS = ("--set", "admin.tlsSecretName=admin-tls")
MODES = pytest.mark.parametrize(
    "mode", [EVERYWHERE, TWO_NAMESPACES, WITH_TLS], ids=["everywhere", "two-namespaces", "tls"]
)


@MODES
def test_every_pod_passes_pod_security_restricted(shared_namespace: Kube, mode: tuple[str, ...]) -> None:
    templates = [obj["spec"]["template"] for obj in render(*mode) if "template" in obj.get("spec", {})]
    assert templates
    for template in templates:
        # The namespace enforces `restricted`, so the API server decides. It does not have the service account.
        spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": spec}
        shared_namespace.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in spec["containers"])


def test_helm_test_says_that_the_operator_is_ready_and_leaves_nothing(cluster: Kube) -> None:
    # Its namespace enforces `restricted`, too.
    operator = cluster.within(release.NAMESPACE)
    answer = operator.helm("test", release.RELEASE, "--logs", f"--timeout={SLOWER * 60:.0f}s")
    assert "ok: operator ready\nok: IntakeEvents served\n" in answer
    assert operator.items("pods,serviceaccounts,roles,rolebindings", "app.kubernetes.io/component=test") == []


def test_helm_test_may_read_one_deployment_and_nothing_else() -> None:
    rendered = render_test()
    (role,) = of_kind(rendered, "Role")
    names = [release.RELEASE]
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


def test_what_is_only_checked_ahead_may_only_be_read() -> None:
    for mode, expected in (((), {"resourcequotas": ["list"], "storageclasses": ["get", "list"]}), (TWO_NAMESPACES, {})):
        rules = [rule for obj in render(*mode) if obj["kind"] == "ClusterRole" for rule in obj["rules"]]
        asked = {"resourcequotas", "storageclasses"}
        assert {name: rule["verbs"] for rule in rules for name in asked & {*rule["resources"]}} == expected


@pytest.mark.parametrize("api", [True, False], ids=["with-admin-api", "without"])
def test_a_list_of_namespaces_gives_the_operator_rights_there_and_nowhere_else(*, api: bool) -> None:
    rendered = render(*TWO_NAMESPACES, *(() if api else ("--set", "admin.enabled=false")))
    bindings = [
        (obj["kind"], obj["metadata"].get("namespace"), obj["roleRef"]["name"])
        for obj in rendered
        if obj["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    ]
    # TokenReview and SubjectAccessReview are for the whole cluster; this role allows these two and nothing else.
    cluster_wide = [("ClusterRoleBinding", None, "system:auth-delegator")] if api else []
    assert bindings == [
        *cluster_wide,
        ("RoleBinding", "north", release.RELEASE),
        ("RoleBinding", "south", release.RELEASE),
    ]
    assert environment(rendered)["INTAKE_NAMESPACES"] == "north,south"
    assert environment(rendered)["INTAKE_ADMIN_PORT"] == ("8081" if api else "0")


def test_the_admin_api_has_a_service_only_with_a_certificate() -> None:
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


def test_the_operator_gets_no_environment_from_services_of_its_namespace() -> None:
    assert deployment(render())["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_operator_knows_its_namespace_and_carries_the_labels_by_which_db1_admits_it() -> None:
    template = deployment(render("--set", "commonLabels.team=drops"))["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (variable,) = (each for each in container["env"] if each["name"] == "INTAKE_OPERATOR_NAMESPACE")
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    admitted = {"app.kubernetes.io/part-of": "intake-engine", "app.kubernetes.io/component": "operator"}
    assert admitted.items() <= template["metadata"]["labels"].items()


def test_without_a_list_the_operator_watches_every_namespace() -> None:
    rendered = render()
    bound = [obj["roleRef"]["name"] for obj in rendered if "roleRef" in obj]
    assert sorted(bound) == [release.RELEASE, "system:auth-delegator"]
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
def test_the_rights_of_the_installed_operator(
    shared_namespace: Kube, verb: str, resource: str, *, allowed: bool
) -> None:
    account = f"system:serviceaccount:{release.NAMESPACE}:{release.RELEASE}"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": attributes(shared_namespace.namespace, verb, resource)},
    }
    status = json.loads(shared_namespace.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))["status"]
    assert status["allowed"] is allowed


def test_a_role_is_enough_to_read_its_own_namespace(shared_namespace: Kube) -> None:
    rendered = render("--set", f"watchNamespaces={{{shared_namespace.namespace}}}", release="narrow")
    shared_namespace.apply(*(obj for obj in rendered if obj["kind"] in {"Role", "RoleBinding"}))
    account = f"--as=system:serviceaccount:{release.NAMESPACE}:narrow-{release.RELEASE}"
    shared_namespace.kubectl("get", "namespace", shared_namespace.namespace, account)
    with pytest.raises(CommandError, match="forbidden"):
        shared_namespace.kubectl("get", "namespace", "default", account)


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
def test_the_policies_cover_the_namespaces_that_the_operator_watches(mode: tuple[str, ...], selector: Object) -> None:
    policies, bindings = (of_kind(render(*mode), f"ValidatingAdmissionPolicy{kind}") for kind in ("", "Binding"))
    assert policies
    assert [binding["spec"]["policyName"] for binding in bindings] == [p["metadata"]["name"] for p in policies]
    for binding in bindings:
        assert binding["spec"].get("matchResources", {}) == selector
        assert binding["spec"]["validationActions"] == ["Deny"]


def test_the_policies_name_each_kind_and_cover_deletions_only() -> None:
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


def test_the_policy_that_reads_events_refuses_nothing_without_the_crd() -> None:
    (policy,) = (p for p in of_kind(render(), "ValidatingAdmissionPolicy") if "paramKind" in p["spec"])
    assert policy["spec"]["failurePolicy"] == "Ignore"
    assert {guard["spec"]["failurePolicy"] for guard in guards(render())} == {"Fail"}


def test_without_protection_there_is_no_policy_and_the_label_stays_the_same() -> None:
    rendered = render("--set", "protection.enabled=false")
    assert not any(obj["kind"].startswith("ValidatingAdmissionPolicy") for obj in rendered)
    assert environment(rendered)["INTAKE_GUARD"] == environment(render())["INTAKE_GUARD"] == release.GUARD


def test_the_policies_allow_the_service_account_of_the_installed_operator() -> None:
    rendered = render("--set", "serviceAccount.create=false,serviceAccount.name=theirs")
    allowing = [policy for policy in guards(rendered) if f"{release.NAMESPACE}:theirs'" in str(policy)]
    assert [policy["metadata"]["name"].removeprefix(release.GUARD) for policy in allowing] == [
        "-children",
        "-secrets",
    ]


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
def test_the_value_of_the_label_is_valid_and_so_are_the_names_of_the_policies(release: str, namespace: str) -> None:
    rendered = render(release=release, namespace=namespace)
    guard = environment(rendered)["INTAKE_GUARD"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", guard)
    part = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    for policy in of_kind(rendered, "ValidatingAdmissionPolicy"):
        assert re.fullmatch(rf"{part}(\.{part})*", policy["metadata"]["name"])
    for policy in guards(rendered):
        assert f"== '{guard}'" in policy["spec"]["matchConditions"][0]["expression"]


def test_two_operators_never_have_the_same_value_of_the_label() -> None:
    releases = [
        ("intake-engine", "intake-system"),
        ("intake-engine", "other"),
        ("second", "intake-system"),
        # These differ only after the 63rd character.
        ("b" * 52, LONG),
        ("b" * 51 + "c", LONG),
        ("b" * 52, LONG[:62] + "d"),
    ]
    found = [
        environment(render(release=release, namespace=namespace))["INTAKE_GUARD"] for release, namespace in releases
    ]
    assert len(set(found)) == len(releases)


def test_the_chart_can_be_installed_without_cluster_wide_objects() -> None:
    off = "protection.enabled=false,admin.enabled=false,aggregateRoles.create=false,crds.install=false"
    rendered = render(*TWO_NAMESPACES, "--set", off)
    assert {obj["kind"] for obj in rendered} == {"Deployment", "Role", "RoleBinding", "ServiceAccount"}
    assert all(obj["metadata"].get("namespace") for obj in rendered)


def test_the_chart_ships_the_crd() -> None:
    shipped = [obj for obj in render() if obj["kind"] == "CustomResourceDefinition"]
    assert shipped == [yaml.safe_load((REPOSITORY / "crds" / "intakeevents.yaml").read_text())]
    # Without this, `helm uninstall` would delete all events.
    assert shipped[0]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_chart_can_be_installed_without_the_crd() -> None:
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
def test_an_invalid_value_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(CommandError, match=named):
        render("--set", setting)


def test_helm_renders_every_optional_object() -> None:
    rendered = render(
        "--set", "podMonitor.enabled=true,podMonitor.labels.release=prometheus,aggregateRoles.create=false"
    )
    kinds = [obj["kind"] for obj in rendered]
    assert "PodMonitor" in kinds
    assert kinds.count("ClusterRole") == 1
    without_account = render("--set", "serviceAccount.create=false,serviceAccount.name=theirs")
    assert "ServiceAccount" not in [obj["kind"] for obj in without_account]
    assert deployment(without_account)["spec"]["template"]["spec"]["serviceAccountName"] == "theirs"


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART))


def render(*flags: str, release: str = release.RELEASE, namespace: str = release.NAMESPACE) -> list[Object]:
    """The objects of the chart, as helm would install them."""
    text = run("helm", "template", release, str(CHART), "--namespace", namespace, "--skip-tests", *flags)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def render_test(*flags: str) -> list[Object]:
    """The objects that `helm test` creates."""
    file, namespace = "templates/tests.yaml", f"--namespace={release.NAMESPACE}"
    text = run("helm", "template", release.RELEASE, str(CHART), namespace, "--show-only", file, *flags)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kind(rendered: list[Object], kind: str) -> list[Object]:
    """The objects of one kind."""
    return [obj for obj in rendered if obj["kind"] == kind]


def guards(rendered: list[Object]) -> list[Object]:
    """The admission policies that check the label."""
    policies = of_kind(rendered, "ValidatingAdmissionPolicy")
    found = [policy for policy in policies if "guarded-by" in json.dumps(policy["spec"]["matchConditions"])]
    assert len(found) == 3
    return found


def deployment(rendered: list[Object]) -> Object:
    """The operator's Deployment."""
    (found,) = (obj for obj in rendered if obj["kind"] == "Deployment")
    return found


def environment(rendered: list[Object]) -> dict[str, str]:
    """The environment of the operator."""
    (container,) = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def attributes(namespace: str, verb: str, resource: str) -> dict[str, Any]:
    """`resource.group/subresource` as the resourceAttributes of an access review."""
    name, _, subresource = resource.partition("/")
    plural, _, group = name.partition(".")
    return {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": subresource}
