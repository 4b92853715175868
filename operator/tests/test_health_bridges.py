"""What bridges report, and what the event says of it."""

from datetime import timedelta
from typing import Any

import given
import pytest
from given import OPENS, Given
from intake_operator.decide.health.bridges import FEWEST_FAILURES
from intake_operator.decide.health.finding import Finding
from intake_operator.decide.health.findings import findings
from intake_operator.decide.health.workloads import CUT_OFF_PATIENCE
from intake_operator.decide.scaling import LOOK_BACK
from intake_operator.decide.stage import Stage
from intake_operator.names import SCALE_IN_AFTER_ANNOTATION
from intake_operator.reasons import ConditionType, Problem

SECOND = timedelta(seconds=1)
DEPLOYMENT = ("Deployment", "taylor-drop-bridge")
OK, DOWN = {"state": "ok"}, {"state": "down", "error": "connection refused"}


def worker(name: str = "one", **health: Any) -> dict[str, Any]:
    """A bridge that is registered in DB1."""
    return {"worker": name, "batchSize": 100, "health": {"ledger": OK, "validator": OK} | health}


def said(*workers: dict[str, Any], **status: Any) -> list[Finding]:
    """The problems of a sale with these bridges."""
    sale = given.selling().says(workers=list(workers), **status)
    return list(findings(sale.event, sale.observed, Stage.SERVE, sale.now))


def tried(tried: int, failed: int, error: str | None = "check violated (SQLSTATE 23514)") -> dict[str, Any]:
    """A report of the last minute."""
    return {"tried": tried, "failed": failed} | ({"error": error} if error else {})


@pytest.mark.parametrize(
    ("field", "reason", "stops"),
    [
        ("commits", Problem.COMMITS_FAILING, True),
        ("validations", Problem.VALIDATIONS_FAILING, True),
        ("voids", Problem.VOIDS_FAILING, False),
    ],
)
def test_calls_that_fail_for_most_claims_are_counted_with_the_last_error(
    field: str, reason: Problem, *, stops: bool
) -> None:
    (finding,) = said(worker(**{field: tried(8, 7)}))
    assert (finding.reason, finding.stops) == (reason, stops)
    expected = f"7 of 8 {field} of the last minute failed, the last with: check violated (SQLSTATE 23514)."
    assert finding.message.startswith(expected)


def test_a_ledger_that_refuses_everything_and_is_not_down_is_not_ready() -> None:
    decided = given.selling().says(workers=[worker(commits=tried(57, 57))], queue={"depth": 57}).plan()
    for condition in (ConditionType.READY, ConditionType.LEDGER_READY):
        assert decided.condition(condition)["status"] == "False"
        assert decided.reason(condition) == "CommitsFailing"
    assert "about 50 of about 50 commits" in decided.message(ConditionType.READY)


@pytest.mark.parametrize(
    "reports",
    [
        [tried(FEWEST_FAILURES - 1, FEWEST_FAILURES - 1)],
        [tried(1000, 3)],
        [tried(10, 5)],
        [tried(3, 3), tried(300, 0, None)],
    ],
    ids=["too few", "a few among many", "half", "all at one bridge, few of all"],
)
def test_failures_of_a_few_claims_are_those_claims_own(reports: list[dict[str, Any]]) -> None:
    assert said(*(worker(f"w{i}", commits=each) for i, each in enumerate(reports))) == []


def test_a_count_does_not_change_the_message_with_every_failure() -> None:
    first, later = (said(worker(commits=tried(count, count)))[0] for count in (410, 498))
    assert first == later
    assert "about 400 of about 400" in first.message


def test_a_dependency_that_is_down_is_not_reported_twice() -> None:
    assert [each.reason for each in said(worker(ledger=DOWN, commits=tried(9, 9)))] == [Problem.LEDGER_DOWN]


def test_a_ledger_that_is_down_for_one_bridge_of_two_does_not_stop_the_sale() -> None:
    (one,) = said(worker(ledger=DOWN), worker("two"))
    (both,) = said(worker(ledger=DOWN), worker("two", ledger=DOWN))
    assert (one.reason, one.stops, both.stops) == (Problem.LEDGER_DOWN, False, True)
    assert "1 of 2 bridges" in one.message


def test_an_error_of_the_bridges_own_code_is_a_defect() -> None:
    (finding,) = said(worker(defects=tried(4, 4, "KeyError in pipeline.py, line 85")), worker("two"))
    assert (finding.reason, finding.stops) == (Problem.BRIDGES_FAILING, True)
    assert "1 of 2 bridges failed in their own code in the last minute (4 times)" in finding.message
    assert "KeyError in pipeline.py, line 85" in finding.message


def test_a_db1_that_refuses_bridges_is_reported() -> None:
    (finding,) = said(worker(refusal="permission denied for function read_batch"))
    assert (finding.reason, finding.stops) == (Problem.BRIDGES_FAILING, True)
    assert "permission denied for function read_batch" in finding.message


# Fewer bridges than are wanted.


