"""SIGKILL of the operator, of a bridge and of DB1 with claims in progress: no acknowledged claim is lost or doubled."""

from typing import Final

import pytest

from tests.e2e import account, crowd, events, release, services, sql
from tests.e2e.kube import Kube, condition, eventually

WEBHOOK: Final = {"url": services.VALIDATOR_URL, "timeoutSeconds": 5}
KILL: Final = ("--grace-period=0", "--force")


@pytest.mark.alone
def test_an_operator_killed_while_it_provisions_and_while_it_drains_continues(kube: Kube) -> None:
    # The validator fails, so that the queue is still full when the window closes.
    services.validator(kube, "/faults?mode=500")
    sale = events.window(opens_in=5, lasts=3600)
    kube.apply(events.event("killed", sale, maxRetries=100, validation={"webhook": WEBHOOK}))
    eventually(lambda: kube.find("statefulset", "killed-db"), 20, "provisioning has begun")
    _kill_operator(kube)
    events.await_phase(kube, "killed", "Open", 60)
    crowd.start(kube, "killed", "killed-pool", crowd.Plan(buyers=60))
    answers = crowd.answers(kube, 40)

    events.close_now(kube, "killed")
    eventually(lambda: _drained(kube, "killed") == "QueueDraining", 60, "draining has begun")
    _kill_operator(kube)
    services.validator(kube, "/faults?mode=ok")
    eventually(
        lambda: _drained(kube, "killed") in {"DatabaseStopped", "VolumesRemoved", "Completed"},
        90,
        "the removal has begun",
    )
    _kill_operator(kube)
    events.await_phase(kube, "killed", "Completed", 90)
    assert events.leftovers(kube, "killed") == []
    _assert_all_settled(kube, "killed-pool", answers, sold=60)


def test_a_bridge_killed_within_a_batch_loses_and_doubles_no_claim(kube: Kube) -> None:
    # The validator loses its first replies after they took effect, and then does not answer at all.
    services.validator(kube, "/faults?mode=lost")
    sale = events.window(opens_in=8, lasts=3600)
    patient = {"visibilityTimeoutSeconds": 6, "maxRetries": 100, "validation": {"webhook": WEBHOOK}}
    bridge = {"minReplicas": 2, "maxReplicas": 2}
    kube.apply(events.event("torn", sale, bridge=bridge, **patient))
    events.await_phase(kube, "torn", "Open", 60)
    crowd.start(kube, "torn", "torn-pool", crowd.Plan(buyers=120))
    answers = crowd.answers(kube, 40)
    eventually(lambda: services.validator(kube, "/effects")["effects"] > 0, 30, "a validation has taken effect")
    services.validator(kube, "/faults?mode=timeout")
    eventually(lambda: _in_flight(kube, "torn") > 0, 30, "a batch is leased")
    for pod in kube.items("pods", f"{events.EVENT_LABEL}=torn,app.kubernetes.io/component=bridge"):
        kube.delete("pod", pod["metadata"]["name"], *KILL)
    services.validator(kube, "/faults?mode=ok")

    kube.delete("intakeevent", "torn")
    eventually(lambda: kube.find("intakeevent", "torn") is None, 120, "the event is drained and gone")
    _assert_all_settled(kube, "torn-pool", answers, sold=120)
    assert services.validator(kube, "/effects")["repeated"] == []


def test_a_sale_survives_a_crash_of_postgres_and_the_loss_of_its_pod(kube: Kube) -> None:
    sale = events.window(opens_in=8, lasts=3600)
    kube.apply(events.event("crash", sale, inventorySize=400))
    events.await_phase(kube, "crash", "Open", 60)
    plan = crowd.Plan(buyers=300, rate=12, patience=120)
    crowd.start(kube, "crash", "crash-pool", plan)

    eventually(lambda: _claims(kube, "crash") >= 30, 40, "the sale has begun")
    # When one of its processes is killed, Postgres restarts and empties the UNLOGGED tables.
    victim = sql.in_database(kube, "crash", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    kube.execute("crash-db-0", "sh", "-c", f"kill -9 {victim}")
    crashed_at = _claims_when_back(kube, "crash")
    eventually(lambda: _claims(kube, "crash") >= crashed_at + 30, 40, "the sale goes on after the crash")
    kube.delete("pod", "crash-db-0", *KILL)
    lost_at = _claims_when_back(kube, "crash")
    eventually(lambda: _claims(kube, "crash") >= lost_at + 30, 60, "the sale goes on in the new pod")

    answers = crowd.answers(kube, 90)
    assert sql.in_database(kube, "crash", "SELECT * FROM intake.reconcile('crash-pool')") == ""
    kube.delete("intakeevent", "crash")
    eventually(lambda: kube.find("intakeevent", "crash") is None, 90, "the event is drained and gone")
    _assert_all_settled(kube, "crash-pool", answers, sold=300)


def _assert_all_settled(kube: Kube, pool: str, answers: list[dict[str, object]], sold: int) -> None:
    settled = account.of_pool(kube, pool, answers)
    assert (settled.acknowledged, settled.lost, settled.duplicated) == (sold, 0, 0), settled.line()
    assert account.violations(kube, pool, answers) == ""


def _kill_operator(kube: Kube) -> None:
    operator = kube.within(release.NAMESPACE)
    for pod in release.pods(kube):
        operator.delete("pod", pod["metadata"]["name"], *KILL)


def _drained(kube: Kube, event: str) -> str:
    reason: str = condition(kube.get("intakeevent", event), "Drained")["reason"]
    return reason


def _in_flight(kube: Kube, event: str) -> int:
    return int(sql.in_database(kube, event, f"SELECT intake.engine_status('{event}-pool')->'queue'->>'inFlight'"))


def _claims(kube: Kube, event: str) -> int:
    return int(sql.in_database(kube, event, f"SELECT intake.engine_status('{event}-pool')->>'claims'"))


def _claims_when_back(kube: Kube, event: str) -> int:
    def look() -> int | None:
        ready = sql.in_database(kube, event, f"SELECT intake.engine_status('{event}-pool')->>'ready'")
        assert ready == "true", "DB1 answers, but it has no hot row yet"
        return _claims(kube, event)

    claims = eventually(look, 60, "DB1 is back and rebuilt")
    assert claims is not None
    return claims
