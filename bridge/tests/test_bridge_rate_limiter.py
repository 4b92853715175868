"""Tokens, read-ahead and throttle: rules by a clock that the test moves, and a slow ledger."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_bridge.domain.throttle import Throttle, ThrottleTuning
from intake_bridge.domain.tokens import ReadAhead, TokenAnswer, TokenLease, pause_for
from sale import Sale, Templates

from tests.postgres import LEDGER_SQL

LEASED = TokenAnswer(UUID(int=1), 5, 0.0, 1.0)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


# --- tokens ---


def test_i10_a_lease_of_tokens_counts_from_before_it_was_asked_for() -> None:
    clock = Clock()
    tokens = TokenLease(clock, clock.now - 0.85, LEASED)
    assert tokens.is_valid()
    clock.now += 0.06
    assert not tokens.is_valid(), "DB1 may think so for a while yet"


def test_i10_a_renewal_counts_from_before_it_was_asked_for_and_a_lost_lease_is_never_valid_again() -> None:
    clock = Clock()
    tokens = TokenLease(clock, clock.now, LEASED)
    asked_at = clock.now = clock.now + 0.5
    clock.now += 0.3
    tokens.renewed(asked_at)
    clock.now += 0.5
    assert tokens.is_valid()
    clock.now += 0.11
    assert not tokens.is_valid()
    tokens.mark_lost()
    assert not tokens.is_valid()
    assert tokens.renew_every is not None
    assert 3 * tokens.renew_every < 0.9, "two may fail"


def test_without_a_limit_tokens_do_not_run_out() -> None:
    clock = Clock()
    tokens = TokenLease(clock, clock.now, TokenAnswer(None, 100, 0.0, None))
    clock.now += 1e9
    assert tokens.is_valid()
    assert tokens.renew_every is None


@pytest.mark.parametrize(("asked", "least", "most"), [(0, 0.005, 0.0075), (0.1, 0.1, 0.15), (60, 0.25, 0.375)])
def test_the_token_bucket_is_asked_again_when_it_says_so_and_within_a_second(
    asked: float, least: float, most: float
) -> None:
    answer = TokenAnswer(None, 0, asked, 1.0)
    assert pause_for(answer, lambda low, _: low) == pytest.approx(least)
    assert pause_for(answer, lambda _, high: high) == pytest.approx(most)


def test_a_worker_reads_what_it_can_send_in_half_a_second() -> None:
    read_ahead = ReadAhead()
    assert (read_ahead.limit(100), read_ahead.limit(3)) == (10, 3)
    read_ahead.record(10, 5.0)
    assert read_ahead.limit(100) == 1
    for read in (1, 2, 4, 8):
        read_ahead.record(read, 0.1)
    assert read_ahead.limit(100) == 16
    read_ahead.record(16, 0.4)
    assert read_ahead.limit(100) == 16
    read_ahead.record(3, 0.0)
    assert read_ahead.limit(100) == 16, "a queue that had no more says nothing about the rate"


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1e6)), max_size=50), st.integers(1, 10_000))
def test_a_worker_reads_at_least_one_and_at_most_its_batch(fed: list[tuple[int, float]], ceiling: int) -> None:
    read_ahead = ReadAhead()
    for read, waited in fed:
        read_ahead.record(min(read, read_ahead.limit(ceiling)), waited)
        assert 1 <= read_ahead.limit(ceiling) <= ceiling


# --- the closed loop ---


def loop(ceiling: int = 100, budget: float = 1.0) -> tuple[Clock, Throttle]:
    """A throttle that has just begun."""
    clock = Clock()
    throttle = Throttle(clock)
    throttle.follow(ceiling, budget)
    return clock, throttle


def second(clock: Clock, throttle: Throttle, *calls: float, failed: int = 0) -> int:
    """One period with these calls, the first of which fail. What it comes to."""
    clock.now += 0.5
    for nth, seconds in enumerate(calls):
        clock.now += 0.5 * (nth == len(calls) - 1)  # the period ends with its last call
        throttle.record_call(seconds, failed=nth < failed)
    return throttle.batch_size


@pytest.mark.parametrize(
    ("calls", "failed", "batch"),
    [
        ((0.9,) * 20, 0, 100),
        ((1.0,), 0, 100),
        ((1.01,), 0, 50),
        ((0.1,) * 19 + (9.0,), 0, 100),  # one in twenty may
        ((0.1,) * 18 + (9.0, 9.0), 0, 50),
        ((0.1,) * 10, 1, 100),  # one in ten may
        ((0.1,) * 10, 2, 50),
        ((0.1,), 1, 50),
    ],
)
def test_the_batch_falls_by_half_when_the_ledger_leaves_its_budget(
    calls: tuple[float, ...], failed: int, batch: int
) -> None:
    clock, throttle = loop()
    assert second(clock, throttle, *calls, failed=failed) == batch


def test_the_batch_falls_by_factors_and_recovers_by_steps() -> None:
    clock, throttle = loop()
    assert [second(clock, throttle, 2.0) for _ in range(5)] == [50, 25, 12, 6, 3]
    recovery = [second(clock, throttle, 0.1) for _ in range(20)]
    assert recovery[:3] == [8, 13, 18]
    assert recovery[-1] == 100


def test_at_the_floor_the_ledger_gets_one_claim_and_then_a_growing_rest() -> None:
    clock, throttle = loop(ceiling=4)
    batches = [second(clock, throttle, 2.0) for _ in range(8)]
    assert batches == [2, 1, 1, 1, 1, 1, 1, 1]
    assert throttle.rest_seconds == 5.0, "at most, however slow"
    clock, throttle = loop(ceiling=4, budget=0.1)
    rests = []
    for _ in range(7):
        second(clock, throttle, 0.2)
        rests.append(round(throttle.rest_seconds, 3))
    assert rests == [0, 0, 0.2, 0.6, 1.4, 1.4, 1.4]
    second(clock, throttle, 0.01)
    assert throttle.batch_size == 1
    assert throttle.rest_seconds < 0.1


def test_edits_act_at_once_on_a_batch_that_has_fallen() -> None:
    clock, throttle = loop(ceiling=100)
    second(clock, throttle, 2.0)
    throttle.follow(10, 1.0)
    assert throttle.batch_size == 5
    throttle.follow(1000, 1.0)
    assert throttle.batch_size == 500


def test_one_period_is_one_decision() -> None:
    clock, throttle = loop()
    for _ in range(100):
        clock.now += 0.009
        throttle.record_call(5.0, failed=True)
    assert throttle.batch_size == 100
    clock.now += 0.101
    throttle.record_call(5.0, failed=True)
    assert throttle.batch_size == 50


def test_with_nothing_to_send_it_recovers_too() -> None:
    clock, throttle = loop()
    second(clock, throttle, 2.0)
    for _ in range(10):
        clock.now += 1.0
        throttle.record_idle()
    assert throttle.batch_size == 100


@given(
    st.integers(1, 10_000),
    st.floats(0.001, 60),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans()), max_size=80),
)
def test_never_above_the_ceiling_never_below_one_and_it_recovers(
    ceiling: int, budget: float, calls: list[tuple[float, float, bool]]
) -> None:
    clock, throttle = loop(ceiling, budget)
    for later, seconds, failed in calls:
        clock.now += later
        before = throttle.share
        throttle.record_call(seconds, failed)
        assert 1 <= throttle.batch_size <= ceiling
        assert 0 < throttle.share <= 1
        assert throttle.share >= before / 2 - 1e-9
        assert 0 <= throttle.rest_seconds <= ThrottleTuning().longest_rest_seconds
        assert throttle.rest_seconds == 0 or throttle.batch_size == 1
    clock.now += 1.0
    throttle.record_call(0.0, failed=False)  # what was left of the last period
    for _ in range(20):
        clock.now += 1.0
        throttle.record_call(budget, failed=False)
    assert throttle.batch_size == ceiling


# --- on a real ledger ---

# The reference ledger with a pause in each call, while the table says so.
SLOW = """
CREATE TABLE pace (seconds float8 NOT NULL);
INSERT INTO pace VALUES (0);
ALTER FUNCTION finalize_transactions(jsonb) RENAME TO finalize_quickly;
CREATE FUNCTION finalize_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb)
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_sleep(seconds) FROM pace;
    RETURN QUERY SELECT * FROM finalize_quickly(claims) f;