def short(workers: int = 2, wanted: int = 4, oldest: float = 90.0, depth: int = 15_000, **changes: Any) -> Given:
    """A sale with fewer bridges than its Deployment asks for, long after the last change."""
    sale = given.selling(**changes).bridges(wanted).at(OPENS + timedelta(minutes=30))
    names = [worker(f"w{n}") for n in range(workers)]
    return sale.says(workers=names, queue={"depth": depth, "oldestSeconds": oldest})


def too_few(sale: Given) -> list[bool]:
    """Whether the finding is there, and whether it stops the sale."""
    found = findings(sale.event, sale.observed, Stage.SERVE, sale.now)
    return [each.stops for each in found if each.reason is Problem.TOO_FEW_BRIDGES]


def scaled(sale: Given, ago: timedelta) -> Given:
    """Bridges were added so long ago."""
    deployment = sale.observed.children[DEPLOYMENT]
    stamp = {SCALE_IN_AFTER_ANNOTATION: (sale.now - ago + LOOK_BACK).isoformat()}
    return sale.child(DEPLOYMENT, deployment | {"metadata": deployment["metadata"] | {"annotations": stamp}})


def test_fewer_bridges_than_wanted_are_reported_while_intents_wait() -> None:
    assert too_few(short()) == [False]
    assert too_few(short(workers=0)) == [True]
    (finding,) = (f for f in findings(*_parts(short())) if f.reason is Problem.TOO_FEW_BRIDGES)
    assert "2 of 4 bridges" in finding.message


def _parts(sale: Given) -> tuple[Any, ...]:
    return sale.event, sale.observed, Stage.SERVE, sale.now


@pytest.mark.parametrize(
    "sale",
    [
        short(workers=4),
        short(depth=0),
        short(oldest=60),
        short(spec={"paused": True}),
        short()
        .with_pod("bridge", metadata=given.make_pod(given.make_event(), "bridge")["metadata"])
        .at(OPENS + SECOND),
        scaled(short(), CUT_OFF_PATIENCE),
    ],
    ids=["enough", "nothing waits", "not for long", "paused", "a pod is new", "just added"],
)
def test_and_not_while_they_start_or_are_not_needed(sale: Given) -> None:
    assert too_few(sale) == []


def test_the_time_in_which_none_is_removed_hides_no_sale_without_any_bridge() -> None:
    assert too_few(scaled(short(), CUT_OFF_PATIENCE + SECOND)) == [False]
    assert too_few(scaled(short(workers=0), SECOND)) == [True]


def test_a_pod_that_says_why_there_are_too_few_is_enough() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    status = {"conditions": [], "containerStatuses": [{"name": "bridge", "state": waiting}]}
    sale = short().with_pod("bridge", status=status)
    assert [f.reason for f in findings(*_parts(sale))] == [Problem.PODS_NOT_STARTING]


# Ready: claims are answered, and commits flow.


def test_a_paused_sale_is_not_ready_while_its_window_is_open() -> None:
    paused = given.selling(spec={"paused": True})
    ready = paused.plan().condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("False", "Paused")
    assert "spec.paused" in ready["message"]
    before = paused.at(OPENS - timedelta(minutes=30)).plan().condition(ConditionType.READY)
    assert (before["status"], before["reason"]) == ("True", "Scheduled")


def test_a_dead_letter_is_told_beside_ready() -> None:
    decided = given.selling().says(queue={"deadLetters": 2}).plan()
    ready = decided.condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("True", "DeadLetters")
    assert "2 dead letters keep their slots" in ready["message"]
    assert decided.condition(ConditionType.DEGRADED)["status"] == "True"


# Stale sentences carry their time.


def test_dead_letters_that_cannot_be_counted_have_the_time_of_the_last_count() -> None:
    status = {"queue": {"deadLetters": 2}, "countedAt": "2026-12-01T18:00:00+00:00"}
    away = given.selling(status=status).seen(pods=()).new_db1()
    (finding,) = findings(*_parts(away))
    assert finding.reason is Problem.DEAD_LETTERS
    assert "(as of 2026-12-01T18:00:00+00:00: DB1 does not answer)" in finding.message


def test_a_drain_without_db1_says_what_was_queued_when() -> None:
    status = {"queue": {"depth": 40}, "countedAt": "2026-12-01T19:59:58+00:00"}
    decided = given.closed(status=status).new_db1(error="connection refused").plan()
    message = decided.message(ConditionType.DRAINED)
    assert message.startswith("DB1 does not answer, and cannot be sealed or drained before it does: connection refused")
    assert "at 2026-12-01T19:59:58+00:00, when it last answered, 40 intents were queued" in message
    assert "is being sealed" not in message


def test_the_answer_about_the_pool_says_when_it_was_asked() -> None:
    sale = given.selling(status=given.pool_announced())
    sale = sale.after(sale.plan())
    first = sale.plan().message(ConditionType.POOL_UNUSED)
    assert first.endswith("(asked before the first slot was seeded)")
    assert sale.after(sale.plan()).plan().message(ConditionType.POOL_UNUSED) == first
