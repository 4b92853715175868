"""A whole sale, from apply to deletion: validation, a crowd that buys all slots, drain, proof, report."""

from typing import Final

import pytest

from tests.e2e import account, crowd, events, services, sql
from tests.e2e.kube import CommandError, Kube, condition, eventually

POOL: Final = "drop-pool"
SEATS: Final = 200

# Each state is written to status before the operator acts on it.
TEARDOWN: Final = [
    "NotStarted",
    "IntakeClosed",
    "QueueDraining",
    "Verifying",
    "BridgesStopped",
    "DatabaseStopped",
    "VolumesRemoved",
    "Completed",
]
COLUMNS: Final = [
    *("NAME", "PHASE", "READY", "REASON"),
    *("AVAILABLE", "QUEUED", "COMMITTED", "DEAD", "BRIDGES", "CLOSES", "AGE"),
]


def test_a_whole_sale_loses_and_doubles_no_acknowledged_claim(kube: Kube) -> None:
    webhook = {"url": services.VALIDATOR_URL}
    sale = events.window(**events.LATER)
    kube.apply(events.event("drop", sale, inventorySize=SEATS, validation={"webhook": webhook}))
    with (
        kube.watch("intakeevent", "drop", "{.status.phase}") as phases,
        kube.watch("intakeevent", "drop", '{.status.conditions[?(@.type=="Drained")].reason}') as reasons,
    ):
        events.await_phase(kube, "drop", "Scheduled", 60)
        assert condition(kube.get("intakeevent", "drop"), "IntakeOpen")["reason"] == "NotYetOpen"
        crowd.start(kube, "drop", POOL, crowd.Plan(buyers=SEATS + 60, rate=25))
        events.open_now(kube, "drop")
        opened = events.await_phase(kube, "drop", "Open", 60)
        assert opened["status"]["connection"] == {
            "secretName": "drop-app",
            "host": f"drop-rw.{kube.namespace}.svc",
        }

        answers = crowd.answers(kube, 60)
        assert account.outcomes(answers)["sold_out"] > 0
        assert sql.in_database(kube, "drop", f"SELECT * FROM intake.reconcile('{POOL}')") == ""

        events.close_now(kube, "drop")
        events.await_phase(kube, "drop", "Completed", 90)
    assert _first_seen(phases)[-4:] == ["Scheduled", "Open", "Draining", "Completed"]
    seen = _first_seen(reasons)
    assert seen == [reason for reason in TEARDOWN if reason in seen]
    assert {"BridgesStopped", "DatabaseStopped", "VolumesRemoved", "Completed"} <= set(seen)

    assert events.leftovers(kube, "drop") == []
    eventually(lambda: not _volumes(kube), 30, "the volume is deleted")

    settled = account.of_pool(kube, POOL, answers)
    assert (settled.lost, settled.duplicated) == (0, 0), settled.line()
    assert settled.acknowledged == settled.committed + settled.voided >= SEATS
    assert settled.voided > 0, "the validator declines three in a hundred claims"
    assert account.violations(kube, POOL, answers) == ""

    effects = services.validator(kube, "/effects")
    assert effects["repeated"] == []
    assert (effects["approved"], effects["declined"]) == account.ledger_counts(kube, POOL)
    report = kube.get("configmap", "drop-report")["data"]
    assert (int(report["committed"]), int(report["voided"])) == account.ledger_counts(kube, POOL)
    assert report["verified"] == "true"

    header, line = kube.kubectl("get", "intakeevents").splitlines()
    assert header.split() == COLUMNS
    assert line.split()[:4] == ["drop", "Completed", "True", "Completed"]

    kube.delete("intakeevent", "drop")
    eventually(lambda: kube.find("intakeevent", "drop") is None, 20, "the completed event is deleted")


def test_a_window_that_has_passed_creates_nothing_and_the_condition_says_so(namespace: Kube) -> None:
    namespace.apply(events.event("late", events.window(opens_in=-7200, lasts=3600)))
    late = events.await_phase(namespace, "late", "Completed", 20)
    intake_open = condition(late, "IntakeOpen")
    assert (intake_open["status"], intake_open["reason"]) == ("False", "WindowPassed")
    assert "nothing is created" in intake_open["message"]
    assert late["metadata"].get("finalizers", []) == []
    assert events.leftovers(namespace, "late") == []
    namespace.kubectl("delete", "intakeevent", "late", "--timeout=60s")


def test_the_namespaces_of_the_tests_refuse_pods_that_are_not_restricted(namespace: Kube) -> None:
    container = {"name": "root", "image": "postgres:18", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {"containers": [container]}}
    with pytest.raises(CommandError, match="violates PodSecurity"):
        namespace.apply(pod)


def _first_seen(values: list[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _volumes(kube: Kube) -> list[str]:
    volumes = [v for v in kube.items("persistentvolumes") if v["spec"]["claimRef"]["namespace"] == kube.namespace]
    return [v["spec"]["claimRef"]["name"] for v in volumes if "drop" in v["spec"]["claimRef"]["name"]]
