"""A worker's side of the meter, and the closed loop: rules by a clock that the test moves, and a slow ledger."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_bridge.domain.meter import Appetite, Grant, TokenAnswer, pause_for
from intake_bridge.domain.throttle import Throttle, ThrottleTuning
from scene import Scene, Templates

from tests.postgres import LEDGER_SQL

LEASED = TokenAnswer(UUID(int=1), 5, 0.0, 1.0)


class Clock:
    """Time stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


# --- tokens ---


def test_i10_a_lease_of_tokens_counts_from_before_it_was_asked_for() -> None:
    clock = Clock()
    grant = Grant(clock, clock.now - 0.85, LEASED)
    assert grant.stands()
    clock.now += 0.06
    assert not grant.stands(), "DB1 may think so for a while yet"


def test_i10_a_renewal_counts_from_before_it_was_asked_for_and_a_lost_lease_never_stands_again() -> None:
    clock = Clock()
    grant = Grant(clock, clock.now, LEASED)
    asked_at = clock.now = clock.now + 0.5
    clock.now += 0.3
    grant.renewed(asked_at)
    clock.now += 0.5
    assert grant.stands()
    clock.now += 0.11
    assert not grant.stands()
    grant.lost()
    assert not grant.stands()
    assert grant.renew_every is not None
    assert 3 * grant.renew_every < 0.9, "two may fail"


def test_without_a_limit_tokens_do_not_run_out() -> None:
    clock = Clock()
    grant = Grant(clock, clock.now, TokenAnswer(None, 100, 0.0, None))
    clock.now += 1e9
    assert grant.stands()
    assert grant.renew_every is None


@pytest.mark.parametrize(("told", "least", "most"), [(0, 0.005, 0.0075), (0.1, 0.1, 0.15), (60, 0.25, 0.375)])
def test_the_meter_is_asked_again_when_it_says_so_and_within_a_second(told: float, least: float, most: float) -> None:
    answer = TokenAnswer(None, 0, told, 1.0)
    assert pause_for(answer, lambda low, _: low) == pytest.approx(least)
    assert pause_for(answer, lambda _, high: high) == pytest.approx(most)


def test_a_worker_reads_what_it_can_send_in_half_a_second() -> None:
    appetite = Appetite()
    assert (appetite.limit(100), appetite.limit(3)) == (10, 3)
    appetite.fed(10, 5.0)
    assert appetite.limit(100) == 1
    for read in (1, 2, 4, 8):
        appetite.fed(read, 0.1)
    assert appetite.limit(100) == 16
    appetite.fed(16, 0.4)
    assert appetite.limit(100) == 16
    appetite.fed(3, 0.0)
    assert appetite.limit(100) == 16, "a queue that had no more says nothing about the meter"


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1e6)), max_size=50), st.integers(1, 10_000))
def test_a_worker_reads_at_least_one_and_at_most_its_batch(fed: list[tuple[int, float]], ceiling: int) -> None:
    appetite = Appetite()
    for read, waited in fed:
        appetite.fed(min(read, appetite.limit(ceiling)), waited)
        assert 1 <= appetite.limit(ceiling) <= ceiling


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
        throttle.called(seconds, failed=nth < failed)
    return throttle.batch


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


def test_at_the_floor_the_ledger_gets_one_claim_and_then_a_rest_that_grows() -> None:
    clock, throttle = loop(ceiling=4)
    batches = [second(clock, throttle, 2.0) for _ in range(8)]
    assert batches == [2, 1, 1, 1, 1, 1, 1, 1]
    assert throttle.rest == 5.0, "at most, however slow"
    clock, throttle = loop(ceiling=4, budget=0.1)
    rests = []
    for _ in range(7):
        second(clock, throttle, 0.2)
        rests.append(round(throttle.rest, 3))
    assert rests == [0, 0, 0.2, 0.6, 1.4, 1.4, 1.4]
    second(clock, throttle, 0.01)
    assert throttle.batch == 1
    assert throttle.rest < 0.1


def test_edits_act_at_once_on_a_batch_that_has_fallen() -> None:
    clock, throttle = loop(ceiling=100)
    second(clock, throttle, 2.0)
    throttle.follow(10, 1.0)
    assert throttle.batch == 5
    throttle.follow(1000, 1.0)
    assert throttle.batch == 500


def test_one_period_is_one_decision() -> None:
    clock, throttle = loop()
    for _ in range(100):
        clock.now += 0.009
        throttle.called(5.0, failed=True)
    assert throttle.batch == 100
    clock.now += 0.101
    throttle.called(5.0, failed=True)
    assert throttle.batch == 50


def test_with_nothing_to_send_it_recovers_too() -> None:
    clock, throttle = loop()
    second(clock, throttle, 2.0)
    for _ in range(10):
        clock.now += 1.0
        throttle.idle()
    assert throttle.batch == 100


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
        throttle.called(seconds, failed)
        assert 1 <= throttle.batch <= ceiling
        assert 0 < throttle.share <= 1
        assert throttle.share >= before / 2 - 1e-9
        assert 0 <= throttle.rest <= ThrottleTuning().longest_rest_seconds
        assert throttle.rest == 0 or throttle.batch == 1
    clock.now += 1.0
    throttle.called(0.0, failed=False)  # what was left of the last period
    for _ in range(20):
        clock.now += 1.0
        throttle.called(budget, failed=False)
    assert throttle.batch == ceiling


# --- on a real ledger ---

# The reference ledger with a clerk who takes his time, as long as somebody says so.
SLOW = """
CREATE TABLE pace (seconds float8 NOT NULL);
INSERT INTO pace VALUES (0);
ALTER FUNCTION finalize_transactions(jsonb) RENAME TO finalize_quickly;
CREATE FUNCTION finalize_transactions(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_sleep(seconds) FROM pace;
    RETURN QUERY SELECT f.claim_id, f.outcome FROM finalize_quickly(payloads) f;
END $$;
"""


async def _batch_size(scene: Scene) -> int:
    workers = (await scene.status())["workers"]
    return int(workers[0]["batchSize"]) if workers else 0


async def test_a_ledger_that_gets_slow_gets_smaller_batches_until_it_is_well_again(templates: Templates) -> None:
    ledger = [path.read_text() for path in sorted(LEDGER_SQL.glob("*.sql"))]
    async with templates.scene_with_ledger(*ledger, SLOW, inventory=3000) as scene:
        # A call sleeps for longer than the budget, and the budget is longer than any healthy call on a busy machine.
        await scene.configure(batchSize=64, latencyBudgetMilliseconds=2000)
        async with scene.worker():

            async def is_full() -> bool:
                return await _batch_size(scene) == 64

            async def is_small() -> bool:
                return await _batch_size(scene) <= 8

            await scene.until(is_full, "the human's number, while all is well")
            await scene.ledger.execute("UPDATE pace SET seconds = 2.2")
            await scene.claim(1000)
            await scene.until(is_small, "the batch falls")
            assert len(await scene.sales()) < 64 + 32 + 16 + 8 + 8 * 30, "and with it the rate"
            await scene.ledger.execute("UPDATE pace SET seconds = 0")
            await scene.until(is_full, "the batch recovers")
            await scene.until_drained()
        await scene.check()
