"""Bridges follow the queue: out at once, in when fewer were enough for five minutes, never while it is unknown."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intake_operator.decide.scaling import COOLDOWN, LOOK_BACK, Queue, decide, scale_in_after
from intake_operator.model.spec import Bridge
from intake_operator.reasons import ScalingReason

NOW = datetime(2026, 12, 1, 18, tzinfo=UTC)
POLICY = Bridge(min_replicas=1, max_replicas=8, backlog_per_replica=1000)
MINUTES = 60


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
    assert decide(Queue(depth, None), current, POLICY, NOW + LOOK_BACK, NOW).replicas == wanted


def test_a_minimum_of_zero_removes_all_bridges_and_one_message_brings_one_back() -> None:
    policy = Bridge(min_replicas=0, max_replicas=4, backlog_per_replica=1000)
    assert decide(Queue(0, 0), 1, policy, NOW, NOW).replicas == 0
    assert decide(Queue(1, 0), 0, policy, NOW, NOW).replicas == 1


def test_scales_in_by_a_quarter_at_a_time() -> None:
    current, seen = 8, []
    while current > 1:
        current = decide(Queue(0, 0), current, POLICY, NOW, NOW).replicas
        seen.append(current)
    assert seen == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("peak", "kept"),
    [(0, 6), (4500, 6), (6300, 7), (6301, 8), (7000, 8), (7001, 8), (1_000_000, 8)],
)
def test_scales_in_to_the_number_of_the_last_five_minutes_and_a_tenth_more(peak: int, kept: int) -> None:
    assert decide(Queue(0, peak), 8, POLICY, NOW, NOW).replicas == kept


def test_a_queue_at_the_threshold_removes_no_bridge() -> None:
    assert decide(Queue(1000, 1000), 1, POLICY, NOW, NOW).replicas == 1
    assert decide(Queue(1000, 1000), 2, POLICY, NOW, NOW).replicas == 2


def test_scales_in_only_some_time_after_the_last_change() -> None:
    assert decide(Queue(0, 0), 8, POLICY, NOW + timedelta(seconds=1), NOW).replicas == 8
    assert scale_in_after(1, 2, NOW) == NOW + LOOK_BACK
    assert scale_in_after(2, 1, NOW) == NOW + COOLDOWN


def test_the_annotation_is_postponed_where_db1_s_rows_miss_what_is_wanted() -> None:
    def postpones(depth: int, peak: int | None, left: timedelta) -> bool:
        return decide(Queue(depth, peak), 3, POLICY, NOW + left, NOW).postpones

    soon, later = timedelta(minutes=2), LOOK_BACK - timedelta(seconds=30)
    assert [postpones(2500, peak, soon) for peak in (None, 0, 2000, 2001)] == [True, True, True, False]
    assert not postpones(2500, 0, later), "once a minute is enough"
    assert not postpones(2000, 0, soon), "two are enough"
    assert not decide(Queue(0, 0), 1, POLICY, NOW, NOW).postpones, "the minimum is never removed"


def test_an_unknown_depth_keeps_the_number_of_bridges() -> None:
    decision = decide(Queue(None, 0), 5, POLICY, NOW, NOW)
    assert (decision.replicas, decision.reason) == (5, ScalingReason.DEPTH_UNKNOWN)


def test_an_unknown_peak_removes_no_bridge() -> None:
    held = decide(Queue(0, None), 5, POLICY, NOW, NOW)
    assert (held.replicas, held.reason) == (5, ScalingReason.IDLE)
    assert "is unknown" in held.message


def test_a_lower_maximum_applies_at_once() -> None:
    assert decide(Queue(9000, 9000), 12, POLICY, NOW + LOOK_BACK, NOW).replicas == 8


# --- a sale of many minutes ---

type Wave = Callable[[float], int]
"""Seconds to the depth of the queue."""
type Rule = Callable[[Queue, int, "Sale", datetime], tuple[int, bool]]
"""How many bridges, and whether the annotation is postponed."""


@dataclass
class Sale:
    """What outlives the operator: the number of bridges, the annotation, and DB1's rows."""

    wave: Wave
    policy: Bridge = POLICY
    bridges: int = 0
    scale_in_after: datetime | None = None
    scaled_at: datetime | None = None
    rows: list[tuple[float, int]] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)
    """The second of each pass, and the number that it decided."""

    def run(self, rule: Rule, seconds: int, away: Sequence[tuple[int, int]] = ()) -> "Sale":
        """A row every five seconds, and a pass every two seconds unless the operator is away."""
        for second in range(seconds + 1):
            if second % 5 == 0:
                self.rows.append((second, self.wave(second)))
            if second % 2 == 0 and not any(begin <= second < end for begin, end in away):
                now = NOW + timedelta(seconds=second)
                written = [depth for at, depth in self.rows if at > second - LOOK_BACK.total_seconds()]
                queue = Queue(self.wave(second), max(written, default=None))
                replicas, postpones = rule(queue, self.bridges, self, now)
                if replicas != self.bridges or postpones or self.scale_in_after is None:
                    self.scale_in_after, self.scaled_at = scale_in_after(self.bridges, replicas, now), now
                self.bridges = replicas
                self.history.append((second, replicas))
        return self

    @property
    def stops(self) -> int:
        """How many bridges were stopped."""
        return sum(max(before - after, 0) for (_, before), (_, after) in pairwise(self.history))

    @property
    def never_below_need(self) -> bool:
        """Whether there were enough bridges after each pass."""
        needed = ((at, min(max(math.ceil(self.wave(at) / 1000), 1), 8)) for at, _ in self.history)
        return all(replicas >= need for (_, need), (_, replicas) in zip(needed, self.history, strict=True))


