"""The problems that are found, and what their messages say to do."""

from datetime import timedelta
from typing import Any

import given
import pytest
from given import CLOSES, OPENS, Given, make_connections
from intake_operator.decide.health.finding import Finding
from intake_operator.decide.health.findings import REACH_PATIENCE, findings
from intake_operator.decide.health.pods import START_PATIENCE
from intake_operator.decide.health.workloads import CUT_OFF_PATIENCE
from intake_operator.decide.stage import Stage
from intake_operator.model.observed import DatabaseState, LedgerState
from intake_operator.reasons import Problem

SECOND = timedelta(seconds=1)


def found(sale: Given, stage: Stage = Stage.SERVE) -> tuple[Finding, ...]:
    """The problems of an event."""
    return findings(sale.event, sale.observed, stage, sale.now)


def reasons(sale: Given, stage: Stage = Stage.SERVE) -> list[Problem]:
    """Their reasons."""
    return [finding.reason for finding in found(sale, stage)]


def after(delay: timedelta, sale: Given) -> Given:
    """The same event some time later."""
    return sale.at(sale.now + delay)


def waiting(**state: str) -> dict[str, Any]:
    """The status of DB1's pod whose container waits."""
    return {"conditions": [], "containerStatuses": [{"name": "postgres", "state": {"waiting": state}}]}


def running_unready() -> dict[str, Any]:
    """The status of a pod that runs and is not ready."""
    return {"conditions": [], "containerStatuses": [{"state": {"running": {"startedAt": OPENS.isoformat()}}}]}


def worker(**health: Any) -> dict[str, Any]:
    """A bridge that is registered in DB1."""
    return {"worker": "w", "batchSize": 100, "health": health}


def test_a_healthy_event_has_no_problem() -> None:
    assert reasons(given.selling()) == []


def test_an_image_that_cannot_be_pulled_is_reported_at_once_with_its_field() -> None:
    sale = given.selling().seen(pods=(), database=DatabaseState())
    image = waiting(reason="ErrImagePull", message="no such image")
    (finding,) = found(sale.with_pod("database", status=image))
    assert finding.reason is Problem.IMAGE_UNAVAILABLE
    assert "spec.database.image" in finding.message
    assert "no such image" in finding.message


def test_a_start_is_reported_only_when_it_is_slow() -> None:
    sale = given.selling().seen(pods=()).with_pod("bridge", status=waiting(reason="ContainerCreating"))
    assert reasons(after(START_PATIENCE, sale)) == []
    assert reasons(after(START_PATIENCE + SECOND, sale)) == [Problem.PODS_NOT_STARTING]


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([], [(Problem.PODS_NOT_STARTING, True)]),
        ([worker()], [(Problem.PODS_NOT_STARTING, False)]),
        ([worker() | {"worker": f"{given.BRIDGE_UID}-0a1b2c3d"}], []),
    ],
)
def test_a_bridge_that_runs_and_never_registers_in_db1_is_reported(
    workers: list[dict[str, Any]], expected: list[tuple[Problem, bool]]
) -> None:
    sale = given.selling().with_pod("bridge", status=running_unready()).says(workers=workers)
    late = after(CUT_OFF_PATIENCE + SECOND, sale)
    assert reasons(after(CUT_OFF_PATIENCE, sale)) == []
    assert [(each.reason, each.stops) for each in found(late)] == expected
    assert reasons(late.new_db1()) == [Problem.DATABASE_UNREACHABLE]


def test_a_service_has_some_seconds_before_db1_is_called_unreachable() -> None:
    sale = given.selling().new_db1(error="timeout")
    assert reasons(after(REACH_PATIENCE, sale)) == []
    assert reasons(after(REACH_PATIENCE + SECOND, sale)) == [Problem.DATABASE_UNREACHABLE]


@pytest.mark.parametrize(
    ("bridge", "expected"), [(worker(), [Problem.LEDGER_UNREACHABLE]), (worker(ledger={"state": "ok"}), [])]
)
def test_what_a_bridge_reports_of_the_ledger_counts_more_than_what_the_operator_sees(
    bridge: dict[str, Any], expected: list[Problem]
) -> None:
    unreachable = LedgerState(Problem.LEDGER_UNREACHABLE, "no route")
    assert reasons(given.selling().says(workers=[bridge]).seen(ledger=unreachable)) == expected


def test_problems_are_in_the_order_of_their_weight() -> None:
    down = worker(validator={"state": "down", "error": "HTTP 500"}, ledger={"state": "down", "error": "refused"})
    problems = found(given.selling().says(workers=[down], queue={"depth": 5, "deadLetters": 2}))
    assert [each.reason for each in problems] == [Problem.LEDGER_DOWN, Problem.VALIDATOR_DOWN, Problem.DEAD_LETTERS]
    assert "HTTP 500" in problems[1].message


def test_a_drain_is_overdue_after_its_time_limit_and_not_before() -> None:
    limit = timedelta(seconds=3600)
    assert reasons(after(limit, given.closed()), Stage.DRAIN) == []
    assert reasons(after(limit + SECOND, given.closed()), Stage.DRAIN) == [Problem.DRAIN_OVERDUE]


def test_connections_that_are_all_taken_are_reported_instead_of_network_policies() -> None:
    sale = after(CUT_OFF_PATIENCE + SECOND, given.selling().with_pod("bridge", status=running_unready()))
    (finding,) = found(sale.db1(connections=make_connections(claimers=230, taken=297)))
    assert finding.reason is Problem.CONNECTIONS_EXHAUSTED
    assert "297 of 300, 230 of them by claimers" in finding.message
    assert "docs/tuning.md" in finding.message
    assert "network polic" not in finding.message
    assert reasons(sale.db1(connections=make_connections(taken=296))) == [Problem.PODS_NOT_STARTING]


def test_a_db1_that_refuses_the_operator_for_want_of_connections_is_reported_at_once() -> None:
    refused = given.selling().new_db1(error="FATAL:  sorry, too many clients already", refused=True)
    assert reasons(refused) == [Problem.CONNECTIONS_EXHAUSTED]
    (finding,) = found(refused)
    assert "too many clients" in finding.message
    assert "network polic" not in finding.message


def test_more_bridges_than_db1_has_connections_for_are_reported() -> None:
    (finding,) = found(given.selling(spec={"bridge": {"maxReplicas": 26}}))
    assert finding.reason is Problem.MAX_CONNECTIONS_TOO_SMALL
    assert "300" in finding.message
    assert "310" in finding.message
    sale = given.selling().changed(spec=given.make_spec(bridge={"maxReplicas": 25}))
    assert reasons(sale) == []


def test_nothing_is_wrong_with_an_event_that_is_over() -> None:
    assert reasons(given.invalid().at(CLOSES), Stage.REMOVE) == []
