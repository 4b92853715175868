"""What the chart makes of the values that say where things run. Rendered by helm; no cluster is asked."""

import json
from pathlib import Path

import pytest
import yaml

from tests.e2e import release
from tests.e2e.kube import CommandError, Object
from tests.e2e.test_chart import deployment, environment, of_kind, render, render_test

DIGEST = "sha256:" + "0123456789abcdef" * 4
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
        }
    }
}
PLACE: Object = {
    "nodeSelector": {"pool": "sales"},
    "tolerations": [{"key": "sales", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": AFFINITY,
    "priorityClassName": "sales-first",
    "imagePullSecrets": [{"name": "registry"}],
}


@pytest.fixture
def values(tmp_path: Path) -> "Values":
    """Writes values into a file, and gives the flags that name it."""
    return Values(tmp_path / "values.yaml")


class Values:
    """A file of values."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, **values: object) -> tuple[str, str]:
        self._path.write_text(yaml.safe_dump(values))
        return ("--values", str(self._path))


def test_an_image_is_named_by_its_digest_where_one_is_given() -> None:
    rendered = render("--set", f"image.digest={DIGEST},bridge.image.digest={DIGEST},image.repository=mirror.example/op")
    (container,) = pod(rendered)["containers"]
    assert container["image"] == f"mirror.example/op@{DIGEST}"
    assert environment(rendered)["INTAKE_BRIDGE_IMAGE"] == f"intake-engine/bridge@{DIGEST}"
    (container,) = pod_of_helm_test("--set", f"image.digest={DIGEST}")["containers"]
    assert container["image"] == f"intake-engine/operator@{DIGEST}"
    (container,) = pod(render())["containers"]
    assert container["image"] == "intake-engine/operator:dev"


def test_the_operator_and_the_pod_of_helm_test_run_where_the_values_say(values: Values) -> None:
    flags = values(**PLACE)
    for spec in (pod(render(*flags)), pod_of_helm_test(*flags)):
        assert {name: spec[name] for name in PLACE} == PLACE
    assert not PLACE.keys() & pod(render()).keys()


def test_no_pod_names_a_user_or_a_group_where_ids_are_not_fixed() -> None:
    off = ("--set", "podSecurity.fixedIds=false,admin.tlsSecretName=tls")
    for spec in (pod(render(*off)), pod_of_helm_test(*off)):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in spec["containers"]:
            assert not {"runAsUser", "runAsGroup"} & container["securityContext"].keys()
    assert environment(render(*off))["INTAKE_FIXED_IDS"] == "false"
    assert environment(render())["INTAKE_FIXED_IDS"] == "true"
    assert pod(render())["securityContext"]["runAsUser"] == 10001


def test_the_defaults_for_all_events_reach_the_operator(values: Values) -> None:
    defaults = {
        "database": PLACE | {"resources": {"requests": {"cpu": 2, "memory": "4Gi"}}},
        "bridge": {
            "podLabels": {"cost-centre": "drops"},
            "podAnnotations": {"prometheus.io/scrape": "true"},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
        },
    }
    assert json.loads(environment(render(*values(defaults=defaults)))["INTAKE_DEFAULTS"]) == defaults
    assert json.loads(environment(render())["INTAKE_DEFAULTS"]) == {"database": {}, "bridge": {}}


def test_names_can_be_given() -> None:
    whole = render("--set", "fullnameOverride=sales,admin.tlsSecretName=tls,podMonitor.enabled=true")
    ours = {obj["metadata"]["name"].removeprefix("intake-system.") for obj in whole} - {"intakeevents.intake-engine.io"}
    assert all(name == "sales" or name.startswith("sales-") for name in ours), ours
    assert environment(whole)["INTAKE_GUARD"] == "intake-system.sales"
    assert pod(whole)["serviceAccountName"] == "sales"
    part = render("--set", "nameOverride=drops")
    assert deployment(part)["metadata"]["name"] == f"{release.RELEASE}-drops"
    selector = deployment(part)["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/name"] == "drops"
    assert selector.items() <= deployment(part)["spec"]["template"]["metadata"]["labels"].items()
    # DB1's NetworkPolicy lets the operator in by these, whatever its name.
    labels = deployment(part)["spec"]["template"]["metadata"]["labels"]
    assert (labels["app.kubernetes.io/part-of"], labels["app.kubernetes.io/component"]) == ("intake-engine", "operator")


def test_common_labels_are_on_everything_but_the_crd_and_in_no_selector() -> None:
    flags = ("--set", "commonLabels.team=sales,podMonitor.enabled=true,podMonitor.labels.team=monitoring")
    rendered = [*render(*flags, "--set", "admin.tlsSecretName=tls,watchNamespaces={north}"), *render_test(*flags)]
    without = {obj["kind"] for obj in rendered if obj["metadata"].get("labels", {}).get("team") != "sales"}
    # What a Prometheus selects by is its own.
    assert without == {"CustomResourceDefinition", "PodMonitor"}
    assert deployment(rendered)["spec"]["template"]["metadata"]["labels"]["team"] == "sales"
    assert "team" not in deployment(rendered)["spec"]["selector"]["matchLabels"]
    (service,) = of_kind(rendered, "Service")
    assert "team" not in service["spec"]["selector"]


def test_further_environment_and_the_cluster_s_domain_reach_the_operator(values: Values) -> None:
    extra = [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    (container,) = pod(render(*values(extraEnv=extra, clusterDomain="corp.example")))["containers"]
    assert [each for each in container["env"] if each in extra] == extra
    assert {"name": "INTAKE_CLUSTER_DOMAIN", "value": "corp.example"} in container["env"]
    assert "INTAKE_CLUSTER_DOMAIN" not in environment(render())


def test_the_pod_of_helm_test_asks_for_what_the_values_say() -> None:
    (container,) = pod_of_helm_test("--set", "test.resources.limits.cpu=1")["containers"]
    assert container["resources"]["limits"]["cpu"] == 1


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("defaults.databases.podLabels.a=b", "databases"),
        ("defaults.database.nodeSelectors.a=b", "nodeSelectors"),
        ("defaults.bridge.tolerations[0].keyy=a", "keyy"),
        ("defaults.bridge.tolerations[0].operator=Exist", "operator"),
        ("defaults.bridge.podLabels.app\\.kubernetes\\.io/component=database", "podLabels"),
        ("defaults.database.podAnnotations.intake-engine\\.io/inputs=x", "podAnnotations"),
        ("defaults.database.resources.limits.memory=512MB", "memory"),
        ("defaults.database.parameters.jit=off", "parameters"),
        ("defaults.bridge.maxReplicas=9", "maxReplicas"),
        ("image.digest=sha256:0123", "digest"),
        ("bridge.image.digest=latest", "digest"),
        ("podSecurity.fixedIDs=false", "fixedIDs"),
        ("podSecurity.fixedIds=no", "fixedIds"),
        ("clusterDomain=.cluster.local", "clusterDomain"),
        ("nameOverride=Sales", "nameOverride"),
        (f"fullnameOverride={'a' * 53}", "fullnameOverride"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "commonLabels"),
        ("commonLabels.cost centre=x", "commonLabels"),
        ("defaults.bridge.nodeSelector.cost centre=x", "nodeSelector"),
        ("extraEnv[0].name=INTAKE_GUARD,extraEnv[0].value=x", "extraEnv"),
        ("extraEnv[0].name=A", "extraEnv"),
        ("affinity.nodeAfinity.x=y", "nodeAfinity"),
        ("tolerations[0].effects=NoSchedule", "effects"),
        ("priorityClassName=Sales First", "priorityClassName"),
        # One pod has nothing to be spread over.
        ("topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints"),
    ],
)
def test_a_misspelt_value_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(CommandError, match=named):
        render("--set", setting)


def pod(rendered: list[Object]) -> Object:
    """The operator's pod."""
    spec: Object = deployment(rendered)["spec"]["template"]["spec"]
    return spec


def pod_of_helm_test(*flags: str) -> Object:
    """The pod of `helm test`."""
    (found,) = of_kind(render_test(*flags), "Pod")
    spec: Object = found["spec"]
    return spec
