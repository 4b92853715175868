"""Where pods run and what they carry: what the event says, else what the chart says for all events."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import given
import pytest
from given import INSTALLATION
from intake_operator import names
from intake_operator.addresses import Address, domain_of
from intake_operator.children import access, bridge, database
from intake_operator.decide.steps import ReplaceDatabasePod
from intake_operator.ledger.connection import ledger_key
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.pod_settings import Defaults
from intake_operator.reasons import ConditionType
from intake_operator.settings import Settings, SettingsError

type Make[T] = Callable[..., T]
type Fields = dict[str, Any]

UNREACHABLE: Final = "node.kubernetes.io/unreachable"

# One of each field, as it has to stand in the pod.
PLACE: dict[str, Any] = {
    "nodeSelector": {"pool": "sales"},
    "tolerations": [{"key": "sales", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "namespaces": ["north"]}}
            ]
        },
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "minDomains": 2,
            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "bridge"}},
            "matchLabelKeys": ["intake-engine.io/event"],
        }
    ],
    "priorityClassName": "sales-first",
    "imagePullSecrets": [{"name": "registry"}],
}
CARRIED: dict[str, Any] = {
    "podLabels": {"cost-centre": "drops"},
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "resources": {"requests": {"cpu": 2, "memory": "4Gi"}},
}
COMPONENTS = pytest.mark.parametrize("component", ["database", "bridge"])


def template(
    component: str, said: Fields | None = None, defaults: Fields | None = None, *, fixed_ids: bool = True
) -> Manifest:
    """The pod template of DB1 or of the bridges, with what the event and the chart say of it."""
    event = given.make_event(spec=given.make_spec(**{component: said or {}}))
    assert event.spec is not None
    chart = Defaults.model_validate({component: defaults or {}})
    installation = replace(INSTALLATION, defaults=chart, fixed_ids=fixed_ids)
    made = {
        "database": lambda spec: database.stateful_set(event, spec.database, installation, identity=""),
        "bridge": lambda spec: bridge.deployment(event, spec, installation, {}),
    }[component](event.spec)
    found: Manifest = made["spec"]["template"]
    return found


def without_ours(spec: Manifest) -> Manifest:
    """The fields of PLACE in a pod, without the two tolerations that every bridge gets."""
    ours = bridge.UNREACHABLE
    return {
        name: [each for each in spec[name] if each.get("key") not in ours] if name == "tolerations" else spec[name]
        for name in PLACE
    }


@COMPONENTS
@pytest.mark.parametrize("by", ["said", "defaults"])
def test_each_field_reaches_the_pod_from_the_event_and_from_the_chart(component: str, by: str) -> None:
    made = template(component, **{by: PLACE | CARRIED})
    assert without_ours(made["spec"]) == PLACE
    assert made["metadata"]["labels"]["cost-centre"] == "drops"
    assert made["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
    assert [each["resources"] for each in made["spec"]["containers"]] == [CARRIED["resources"]]


@COMPONENTS
def test_what_nobody_says_is_not_in_the_pod(component: str) -> None:
    made = template(component)
    assert not (PLACE.keys() - {"tolerations"}) & made["spec"].keys()
    assert made["spec"]["containers"][0]["resources"]["requests"]


@COMPONENTS
def test_the_event_wins_over_the_chart_field_by_field(component: str) -> None:
    said = {"nodeSelector": {"pool": "mine"}, "imagePullSecrets": [], "podLabels": {"team": "a"}}
    made = template(component, said, PLACE | CARRIED)
    assert made["spec"]["nodeSelector"] == {"pool": "mine"}
    # An empty list is said, too.
    assert "imagePullSecrets" not in made["spec"]
    assert made["metadata"]["labels"].items() >= {"team": "a"}.items()
    assert "cost-centre" not in made["metadata"]["labels"]
    assert made["spec"]["priorityClassName"] == "sales-first"
    assert made["metadata"]["annotations"].items() >= CARRIED["podAnnotations"].items()


@COMPONENTS
def test_the_operator_s_labels_win_whoever_says_otherwise(component: str) -> None:
    # The API server and the chart refuse these. An operator that took them would not find its pods.
    stolen = {names.EVENT_LABEL: "other", names.COMPONENT_LABEL: "other", names.GUARD_LABEL: "other"}
    labels = template(component, {"podLabels": stolen})["metadata"]["labels"]
    assert labels[names.EVENT_LABEL] == "taylor-drop"
    assert labels[names.COMPONENT_LABEL] == component
    assert labels[names.GUARD_LABEL] == INSTALLATION.guard


def test_the_operator_s_annotation_wins() -> None:
    made = template("bridge", {"podAnnotations": {names.INPUTS_ANNOTATION: "other"}})
    assert made["metadata"]["annotations"] == template("bridge")["metadata"]["annotations"]


@COMPONENTS
def test_a_spread_constraint_without_a_selector_counts_the_event_s_own_pods_of_the_kind(component: str) -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    made = template(component, defaults={"topologySpreadConstraints": [constraint]})
    own = {names.EVENT_LABEL: "taylor-drop", names.COMPONENT_LABEL: component}
    assert made["spec"]["topologySpreadConstraints"] == [constraint | {"labelSelector": {"matchLabels": own}}]


def test_bridges_leave_an_unreachable_node_after_30_s_and_db1_does_not() -> None:
    seconds = {each["key"]: each["tolerationSeconds"] for each in template("bridge")["spec"]["tolerations"]}
    assert seconds == {"node.kubernetes.io/not-ready": 30, "node.kubernetes.io/unreachable": 30}
    # Kubernetes' own five minutes: a DB1 that only seems dead must not be taken for dead early.
    assert "tolerations" not in template("database")["spec"]


@pytest.mark.parametrize(
    ("toleration", "added"),
    [
        ({"key": "sales", "operator": "Exists"}, ["not-ready", "unreachable"]),
        ({"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}, ["not-ready", "unreachable"]),
        ({"key": UNREACHABLE, "effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 600}, ["not-ready"]),
        ({"key": "node.kubernetes.io/not-ready", "operator": "Exists"}, ["unreachable"]),
        # Kubernetes itself adds nothing beside this one either.
        ({"operator": "Exists"}, []),
    ],
)
@pytest.mark.parametrize("by", ["said", "defaults"])
def test_who_names_the_taint_decides_how_long_a_bridge_stays(
    toleration: dict[str, Any], added: list[str], by: str
) -> None:
    made = template("bridge", **{by: {"tolerations": [toleration]}})["spec"]["tolerations"]
    assert made[0] == toleration
    assert [each["key"].removeprefix("node.kubernetes.io/") for each in made[1:]] == added


@COMPONENTS
def test_no_pod_names_a_user_or_a_group_where_ids_are_not_fixed(component: str) -> None:
    context = template(component, fixed_ids=False)["spec"]["securityContext"]
    assert context == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert {"runAsUser", "runAsGroup", "fsGroup"} <= template(component)["spec"]["securityContext"].keys()


@pytest.mark.parametrize("before", [True, False])
def test_a_db1_that_may_have_claims_keeps_its_user_and_one_without_gets_the_new_one(*, before: bool) -> None:
    # Postgres refuses data of another user, so a changed value of the chart would be the end of the sale.
    event = given.make_event()
    spec = event.spec
    assert spec is not None

    def ids(identity: str, existing: Manifest | None, *, fixed: bool) -> bool:
        installation = replace(INSTALLATION, fixed_ids=fixed)
        made = database.stateful_set(event, spec.database, installation, identity=identity, existing=existing)
        return "runAsUser" in made["spec"]["template"]["spec"]["securityContext"]

    made = database.stateful_set(event, spec.database, replace(INSTALLATION, fixed_ids=before), identity="")
    assert ids("7251", made, fixed=not before) is before
    # Where admission refused the first one, nothing was ever made.
    assert ids("", made, fixed=not before) is not before
    assert ids("7251", None, fixed=before) is before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"databases": {}}, "databases: Extra inputs are not permitted"),
        ({"bridge": {"nodeSelectors": {}}}, "bridge.nodeSelectors: Extra inputs are not permitted"),
        ({"bridge": {"affinity": {"podAffinity": {"required": []}}}}, "bridge.affinity.podAffinity.required: Extra"),
        (
            {"database": {"tolerations": [{"key": "a", "operator": "Exist"}]}},
            "database.tolerations.0.operator: Input should be 'Exists' or 'Equal'",
        ),
        ({"database": {"podLabels": {"intake-engine.io/event": "x"}}}, "database.podLabels: intake-engine.io/event is"),
        ({"bridge": {"podLabels": {"app.kubernetes.io/name": "x"}}}, "bridge.podLabels: app.kubernetes.io/name is the"),
        (
            {"bridge": {"podAnnotations": {"intake-engine.io/inputs": "x"}}},
            "bridge.podAnnotations: intake-engine.io/in",
        ),
        ({"bridge": {"tolerations": [{}]}}, "bridge.tolerations[0]: operator must be Exists where key is left out"),
        (
            {"bridge": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
            "bridge.tolerations[0]: value must be left out where operator is Exists",
        ),
        (
            {"bridge": {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 3}]}},
            "bridge.tolerations[0]: tolerationSeconds needs the effect NoExecute",
        ),
    ],
)
def test_the_operator_does_not_start_with_wrong_defaults_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("INTAKE_DEFAULTS", json.dumps(wrong))
    with pytest.raises(SettingsError) as error:
        Settings.from_environment()
    assert str(error.value).startswith(f"INTAKE_DEFAULTS: {told}")
    assert "\n" not in str(error.value)


def test_the_defaults_of_the_chart_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAKE_DEFAULTS", json.dumps({"database": PLACE | CARRIED, "bridge": PLACE | CARRIED}))
    monkeypatch.setenv("INTAKE_FIXED_IDS", "false")
    settings = Settings.from_environment()
    assert settings.defaults.bridge == settings.defaults.database
    assert settings.defaults.bridge.part("affinity") == {"affinity": PLACE["affinity"]}
    assert settings.fixed_ids is False


@pytest.mark.parametrize(
    ("resolv_conf", "domain"),
    [
        (
            "search intake-system.svc.corp.example svc.corp.example corp.example\nnameserver 10.96.0.10\n",
            "corp.example",
        ),
        ("search x.svc.cluster.local svc.cluster.local. cluster.local lan\noptions ndots:5", "cluster.local"),
        # With hostNetwork, or dnsPolicy Default, a pod has the node's.
        ("search lan\nnameserver 192.168.0.1\n", ""),
        ("# search a.svc.b svc.b\n", ""),
        ("search a.svc.old svc.old\nsearch a.svc.new svc.new", "new"),
        ("", ""),
    ],
)
def test_the_cluster_s_domain_is_found_in_resolv_conf(resolv_conf: str, domain: str) -> None:
    assert domain_of(resolv_conf) == domain


def test_secrets_have_the_cluster_s_domain(event: Make[Event]) -> None:
    content = json.dumps(access.credentials(event(), "s", "claimer", "p", "corp.example")["data"])
    default = json.dumps(access.credentials(event(), "s", "claimer", "p")["data"])
    assert content != default


def test_a_ledger_is_the_same_with_the_cluster_s_domain_and_without() -> None:
    short, long, other = (
        ledger_key(Address(f"postgresql://a@core.tickets.svc{domain}/db", "tickets"), "f", "Corp.example")
        for domain in ("", ".CORP.example.", ".cluster.local")
    )
    assert short == long != other


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_script_that_starts_db1_can_be_read_by_every_shell(shell: str) -> None:
    subprocess.run([shell, "-n"], input=database.START, text=True, check=True)


class TestDb1AndAChangedField:
    """When a changed scheduling field of a DB1 that runs takes effect."""

    READY: Final = given.make_pod(given.make_event(), "database")["status"]
    RUNNING: Final = {"conditions": [], "containerStatuses": [{"name": "postgres", "started": True}]}
    STARTING: Final = {"conditions": [], "containerStatuses": [{"name": "postgres", "started": False}]}

    def test_before_the_sale_the_pod_is_replaced(self) -> None:
        assert given.scheduled().outdated().plan().all(ReplaceDatabasePod)

    def test_a_change_that_waits_is_told_with_what_applies_it(self) -> None:
        def told(sale: given.Given) -> str:
            return sale.plan().condition(ConditionType.DATABASE_READY)["message"]

        assert "`kubectl delete pod taylor-drop-database-0`" in told(given.selling().outdated(status=self.READY))
        assert told(given.selling()) == "DB1 answers claims"
        # Before the sale the operator applies it itself.
        assert told(given.scheduled().outdated(status=self.READY)) == "DB1 answers claims"
        ephemeral = given.selling(spec={"database": {"ephemeral": {}}}).outdated(status=self.READY)
        assert "kubectl" not in told(ephemeral)
        assert "keeps it, because the pod is the data" in told(ephemeral)

    def test_a_pod_that_no_node_took_is_replaced_also_in_a_sale(self) -> None:
        unscheduled = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
        assert given.selling().new_db1().outdated(status=unscheduled).plan().all(ReplaceDatabasePod)

    def test_a_db1_that_never_started_is_replaced_also_in_a_sale(self) -> None:
        assert given.selling().new_db1().outdated(status=self.STARTING).plan().all(ReplaceDatabasePod)

    def test_a_db1_that_has_started_and_is_too_busy_for_its_probe_is_left_alone_in_a_sale(self) -> None:
        # The rush that makes it miss its probes is the last moment to restart it, for a default that the chart changed.
        assert not given.selling().outdated(status=self.RUNNING).plan().all(ReplaceDatabasePod)
        assert given.scheduled().outdated(status=self.RUNNING).plan().all(ReplaceDatabasePod)
