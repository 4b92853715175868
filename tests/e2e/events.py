"""IntakeEvents of the tests: small manifests, their windows and phases, and what is left of them."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final

from tests.e2e import release
from tests.e2e.kube import REPOSITORY, Kube, Object, condition, eventually, run

EVENT_LABEL = "intake-engine.io/event"
FINALIZER = "intake-engine.io/drain"
ABANDON_ANNOTATION = "intake-engine.io/abandon"
RECOVER_ANNOTATION = "intake-engine.io/recover"
POOL_UNCHECKED_ANNOTATION = "intake-engine.io/pool-unchecked"

# From the cause to the condition, and back. The kubelet tries to pull an image for some seconds before it reports an
# error; the operator checks every 3 s while there is an error, and 10 s after DB1 has refused a row.
CONDITION_SECONDS: Final = 60.0


def window(opens_in: float, lasts: float) -> dict[str, str]:
    """spec.window, in whole seconds from now."""
    opens = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=opens_in)
    return {"opensAt": instant(opens), "closesAt": instant(opens + timedelta(seconds=lasts))}


# A window that `open_now` opens: a slow machine may still provision when a shorter one opens. Inside the lead time.
LATER = {"opens_in": 3000.0, "lasts": 7200.0}


def open_now(kube: Kube, name: str) -> None:
    """Move the window of an event to the present."""
    kube.patch("intakeevent", name, {"spec": {"window": window(opens_in=2, lasts=3600)}})


def close_now(kube: Kube, name: str) -> None:
    """Move the end of an open window to the present."""
    closes = {"closesAt": window(opens_in=1, lasts=1)["closesAt"]}
    kube.patch("intakeevent", name, {"spec": {"window": closes}})


def instant(moment: datetime) -> str:
    """An instant as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def event(name: str, sale: dict[str, str], **spec: Any) -> Object:
    """A small IntakeEvent for the example ledger. Fields given in `spec` (camelCase) replace the defaults.

    Its resource requests are small, so that a dozen events fit on a node of two cores.
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
    """The same event for a namespace without a ledger: it opens without the check that its pool is unused."""
    event["metadata"]["annotations"] = {POOL_UNCHECKED_ANNOTATION: event["metadata"]["name"]}
    return event


def phase(kube: Kube, name: str) -> str:
    """status.phase; empty before the operator has seen the event."""
    found: str = kube.get("intakeevent", name).get("status", {}).get("phase", "")
    return found


def await_phase(kube: Kube, name: str, wanted: str, deadline: float) -> Object:
    """Wait until an event is in a phase; return the event."""

    def look() -> Object | None:
        found = kube.get("intakeevent", name)
        status = found.get("status", {})
        reasons = [f"{c['type']}={c['status']}/{c['reason']}: {c['message']}" for c in status.get("conditions", [])]
        assert status.get("phase") == wanted, f"phase {status.get('phase')}; {'; '.join(reasons)}"
        return found

    found = eventually(look, deadline, f"{name} is {wanted}")
    assert found is not None
    return found


def await_degraded(kube: Kube, name: str, reason: str, says: str) -> None:
    """Wait until an event is Degraded for this reason, with a message that contains `says`."""

    def look() -> bool:
        found = condition(kube.get("intakeevent", name), "Degraded")
        assert (found["status"], found["reason"]) == ("True", reason), found
        assert says in found["message"], found
        return True

    eventually(look, CONDITION_SECONDS, f"{name} is Degraded with reason {reason}, and the message says what to do")


def await_healed(kube: Kube, name: str) -> None:
    """Wait until an event is not Degraded any more."""

    def look() -> bool:
        found = condition(kube.get("intakeevent", name), "Degraded")
        assert found["status"] == "False", found
        return True

    eventually(look, CONDITION_SECONDS, f"{name} is not degraded")


def leftovers(kube: Kube, event: str) -> list[str]:
    """The objects that an event has left behind, by its label; its report is meant to stay."""
    kinds = (
        "statefulsets,deployments,replicasets,pods,services,secrets,persistentvolumeclaims,networkpolicies,"
        "poddisruptionbudgets,configmaps"
    )
    found = kube.items(kinds, f"{EVENT_LABEL}={event}")
    names = [f"{obj['kind']}/{obj['metadata']['name']}" for obj in found]
    return [name for name in names if name != f"ConfigMap/{event}-report"]


def remove_by_hand(kube: Kube, event: str) -> None:
    """Run the commands of the chart's README for an event whose operator will not come back."""
    readme = (REPOSITORY / release.CHART / "README.md").read_text(encoding="utf-8")
    _, found, rest = readme.partition("    event=taylor-drop\n")
    assert found, "the chart's README no longer has the commands"
    commands = [line.strip() for line in takewhile(lambda line: line.startswith("    "), rest.splitlines())]
    here = f'kubectl() {{ command kubectl --context "{kube.context}" --namespace "{kube.namespace}" "$@"; }}'
    run("bash", "-uc", "\n".join([here, f"event={event}", *commands]))
