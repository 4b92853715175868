"""Backoff, breaker and lease, with a clock that the test turns."""

import itertools

import pytest
from intake_bridge.domain.backoff import Backoff
from intake_bridge.domain.breaker import Breaker, BreakerTuning, Circuit
from intake_bridge.domain.lease import Lease


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def highest(_: float, high: float) -> float:
    """The longest wait that the jitter may choose."""
    return high


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 1), (1, 2), (3, 8), (5, 32), (6, 60), (10_000, 60)])
def test_backoff_is_full_jitter_below_a_doubling_ceiling(failures: int, ceiling: float) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    Backoff().delay(failures, uniform)
    assert asked == [(0.0, ceiling)]


def test_breaker_opens_after_failures_in_a_row_and_one_success_resets_them() -> None:
    breaker = Breaker(Clock(), highest)
    for _ in range(4):
        breaker.record_possible_failure("500")
    breaker.record_success()
    for _ in range(4):
        breaker.record_possible_failure("500")
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.CLOSED, 100, None)
    breaker.record_possible_failure("500")
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.OPEN, 0, "500")


def test_breaker_probes_with_one_message_ever_less_often_and_closes_on_success() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest, BreakerTuning(first_probe_seconds=1, last_probe_seconds=4))
    breaker.trip("refused")
    waits = []
    for _ in range(4):
        waits.append(breaker.wait())
        clock.now += breaker.wait() - 0.001
        assert breaker.allowance(100) == 0
        clock.now += 0.001
        assert (breaker.circuit, breaker.allowance(100), breaker.tripped) == (Circuit.HALF_OPEN, 1, True)
        breaker.record_possible_failure("500")
    assert waits == [1, 2, 4, 4]
    clock.now += breaker.wait()
    breaker.record_success()
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.CLOSED, 100, None)
    breaker.trip("refused")
    assert breaker.wait() == 1


def test_breaker_counts_one_outage_once_however_many_calls_were_under_way() -> None:
    breaker = Breaker(Clock(), highest)
    for _ in range(50):
        breaker.trip("refused")
    assert breaker.wait() == 1


def test_breaker_hold_is_a_pause_and_no_fault() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.record_pause(3, "answers 429")
    assert (breaker.allowance(100), breaker.wait(), breaker.tripped, breaker.message) == (0, 3, False, None)
    clock.now += 3
    assert breaker.allowance(100) == 100


def test_nothing_is_read_for_a_dependency_whose_check_failed_until_a_check_succeeds() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.record_failed_check("no token")
    clock.now += 3600
    assert (breaker.circuit, breaker.allowance(100), breaker.message) == (Circuit.HALF_OPEN, 0, "no token")
    breaker.record_success()
    assert breaker.allowance(100) == 100


def test_a_target_that_says_nothing_but_wait_is_told_and_one_other_answer_ends_that() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    for seconds, lasted in [(0, None), (29, None), (1, "half a minute"), (90, "2 min"), (3600, "62 min")]:
        clock.now += seconds
        breaker.record_pause(1, "answers 429")
        assert breaker.message == (lasted and f"has answered nothing but requests to wait for {lasted}: answers 429")
    breaker.record_success()
    assert breaker.message is None
    breaker.record_pause(1, "answers 429")
    clock.now += 40
    breaker.forget_if_idle()
    assert breaker.message is not None
    clock.now += 40
    breaker.forget_if_idle()
    assert breaker.message is None  # nothing is left that could be asked to wait


def test_a_claim_specific_failure_is_not_the_dependencys_because_of_the_claims_own_failures() -> None:
    breaker = Breaker(Clock(), highest)
    breaker.record_possible_failure("500")
    assert breaker.is_to_blame(4)
    assert not breaker.is_to_blame(4, claim_specific=True)
    for _ in range(4):
        breaker.record_possible_failure("500")
    assert breaker.is_to_blame(4, claim_specific=True)  # several in a row: an outage all the same


def test_breaker_withdraws_an_old_error_when_there_is_nothing_to_probe_with() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.trip("refused")
    clock.now += 30
    breaker.forget_if_idle()
    assert breaker.error == "refused"
    clock.now += 31
    breaker.forget_if_idle()
    assert breaker.allowance(100) == 100
    assert not breaker.tripped


def _outage(seconds: float, workers: int, claims: int) -> list[int]:
    """The counted failures of each claim while every answer is a 500, read by whichever worker may read, in turns."""
    clock = Clock()
    breakers = [Breaker(clock, highest) for _ in range(workers)]
    failures, due = [0] * claims, [clock.now] * claims
    end = clock.now + seconds
    for turn in itertools.count():
        clock.now += 0.5
        if clock.now >= end:
            return failures
        breaker = breakers[turn % workers]
        for claim in [each for each in range(claims) if due[each] <= clock.now][: breaker.allowance(100)]:
            breaker.record_possible_failure("500")
            excused = breaker.is_to_blame(failures[claim])
            failures[claim] += not excused
            due[claim] = clock.now + (2 * breaker.wait() if excused else Backoff().delay(failures[claim] - 1, highest))
        if not any(each <= clock.now for each in due):
            breaker.forget_if_idle()
    raise AssertionError


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("claims", [1, 2, 4, 40])
def test_i2_a_target_that_answers_500_for_an_hour_makes_no_dead_letter(workers: int, claims: int) -> None:
    assert max(_outage(3600, workers, claims)) <= 4  # of the ten that are the default


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_claim_that_fails_alone_for_longer_than_any_outage_is_counted_again(workers: int) -> None:
    (failures,) = _outage(2 * 3600 + 1800, workers, 1)
    assert failures > 10


def test_a_target_that_cannot_be_reached_is_no_failure_of_a_claim_however_long() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.record_possible_failure("500")
    for _ in range(24 * 60):
        clock.now += 60
        breaker.trip("refused")
    assert breaker.is_to_blame(0)
    breaker.record_possible_failure("500")
    assert breaker.is_to_blame(0)


@pytest.mark.parametrize(("visibility", "usable"), [(1, 0.8), (5, 4), (45, 40), (3600, 3595)])
def test_lease_ends_before_the_visibility_timeout(visibility: float, usable: float) -> None:
    clock = Clock()
    lease = Lease(clock, clock.now, visibility)
    clock.now += usable - 0.01
    assert lease.is_ours(1)
    clock.now += 0.02
    assert not lease.is_ours(1)
    assert lease.remaining() == 0


def test_lease_counts_from_the_start_of_the_read_and_of_the_extension() -> None:
    clock = Clock()
    lease = Lease(clock, clock.now - 3, 5)
    assert lease.remaining() == 1
    started = clock.now
    clock.now += 0.5
    lease.extended(started)
    assert lease.remaining() == 3.5
    lease.mark_lost([7])
    assert (lease.is_ours(7), lease.is_ours(8)) == (False, True)