def by_our_rule(queue: Queue, current: int, sale: Sale, now: datetime) -> tuple[int, bool]:
    decision = decide(queue, current, sale.policy, sale.scale_in_after, now)
    return decision.replicas, decision.postpones


def by_present_depth(queue: Queue, current: int, sale: Sale, now: datetime) -> tuple[int, bool]:
    """Scale in by a quarter after fifteen seconds, whatever was queued in between."""
    wanted = min(max(math.ceil((queue.depth or 0) / 1000), 1), 8)
    if wanted >= current:
        return wanted, False
    if sale.scaled_at is not None and now - sale.scaled_at < COOLDOWN:
        return current, False
    return max(wanted, current - max(1, current // 4)), False


def around(middle: int, swing: int, period: float) -> Wave:
    """A queue that swings."""
    return lambda second: round(middle + swing * math.sin(2 * math.pi * second / period))


def test_a_queue_around_a_threshold_stops_no_bridge() -> None:
    """A rule that looks only at the present depth stops 28 in ten minutes."""
    wave = around(1000, 50, 21)
    assert Sale(wave).run(by_present_depth, 10 * MINUTES).stops == 28
    assert Sale(wave).run(by_our_rule, 10 * MINUTES).stops == 0


@pytest.mark.parametrize("period", [3, 7, 10, 21, 45, 90, 150, 240, 299, 330, 400, 600])
@pytest.mark.parametrize("swing", [50, 400, 1000])
def test_however_the_queue_swings_at_most_two_bridges_stop_in_ten_minutes(period: int, swing: int) -> None:
    sale = Sale(around(1000, swing, period)).run(by_our_rule, 10 * MINUTES)
    assert sale.stops <= 2
    assert sale.never_below_need


@pytest.mark.parametrize("period", [21, 90, 240])
def test_waves_that_come_back_within_five_minutes_stop_no_bridge(period: int) -> None:
    wave = around(4000, 4000, period)
    assert Sale(wave).run(by_present_depth, 30 * MINUTES).stops > 20
    sale = Sale(wave).run(by_our_rule, 30 * MINUTES)
    assert sale.stops == 0
    assert sale.never_below_need


def test_a_short_lull_in_a_long_rush_stops_no_bridge() -> None:
    """The last change is more than five minutes ago; DB1's rows still have the peak."""
    sale = Sale(lambda second: 0 if 900 <= second < 930 else 7500).run(by_our_rule, 20 * MINUTES)
    assert sale.stops == 0


def test_a_peak_between_two_rows_of_db1_keeps_its_bridges() -> None:
    sale = Sale(lambda second: 3000 if second % 20 == 12 else 0).run(by_our_rule, 20 * MINUTES)
    assert max(depth for _, depth in sale.rows) == 0
    assert sale.stops == 0


@pytest.mark.parametrize(
    "away", [[(100, 130)], [(300, 360), (400, 410)], [(n, n + 20) for n in range(0, 600, 40)]], ids=str
)
def test_an_operator_that_restarts_stops_no_more_bridges(away: list[tuple[int, int]]) -> None:
    """It remembers nothing: it decides by the annotation and by DB1's rows alone."""
    assert Sale(around(3000, 2500, 60)).run(by_our_rule, 10 * MINUTES, away).stops == 0


def test_an_empty_queue_scales_in_to_the_minimum_in_bounded_time() -> None:
    sale = Sale(lambda second: max(0, 8000 - 20 * second)).run(by_our_rule, 20 * MINUTES)
    drained = 400
    done = next(at for at, replicas in sale.history if at > drained and replicas == 1)
    assert done - drained <= LOOK_BACK.total_seconds() + 6 * (COOLDOWN.total_seconds() + 2)
    assert sale.stops == 7, "each of them once"
    assert sale.never_below_need


DEPTHS = st.lists(st.integers(0, 12_000), min_size=1, max_size=60)


@settings(deadline=None)  # a busy machine takes longer than the default 200 ms
@given(DEPTHS, st.integers(1, 60), st.integers(0, 1))
def test_whatever_the_queue_does_there_are_enough_bridges_and_none_stops_that_was_just_wanted(
    depths: list[int], each: int, least: int
) -> None:
    policy = Bridge(min_replicas=least, max_replicas=8, backlog_per_replica=1000)
    sale = Sale(lambda second: depths[int(second) // each % len(depths)], policy).run(by_our_rule, 15 * MINUTES)
    assert sale.never_below_need or least == 0
    grown = -math.inf
    for (_, before), (at, after) in pairwise(sale.history):
        assert min(math.ceil(sale.wave(at) / 1000), 8) <= after <= 8
        if after > before:
            grown = at
        if after < before:
            assert at - grown >= LOOK_BACK.total_seconds(), "it stopped although the number had grown"
            wanted = max(depth for when, depth in sale.rows if at - LOOK_BACK.total_seconds() < when <= at)
            assert after >= min(math.ceil(wanted / 1000), 8)
