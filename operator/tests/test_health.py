"""What is wrong, and what the message tells to do."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from given import make_connections
from intake_operator.decide.health import CUT_OFF_PATIENCE, REACH_PATIENCE, START_PATIENCE, problems
from intake_operator.decide.stage import Stage
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, LedgerState, Manifest, Observed
from intake_operator.reasons import Problem

type Make[T] = Callable[..., T]

SECOND = timedelta(seconds=1)


def reasons(event: Event, seen: Observed, now: datetime, stage: Stage = Stage.SERVE) -> list[Problem]:
    """The reasons only."""
    return [trouble.reason for trouble in problems(event, seen, stage, now)]


def unready(pod: Manifest, **waiting: str) -> Manifest:
    """A pod whose container waits."""
    return pod | {"status": {"conditions": [], "containerStatuses": [{"state": {"waiting": waiting}}]}}


def test_a_healthy_event_has_no_problem(event: Make[Event], observed: Make[Observed], opens: datetime) -> None:
    assert reasons(event(), observed(event()), opens) == []


def test_an_image_that_cannot_be_had_is_told_at_once_and_by_field(
    event: Make[Event], observed: Make[Observed], pod: Make[Manifest], opens: datetime
) -> None:
    broken = unready(pod(event(), "database"), reason="ErrImagePull", message="no such image")
    seen = replace(observed(event()), pods=(broken,), database=DatabaseState())
    (trouble,) = problems(event(), seen, Stage.SERVE, opens)
    assert trouble.reason is Problem.IMAGE_UNAVAILABLE
    assert "spec.database.image" in trouble.message
    assert "no such image" in trouble.message


def test_a_slow_start_is_told_only_when_it_is_slow(
    event: Make[Event], observed: Make[Observed], pod: Make[Manifest], opens: datetime
) -> None:
    slow = unready(pod(event(), "bridge"), reason="ContainerCreating")
    seen = replace(observed(event()), pods=(slow,))
    assert reasons(event(), seen, opens + START_PATIENCE) == []
    assert reasons(event(), seen, opens + START_PATIENCE + SECOND) == [Problem.PODS_NOT_STARTING]


@pytest.mark.parametrize(
    ("workers", "told"), [([], [Problem.PODS_NOT_STARTING]), ([{"batchSize": 100, "health": {}}], [])]
)
def test_a_bridge_that_runs_and_never_reaches_db1_is_told(
    event: Make[Event],
    observed: Make[Observed],
    pod: Make[Manifest],
    engine_status: Make[EngineStatus],
    opens: datetime,
    workers: list[dict[str, Any]],
    told: list[Problem],
) -> None:
    running = {"state": {"running": {"startedAt": opens.isoformat()}}}
    cut_off = pod(event(), "bridge", status={"conditions": [], "containerStatuses": [running]})
    seen = observed(event())
    database = replace(seen.database, status=engine_status(workers=workers))
    seen = replace(seen, pods=(*seen.pods, cut_off), database=database)
    assert reasons(event(), seen, opens + CUT_OFF_PATIENCE) == []
    assert reasons(event(), seen, opens + CUT_OFF_PATIENCE + SECOND) == told
    assert reasons(event(), replace(seen, database=DatabaseState()), opens + CUT_OFF_PATIENCE + SECOND) == [
        Problem.DATABASE_UNREACHABLE
    ]


def test_a_service_gets_a_moment_before_db1_is_called_unreachable(
    event: Make[Event], observed: Make[Observed], opens: datetime
) -> None:
    seen = replace(observed(event()), database=DatabaseState(error="timeout"))
    assert reasons(event(), seen, opens + REACH_PATIENCE) == []
    assert reasons(event(), seen, opens + REACH_PATIENCE + SECOND) == [Problem.DATABASE_UNREACHABLE]


@pytest.mark.parametrize(("bridge", "told"), [({}, [Problem.LEDGER_UNREACHABLE]), ({"ledger": {"state": "ok"}}, [])])
def test_a_bridge_s_word_on_the_ledger_beats_the_operator_s(
    event: Make[Event],
    observed: Make[Observed],
    engine_status: Make[EngineStatus],
    opens: datetime,
    bridge: dict[str, Any],
    told: list[Problem],
) -> None:
    workers = [{"worker": "w", "generation": 1, "batchSize": 100, "health": bridge}]
    seen = observed(event())
    seen = replace(
        seen,
        database=replace(seen.database, status=engine_status(workers=workers)),
        ledger=LedgerState(Problem.LEDGER_UNREACHABLE, "no route"),
    )
    assert reasons(event(), seen, opens) == told


def test_targets_that_bridges_report_down_and_dead_letters_in_the_order_of_their_weight(
    event: Make[Event], observed: Make[Observed], engine_status: Make[EngineStatus], opens: datetime
) -> None:
    health = {"validator": {"state": "down", "error": "HTTP 500"}, "ledger": {"state": "down", "error": "refused"}}
    status = engine_status(
        workers=[{"worker": "w", "generation": 1, "batchSize": 100, "health": health}],
        queue={"depth": 5, "inFlight": 0, "oldestSeconds": 9, "deadLetters": 2},
    )
    seen = observed(event())
    seen = replace(seen, database=replace(seen.database, status=status))
    found = problems(event(), seen, Stage.SERVE, opens)
    assert [t.reason for t in found] == [Problem.LEDGER_DOWN, Problem.VALIDATOR_DOWN, Problem.DEAD_LETTERS]
    assert "HTTP 500" in found[1].message


def test_a_drain_is_overdue_after_its_patience_and_not_before(
    event: Make[Event], observed: Make[Observed], closes: datetime
) -> None:
    patience = timedelta(seconds=3600)
    assert reasons(event(), observed(event()), closes + patience, Stage.DRAIN) == []
    assert reasons(event(), observed(event()), closes + patience + SECOND, Stage.DRAIN) == [Problem.DRAIN_OVERDUE]


def test_connections_that_are_all_taken_are_named_instead_of_network_policies(
    event: Make[Event], observed: Make[Observed], pod: Make[Manifest], opens: datetime
) -> None:
    running = {"state": {"running": {"startedAt": opens.isoformat()}}}
    cut_off = pod(event(), "bridge", status={"conditions": [], "containerStatuses": [running]})
    seen, late = observed(event()), opens + CUT_OFF_PATIENCE + SECOND
    taken = {"claimers": 230, "taken": 297}
    full = replace(
        seen, pods=(*seen.pods, cut_off), database=replace(seen.database, connections=make_connections(**taken))
    )
    (trouble,) = problems(event(), full, Stage.SERVE, late)
    assert trouble.reason is Problem.CONNECTIONS_EXHAUSTED
    assert "297 of 300, 230 of them by claimers" in trouble.message
    assert "docs/tuning.md" in trouble.message
    assert "network polic" not in trouble.message
    almost = replace(full, database=replace(seen.database, connections=make_connections(taken=296)))
    assert reasons(event(), almost, late) == [Problem.PODS_NOT_STARTING]


def test_a_db1_that_refuses_the_operator_for_want_of_connections_says_so_at_once(
    event: Make[Event], observed: Make[Observed], opens: datetime
) -> None:
    refused = DatabaseState(error="FATAL:  sorry, too many clients already", refused=True)
    found = problems(event(), replace(observed(event()), database=refused), Stage.SERVE, opens)
    assert [trouble.reason for trouble in found] == [Problem.CONNECTIONS_EXHAUSTED]
    trouble = found[0]
    assert "too many clients" in trouble.message
    assert "network polic" not in trouble.message


def test_more_bridges_than_db1_has_connections_for_are_told(
    event: Make[Event], observed: Make[Observed], spec: Make[Any], opens: datetime
) -> None:
    many = event(spec=spec(bridge={"maxReplicas": 26}))
    (trouble,) = problems(many, observed(event()), Stage.SERVE, opens)
    assert trouble.reason is Problem.MAX_CONNECTIONS_TOO_SMALL
    assert "300" in trouble.message
    assert "310" in trouble.message
    assert reasons(event(spec=spec(bridge={"maxReplicas": 25})), observed(event()), opens) == []


def test_nothing_is_wrong_with_what_is_over(event: Make[Event], closes: datetime) -> None:
    assert reasons(event(spec=None), Observed(), closes, Stage.RELEASE) == []
