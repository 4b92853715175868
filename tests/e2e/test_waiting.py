"""An event that is applied weeks ahead: nothing runs, what it lacks is told, and an edit brings it to life."""

from typing import Final

from tests.e2e import events
from tests.e2e.kube import Kube, condition, eventually

LEDGER_URI: Final = "postgresql://ledger_writer:example-writer@core-ledger:5432/ledger"
WEEKS: Final = 21 * 86_400.0
RUNS: Final = "statefulsets,deployments,pods,persistentvolumeclaims,poddisruptionbudgets"


def test_an_event_applied_weeks_ahead_runs_nothing_is_checked_and_comes_to_life(kube: Kube) -> None:
    room = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "room"}, "spec": {"hard": {"pods": "40"}}}
    target = {"postgres": {"secretRef": {"name": "late-ledger"}}}
    kube.apply(room, events.event("weeks", events.window(WEEKS, 3600), commitTarget=target))
    kube.apply(events.event("gone", events.window(WEEKS, 3600)))

    waits = events.await_phase(kube, "weeks", "Waiting", 60)
    eventually(lambda: "late-ledger" in preflight(kube, "False"), 60, "the missing Secret is named")
    events.await_degraded(kube, "weeks", "LedgerSecretMissing", "late-ledger")
    assert waits["status"]["nextTransitionTime"] < waits["spec"]["window"]["opensAt"]
    found = kube.get("intakeevent", "weeks")["status"]
    assert found["connection"]["secretName"] == "weeks-app"
    assert sorted(secret["metadata"]["name"] for secret in kube.items("secrets", f"{events.EVENT_LABEL}=weeks")) == [
        "weeks-app",
        "weeks-bridge",
        "weeks-superuser",
    ]
    assert len(kube.items("services", f"{events.EVENT_LABEL}=weeks")) == 2
    assert kube.items(RUNS, f"{events.EVENT_LABEL}=weeks") == []

    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late-ledger"}}
    kube.apply(secret | {"stringData": {"uri": LEDGER_URI}})
    eventually(lambda: preflight(kube, "True") != "", 90, "the checks pass once the Secret is there")
    lines = preflight(kube, "True").splitlines()[1:]
    # The cluster may have no default class, and then says so.
    assert [line for line in lines if not line.startswith("storageClass: ")] == [
        *(f"{name}: ok" for name in ("secrets", "ledger", "pool", "quota", "window")),
        "images: NotAsked (no registry is asked)",
    ]
    events.await_healed(kube, "weeks")
    assert kube.items(RUNS, f"{events.EVENT_LABEL}=weeks") == []

    events.open_now(kube, "weeks")
    kube.delete("intakeevent", "gone")
    eventually(lambda: kube.find("intakeevent", "gone") is None, 60, "the event that is deleted while it waits is gone")
    assert events.leftovers(kube, "gone") == []
    events.await_phase(kube, "weeks", "Open", 90)
    assert preflight(kube, "True").splitlines()[1:] == lines


def preflight(kube: Kube, status: str) -> str:
    """What PreflightPassed says; empty while it has another status."""
    found = condition(kube.get("intakeevent", "weeks"), "PreflightPassed")
    return str(found["message"]) if found["status"] == status else ""
