"""Bridges follow the queue: out at once, in by a quarter after a cooldown, never while the depth is unknown."""

from datetime import UTC, datetime, timedelta

import pytest
from intake_operator.decide.scaling import COOLDOWN, decide
from intake_operator.model.spec import Bridge
from intake_operator.reasons import Scaling

NOW = datetime(2026, 12, 1, 18, tzinfo=UTC)
LONG_AGO = NOW - COOLDOWN
POLICY = Bridge(min_replicas=1, max_replicas=8, backlog_per_replica=1000)


@pytest.mark.parametrize(
    ("depth", "current", "wanted"),
    [
        (0, 0, 1),
        (1, 1, 1),
        (1000, 1, 1),
        (1001, 1, 2),
        (7500, 1, 8),
        (1_000_000, 1, 8),
    ],
)
def test_scales_out_at_once_within_the_bounds(depth: int, current: int, wanted: int) -> None:
    assert decide(depth, current, POLICY, NOW, NOW).replicas == wanted


def test_a_minimum_of_zero_lets_bridges_go_and_one_message_brings_one_back() -> None:
    policy = Bridge(min_replicas=0, max_replicas=4, backlog_per_replica=1000)
    assert decide(0, 1, policy, LONG_AGO, NOW).replicas == 0
    assert decide(1, 0, policy, NOW, NOW).replicas == 1


def test_scales_in_by_a_quarter_at_a_time() -> None:
    current, seen = 8, []
    while current > 1:
        current = decide(0, current, POLICY, LONG_AGO, NOW).replicas
        seen.append(current)
    assert seen == [6, 5, 4, 3, 2, 1]


def test_scales_in_only_after_the_cooldown() -> None:
    assert decide(0, 8, POLICY, NOW - COOLDOWN + timedelta(seconds=1), NOW).replicas == 8


def test_an_unknown_depth_holds_what_there_is() -> None:
    decision = decide(None, 5, POLICY, LONG_AGO, NOW)
    assert (decision.replicas, decision.reason) == (5, Scaling.DEPTH_UNKNOWN)
