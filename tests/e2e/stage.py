"""What an IntakeEvent plays on: a namespace, the operator, a ledger, a validator, a crowd. Tests and demo share it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from tests.e2e.kube import REPOSITORY, CommandError, Kube, Object, eventually, run
from tests.patience import SLOWER

RELEASE = "intake-engine"
OPERATOR_NAMESPACE = "intake-system"
OPERATOR_SELECTOR = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=intake-engine"
EVENT_LABEL = "intake-engine.io/event"
GUARD_LABEL = "intake-engine.io/guarded-by"
# What our release writes into that label.
GUARD = f"{OPERATOR_NAMESPACE}.{RELEASE}"
FINALIZER = "intake-engine.io/drain"
ABANDON_ANNOTATION = "intake-engine.io/abandon"
RECOVER_ANNOTATION = "intake-engine.io/recover"
POOL_UNCHECKED_ANNOTATION = "intake-engine.io/pool-unchecked"
CHART = "charts/intake-engine"

LEDGER_POD = "core-ledger-0"
LEDGER_DATABASE = "ledger"
VALIDATOR_URL = "http://validator:8080/validate"

# How long the clean-up waits for events that were given up.
GIVE_UP_SECONDS = 90.0

# A pod starts within three seconds on an idle node; this is for a loaded one.
POD_SECONDS = 90.0

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


def create_namespace(kube: Kube, name: str) -> Kube:
    """A namespace in which only pods that pass Pod Security `restricted` start."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    return kube.within(name)


def install_operator(kube: Kube, *settings: str) -> None:
    """The chart as a user installs it, watching every namespace; returns when the operator is ready."""
    sets = [word for setting in settings for word in ("--set", setting)]
    operator = create_namespace(kube, OPERATOR_NAMESPACE)
    operator.helm("upgrade", "--install", RELEASE, str(REPOSITORY / CHART), "--wait", "--timeout", "600s", *sets)


def operator_installed(kube: Kube) -> bool:
    """Whether our release is there already."""
    found: list[Object] = json.loads(kube.within(OPERATOR_NAMESPACE).helm("list", "--output", "json"))
    return any(release["name"] == RELEASE for release in found)


def remove_operator(kube: Kube) -> None:
    """Uninstall the chart and its namespace."""
    operator = kube.within(OPERATOR_NAMESPACE)
    operator.helm("uninstall", RELEASE, "--wait", "--timeout", "300s")
    operator.delete("namespace", OPERATOR_NAMESPACE)


def operator_pods(kube: Kube) -> list[Object]:
    """The operator's pods; one, but for the moments between two."""
    return kube.within(OPERATOR_NAMESPACE).items("pods", OPERATOR_SELECTOR)


def start_ledger(kube: Kube) -> None:
    """examples/core-ledger.yaml, with the reference contract of sql/ledger."""
    kube.config_map("core-ledger-sql", "sql/ledger")
    kube.apply_file("examples/core-ledger.yaml")


def start_validator(kube: Kube) -> None:
    """examples/validator.yaml."""
    kube.config_map("validator", "examples/demo/validator.py")
    kube.apply_file("examples/validator.yaml")


def await_rollout(kube: Kube, *workloads: str) -> None:
    """Return when each of these (`kind/name`) runs as its manifest says."""
    for workload in workloads:
        seconds = SLOWER * POD_SECONDS
        kube.kubectl("rollout", "status", workload, f"--timeout={seconds:.0f}s", timeout=seconds + 10)


def validator(kube: Kube, path: str) -> Object:
    """A GET to the validator, out of its own pod: `/effects`, `/faults?mode=500`."""
    script = f"import urllib.request as u; print(u.urlopen('http://localhost:8080{path}').read().decode())"
    answer: Object = json.loads(kube.execute("deploy/validator", "python", "-c", script))
    return answer


def ledger(kube: Kube, script: str, database: str = LEDGER_DATABASE) -> str:
    """SQL in the ledger."""
    return kube.psql(LEDGER_POD, database, script)


def engine(kube: Kube, event: str, script: str) -> str:
    """SQL in an event's DB1, as its superuser."""
    return kube.psql(f"{event}-db-0", "intake", script)


def window(opens_in: float, lasts: float) -> dict[str, str]:
    """spec.window from now on, in whole seconds."""
    opens = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=opens_in)
    return {"opensAt": instant(opens), "closesAt": instant(opens + timedelta(seconds=lasts))}


# A window that opens when a test says so, and not while a slow machine still provisions.
LATER = {"opens_in": 3600.0, "lasts": 7200.0}