END $$;
"""


async def _batch_size(sale: Sale) -> int:
    workers = (await sale.status())["workers"]
    return int(workers[0]["batchSize"]) if workers else 0


async def test_a_ledger_that_gets_slow_gets_smaller_batches_until_it_is_well_again(templates: Templates) -> None:
    ledger = [path.read_text() for path in sorted(LEDGER_SQL.glob("*.sql"))]
    async with templates.sale_with_ledger(*ledger, SLOW, inventory=3000) as sale:
        # A call sleeps for longer than the budget, and the budget is longer than any healthy call on a busy machine.
        await sale.configure(batchSize=64, latencyBudgetMilliseconds=2000)
        async with sale.worker():

            async def is_full() -> bool:
                return await _batch_size(sale) == 64

            async def is_small() -> bool:
                return await _batch_size(sale) <= 8

            await sale.until(is_full, "the human's number, while all is well")
            await sale.ledger.execute("UPDATE pace SET seconds = 2.2")
            await sale.claim(1000)
            await sale.until(is_small, "the batch falls")
            assert len(await sale.sales()) < 64 + 32 + 16 + 8 + 8 * 30, "and with it the rate"
            await sale.ledger.execute("UPDATE pace SET seconds = 0")
            await sale.until(is_full, "the batch recovers")
            await sale.until_drained()
        await sale.check()
