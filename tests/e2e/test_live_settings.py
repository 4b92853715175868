"""A changed batch size and a growing queue during a sale: bridges get the setting, and their number follows."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from tests.e2e import account, crowd, events, sql
from tests.e2e.kube import Kube, eventually

POOL: Final = "live-pool"

# Waits inside DB1 until every bridge has reported the batch size, and returns that moment in seconds of the epoch. So
# the time to start kubectl is not measured.
WHEN_REPORTED: Final = """
DO $$
DECLARE
    patience timestamptz := clock_timestamp() + interval '80 s';
BEGIN
    LOOP
        EXIT WHEN (SELECT bool_and((w->>'batchSize')::int = {size})
            FROM jsonb_array_elements(intake.engine_status('{pool}')->'workers') w);
        ASSERT clock_timestamp() < patience, 'not every bridge reports batch size {size}';
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
SELECT extract(epoch FROM clock_timestamp());
"""


def test_an_edited_batch_size_reaches_the_bridges_within_two_seconds_and_bridges_follow_the_queue(
    kube: Kube,
) -> None:
    # 300 claims at 2 a second: the backlog lasts on a slow machine too, and at 100 a bridge it wants two bridges.
    target = {"postgres": {"secretRef": {"name": "core-ledger"}}, "maxPerSecond": 2}
    bridge = {"minReplicas": 0, "maxReplicas": 2, "backlogPerReplica": 100}
    sale = events.window(**events.LATER)
    kube.apply(events.event("live", sale, inventorySize=400, batchSize=20, bridge=bridge, commitTarget=target))
    events.await_phase(kube, "live", "Scheduled", 60)
    assert _bridges(kube) == [], "nothing is queued and minReplicas is 0"
    # The computation is in docs/tuning.md: max_connections is 300. It changes without a restart.
    assert _limit_of_claimers(kube) == 250
    kube.patch("intakeevent", "live", {"spec": {"bridge": {"maxReplicas": 3}}})
    eventually(lambda: _limit_of_claimers(kube) == 240, 20, "more bridges leave fewer connections to claimers")
    kube.patch("intakeevent", "live", {"spec": {"bridge": {"maxReplicas": 2}}})

    events.open_now(kube, "live")
    events.await_phase(kube, "live", "Open", 60)
    crowd.start(kube, "live", POOL, crowd.Plan(buyers=300))
    eventually(lambda: _ready_bridges(kube) == 2, 60, "the backlog has scaled out to two bridges")
    answers = crowd.answers(kube, 60)
    before = {pod["metadata"]["uid"]: _restarts(pod) for pod in _bridges(kube)}
    eventually(lambda: _reported(kube) == [20, 20], 20, "both bridges report the batch size they started with")

    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(sql.in_database, kube, "live", WHEN_REPORTED.format(pool=POOL, size=7))
        kube.patch("intakeevent", "live", {"spec": {"batchSize": 7}})
        edited = time.time()  # kubectl returns when the API server has stored the edit
        reached = float(waiting.result())
    assert reached - edited <= 2.0 * _slowness(kube)
    assert {pod["metadata"]["uid"]: _restarts(pod) for pod in _bridges(kube)} == before
    eventually(lambda: _status(kube).get("effectiveBatchSize") == 7, 10, "status has the effective batch size")

    quick = target | {"maxPerSecond": 1000}
    kube.patch("intakeevent", "live", {"spec": {"batchSize": 100, "commitTarget": quick}})
    eventually(lambda: _status(kube)["queue"]["depth"] == 0, 30, "the queue is empty")
    _age_by_five_minutes(kube)
    # Two steps of scaling in, each after a cooldown of 15 s.
    eventually(lambda: not _bridges(kube), 75, "the bridges have scaled in to minReplicas")

    kube.delete("intakeevent", "live")
    eventually(lambda: kube.find("intakeevent", "live") is None, 60, "the event is gone")
    settled = account.of_pool(kube, POOL, answers)
    assert (settled.acknowledged, settled.committed, settled.lost, settled.duplicated) == (300, 300, 0, 0)
    assert account.violations(kube, POOL, answers) == ""


def _age_by_five_minutes(kube: Kube) -> None:
    """Make the queue depths in DB1, and the last scale-out, five minutes older: scaling in waits for both."""
    sql.in_database(kube, "live", "UPDATE intake.engine_metrics SET at = at - interval '5 minutes'")
    past = f"intake-engine.io/scale-in-after={events.instant(datetime.now(UTC))}"
    kube.kubectl("annotate", "deployment/live-bridge", past, "--overwrite")


def _slowness(kube: Kube) -> float:
    """How many times slower than a healthy machine this one is: there, a kubectl process takes 0.15 s."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        kube.get("intakeevent", "live")
        times.append(time.monotonic() - began)
    return max(1.0, median(times) / 0.15)


def _status(kube: Kube) -> dict[str, Any]:
    status: dict[str, Any] = kube.get("intakeevent", "live")["status"]
    return status


def _limit_of_claimers(kube: Kube) -> int:
    return int(sql.in_database(kube, "live", "SELECT claimer_limit FROM intake.connections()"))


def _bridges(kube: Kube) -> list[dict[str, Any]]:
    return kube.items("pods", f"{events.EVENT_LABEL}=live,app.kubernetes.io/component=bridge")


def _ready_bridges(kube: Kube) -> int:
    return sum(
        all(s["ready"] for s in pod["status"].get("containerStatuses", [{"ready": False}])) for pod in _bridges(kube)
    )


def _restarts(pod: dict[str, Any]) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])


def _reported(kube: Kube) -> list[int]:
    query = f"SELECT w->>'batchSize' FROM jsonb_array_elements(intake.engine_status('{POOL}')->'workers') w"
    return sorted(int(line) for line in sql.in_database(kube, "live", query).splitlines())