def open_now(kube: Kube, name: str) -> None:
    """Move the window of an event that has waited for it to the present."""
    kube.patch("intakeevent", name, {"spec": {"window": window(opens_in=2, lasts=3600)}})


def close_now(kube: Kube, name: str) -> None:
    """Move the end of an open window to the present: the sale is over when the test has seen what it wants."""
    closes = {"closesAt": window(opens_in=1, lasts=1)["closesAt"]}
    kube.patch("intakeevent", name, {"spec": {"window": closes}})


def instant(moment: datetime) -> str:
    """An instant as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def event(name: str, sale: dict[str, str], **spec: Any) -> Object:
    """A small IntakeEvent for the example ledger. Whatever is given in `spec` (camelCase) takes the place of ours.

    Its requests are small, so that a dozen events fit on a node of two cores.
    """
    small = {
        "pool": f"{name}-pool",
        "inventorySize": 200,
        "batchSize": 50,
        "window": sale,
        "commitTarget": {"postgres": {"secretRef": {"name": "core-ledger"}}},
        "bridge": {"minReplicas": 1, "maxReplicas": 2, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
        "database": {
            "storage": {"size": "512Mi"},
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
        },
        "teardown": {"keepMinutes": 0},
    }
    return {
        "apiVersion": "intake-engine.io/v1alpha1",
        "kind": "IntakeEvent",
        "metadata": {"name": name},
        "spec": small | spec,
    }


def unchecked(event: Object) -> Object:
    """The same event for a namespace without a ledger: it opens without asking whether its pool was sold before."""
    event["metadata"]["annotations"] = {POOL_UNCHECKED_ANNOTATION: event["metadata"]["name"]}
    return event


def phase(kube: Kube, name: str) -> str:
    """What the Phase column says; empty before the operator has seen the event."""
    said: str = kube.get("intakeevent", name).get("status", {}).get("phase", "")
    return said


def await_phase(kube: Kube, name: str, wanted: str, deadline: float) -> Object:
    """Wait until an event is in a phase; the event as it then is."""

    def look() -> Object | None:
        found = kube.get("intakeevent", name)
        status = found.get("status", {})
        reasons = [f"{c['type']}={c['status']}/{c['reason']}: {c['message']}" for c in status.get("conditions", [])]
        assert status.get("phase") == wanted, f"phase {status.get('phase')}; {'; '.join(reasons)}"
        return found

    found = eventually(look, deadline, f"{name} is {wanted}")
    assert found is not None
    return found


@dataclass(frozen=True)
class CrowdPlan:
    """How many fans come, how fast, and how long they try."""

    fans: int
    rate: float = 0.0
    connections: int = 8
    patience: float = 90.0
    prefix: str = "fan"
    twice_percent: float = 5.0
    hang_up_percent: float = 2.0


def start_crowd(kube: Kube, event: str, pool: str, plan: CrowdPlan, pod: str = "crowd") -> None:
    """examples/demo/crowd.py in a pod with the Secret that the event publishes for claimers, and nothing else."""
    secret = f"{event}-app"
    # A pod that mounts a Secret too early is tried again only after a growing while.
    eventually(lambda: kube.find("secret", secret), POD_SECONDS, f"Secret {secret}")
    kube.config_map("crowd", "examples/demo/crowd.py")
    arguments = {
        "pool": pool,
        "fans": plan.fans,
        "rate": plan.rate,
        "connections": plan.connections,
        "patience-seconds": SLOWER * plan.patience,
        "prefix": plan.prefix,
        "twice-percent": plan.twice_percent,
        "hang-up-percent": plan.hang_up_percent,
    }
    kube.apply(_crowd_pod(pod, secret, [f"--{name}={value}" for name, value in arguments.items()]))


def crowd_record(kube: Kube, deadline: float, pod: str = "crowd") -> list[Object]:
    """Wait for the crowd to go home; every answer it was given."""

    def gone() -> bool:
        phase = kube.get("pod", pod)["status"]["phase"]
        if phase == "Failed":
            raise RuntimeError(f"the crowd failed: {kube.kubectl('logs', pod, '--tail=20')}")
        return bool(phase == "Succeeded")

    eventually(gone, deadline, f"the crowd of pod {pod} went home")
    lines = [json.loads(line) for line in kube.kubectl("logs", pod).splitlines()]
    assert lines, f"the log of pod {pod} is gone"
    *answers, last = lines
    summary = last["summary"]
    assert summary["lines"] == len(answers), f"the record is not whole: {len(answers)} lines of {summary['lines']}"
    assert summary["contradictions"] == 0, f"a second press was not answered like the first: {summary}"
    return answers


def _crowd_pod(name: str, secret: str, arguments: list[str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "crowd"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "crowd",
                    "image": "intake-engine/bridge:dev",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "/app/crowd.py", *arguments],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "app", "mountPath": "/app", "readOnly": True},
                        {"name": "uri", "mountPath": "/run/secrets/intake", "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                {"name": "app", "configMap": {"name": "crowd"}},
                {"name": "uri", "secret": {"secretName": secret, "defaultMode": 0o440}},
            ],
        },
    }


def leftovers(kube: Kube, event: str) -> list[str]:
    """What there still is of an event, by its label; the report is meant to stay."""
    kinds = (
        "statefulsets,deployments,replicasets,pods,services,secrets,persistentvolumeclaims,networkpolicies,"
        "poddisruptionbudgets,configmaps"
    )
    found = kube.items(kinds, f"{EVENT_LABEL}={event}")
    names = [f"{obj['kind']}/{obj['metadata']['name']}" for obj in found]
    return [name for name in names if name != f"ConfigMap/{event}-report"]


def clear(kube: Kube) -> None:
    """Give up what events there still are, so that the namespace can go; then let it go in its own time."""
    for found in kube.items("intakeevents"):
        name = found["metadata"]["name"]
        kube.patch("intakeevent", name, {"metadata": {"annotations": {ABANDON_ANNOTATION: name}}})
        kube.delete("intakeevent", name)
    try:
        eventually(lambda: not kube.items("intakeevents"), GIVE_UP_SECONDS, "the events that were given up are gone")
    except AssertionError:
        for found in kube.items("intakeevents"):
            # Guards and finalizers of its children, too: the namespace would never go.
            let_go(kube, found["metadata"]["name"])
    kube.kubectl("delete", "namespace", kube.namespace, "--wait=false", "--ignore-not-found")


@contextmanager
def operator_away(kube: Kube) -> Iterator[None]:
    """There is no operator meanwhile."""
    operator = kube.within(OPERATOR_NAMESPACE)
    operator.kubectl("scale", f"deployment/{RELEASE}", "--replicas=0")
    eventually(lambda: not operator_pods(kube), 60, "the operator is away")
    yield
    operator.kubectl("scale", f"deployment/{RELEASE}", "--replicas=1")
    await_rollout(operator, f"deployment/{RELEASE}")


def delete_as_operator(kube: Kube, kind: str, name: str, *flags: str) -> None:
    """Remove a child, which the guard refuses to a person."""
    kube.delete(kind, name, f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}", *flags)


def let_go(kube: Kube, event: str) -> None:
    """What the chart's README tells to do with an event whose operator is gone for good, command by command."""
    readme = (REPOSITORY / CHART / "README.md").read_text(encoding="utf-8")
    _, found, rest = readme.partition("    event=taylor-drop\n")
    assert found, "the chart's README no longer has the commands"
    commands = [line.strip() for line in takewhile(lambda line: line.startswith("    "), rest.splitlines())]
    here = f'kubectl() {{ command kubectl --context "{kube.context}" --namespace "{kube.namespace}" "$@"; }}'
    run("bash", "-uc", "\n".join([here, f"event={event}", *commands]))


def dump(kube: Kube) -> str:
    """All that tells why a test failed: custom resources, pods, events, the logs of operator and bridges."""
    operator = kube.within(OPERATOR_NAMESPACE)
    looks = [
        (kube, ("get", "intakeevents", "-o", "yaml")),
        (kube, ("get", "all,pvc,secrets,networkpolicies,pdb,configmaps", "-o", "wide")),
        (kube, ("get", "events", "--sort-by=.lastTimestamp")),
        (kube, ("logs", "--selector", "app.kubernetes.io/component=bridge", "--prefix", "--tail=80")),
        (kube, ("logs", "--selector", "app.kubernetes.io/component=database", "--prefix", "--tail=80")),
        (operator, ("logs", "--selector", OPERATOR_SELECTOR, "--tail=400")),
        (operator, ("get", "pods", "-o", "wide")),
    ]
    return "\n".join(f"--- kubectl {' '.join(arguments)}\n{_told(where, arguments)}" for where, arguments in looks)


def _told(kube: Kube, arguments: tuple[str, ...]) -> str:
    try:
        return kube.kubectl(*arguments)
    except CommandError as error:
        return str(error)
