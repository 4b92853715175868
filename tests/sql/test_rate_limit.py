"""I10: commits in any window <= maxPerSecond x window + capacity, whatever workers do.

The rules are asked at instants that the test names, so no test waits and no machine is too slow. A commit may reach the
ledger at any instant between the lease of its token and the end of its call; the bound must hold for the worst of them.
"""

import itertools
import random
from bisect import bisect_left, bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.intake import POOL, Intake, lose_unlogged, wait_until_blocked

LEASE = "SELECT lease, granted, wait_seconds FROM intake_private.lease_tokens_at(intake_private.config_of(%s), %s, %s)"
CAPACITY = "SELECT intake_private.bucket_capacity(%s::float8, m.call_seconds) FROM intake.token_buckets m"
RETURN = "SELECT intake_private.return_tokens_at(intake_private.config_of(%s), %s, %s, %s)"
START = datetime(2026, 12, 1, 18, tzinfo=UTC)
LEASE_SECONDS = 1.0


@dataclass
class Bucket:
    """The token bucket of a pool by a clock that the test moves, and a record of what it has granted."""

    intake: Intake
    rate: int
    now: float = 0.0
    passed: list[tuple[float, float, int]] = field(default_factory=list)
    """(earliest, latest, claims): when each portion may have reached the ledger."""
    capacities: list[tuple[float, float]] = field(default_factory=list)
    """(instant, capacity from then on)."""

    @classmethod
    def open(cls, intake: Intake, rate: int) -> "Bucket":
        """A pool on sale with a bucket that has never been used."""
        intake.configure(10, maxPerSecond=rate)
        intake.connection.execute("UPDATE intake.token_buckets SET counted_at = %s", (START,))
        bucket = cls(intake, rate)
        bucket.capacity()
        return bucket

    @property
    def at(self) -> datetime:
        """The present."""
        return START + timedelta(seconds=self.now)

    def lease(self, wanted: int = 10_000) -> tuple[UUID | None, int, float]:
        """Ask for a lease."""
        ((lease, granted, wait),) = self.intake.rows(LEASE, POOL, wanted, self.at)
        return lease, granted, wait

    def finish(self, lease: UUID | None, finished: int = 10_000) -> bool:
        """Calls of a lease have ended."""
        known = bool(self.intake.value(RETURN, POOL, lease, finished, self.at))
        self.capacity()
        return known

    def capacity(self) -> float:
        """The burst."""
        capacity = float(self.intake.value(CAPACITY, self.rate))
        self.capacities.append((self.now, capacity))
        return capacity

    def check(self) -> None:
        """I10 for every window, each portion at the instant of its possible ones that is worst for the window."""
        ends = list(itertools.accumulate((0, *(n for *_, n in sorted(self.passed)))))
        firsts = sorted(first for first, *_ in self.passed)
        by_last = sorted((last, n) for _, last, n in self.passed)
        before = 0  # claims that have reached the ledger before the window, at the latest
        for start, claims in by_last:
            when = bisect_left(self.capacities, (start,))
            burst = max(capacity for _, capacity in self.capacities[max(0, when - 1) : when + 1])
            for end in (start, *firsts[bisect_left(firsts, start) :]):
                most = ends[bisect_right(firsts, end)] - before
                assert most <= self.rate * (end - start) + burst + 1e-6, (start, end, most, burst)
            before += claims


@pytest.fixture
def bucket(intake: Intake) -> Bucket:
    """100 a second: a bucket of 11, leases of 5."""
    return Bucket.open(intake, 100)


@dataclass
class Crowd:
    """Workers under backlog: each sends what it gets, takes its time, and asks again; some die with tokens on lease."""

    bucket: Bucket
    chance: random.Random
    call_seconds: float
    spread: float = 0.2
    deadly: float = 0.0

    def run(self, workers: int, seconds: float) -> int:
        """Let them work; how many claims went through. The dead are replaced at once."""
        bucket = self.bucket
        free_at = dict.fromkeys(range(workers), bucket.now)
        leases: dict[int, tuple[UUID | None, int, float]] = {}
        end, sent = bucket.now + seconds, 0
        while (worker := min(free_at, key=free_at.__getitem__)) in free_at and free_at[worker] < end:
            bucket.now = max(bucket.now, free_at[worker])
            if worker in leases:
                lease, granted, began = leases.pop(worker)
                died = self.chance.random() < self.deadly
                # A dead worker's call goes on without it, at most until its tokens are given to others.
                bucket.passed.append((began, began + LEASE_SECONDS if died else bucket.now, granted))
                sent += granted
                if not died:
                    bucket.finish(lease)
                free_at[worker] = bucket.now
                continue
            lease, granted, wait = bucket.lease()
            if granted:
                leases[worker] = (lease, granted, bucket.now)
                wait = self.call_seconds * self.chance.uniform(1 - self.spread, 1 + self.spread)
            free_at[worker] = bucket.now + min(max(wait, 0.005), 0.25) * (1 if granted else self.chance.uniform(1, 1.5))
        for lease, granted, began in leases.values():
            bucket.passed.append((began, bucket.now, granted))
            bucket.finish(lease)
        return sent


@pytest.mark.parametrize("call_seconds", [0.002, 0.02, 0.2])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("rate", [7, 1000])
def test_i10_the_fleet_gets_its_rate_and_no_more(intake: Intake, rate: int, workers: int, call_seconds: float) -> None:
    bucket = Bucket.open(intake, rate)
    crowd = Crowd(bucket, random.Random(5), call_seconds)
    crowd.run(workers, 3.0)  # so that the average length of a call is known
    began = bucket.now
    sent = crowd.run(workers, 8.0)
    assert sent + 1 >= 0.95 * rate * (bucket.now - began)
    bucket.check()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_i10_the_rate_is_kept_while_workers_die_with_tokens(bucket: Bucket, workers: int) -> None:
    crowd = Crowd(bucket, random.Random(workers), 0.01, deadly=0.05)
    sent = crowd.run(workers, 20.0)
    bucket.check()
    assert sent >= 0.5 * bucket.rate * bucket.now, "tokens of dead workers come back"


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_i10_the_rate_is_kept_whatever_workers_do(intake: Intake, data: st.DataObject) -> None:
    """Leases, renewals, endings in parts and deaths at any instants, under a rate that people change meanwhile."""
    intake.connection.execute("TRUNCATE intake.token_buckets, intake.engine_config")
    rate = data.draw(st.integers(1, 300), label="rate")
    bucket, out = Bucket.open(intake, rate), dict[UUID, tuple[float, float, int]]()
    for _ in range(data.draw(st.integers(5, 40), label="steps")):
        bucket.now += data.draw(st.sampled_from([0.0, 0.001, 0.03, 0.1, 0.6, 0.99, 1.5]), label="later")
        lease = data.draw(st.sampled_from([None, *out]), label="whose")
        if lease is None:
            lease, granted, wait = bucket.lease(data.draw(st.integers(1, 100), label="wanted"))
            assert (lease is None) == (granted == 0)
            assert (wait > 0) == (granted == 0)
            if lease is not None:
                out[lease] = (bucket.now, bucket.now + LEASE_SECONDS, granted)
            continue
        began, until, held = out.pop(lease)
        ended = data.draw(st.integers(0, held), label="ended")
        if bucket.finish(lease, ended):
            bucket.passed.append((began, bucket.now, ended))
            if ended < held:
                out[lease] = (began, bucket.now + LEASE_SECONDS, held - ended)
        else:
            bucket.passed.append((began, until, held))
    # The remaining workers have died: their calls go on until their tokens are granted again.
    bucket.passed += out.values()
    bucket.check()


def test_i10_tokens_of_a_dead_worker_come_back_once(bucket: Bucket) -> None:
    bucket.now = 10.0
    first, granted, _ = bucket.lease()
    assert granted == 5
    second, _, _ = bucket.lease()
    bucket.now = 10.99
    assert bucket.lease(100)[1] == 0, "at most 11 - 10, and less than half a bucket"
    assert bucket.finish(second, 0), "the second renews, the first does not"
    bucket.now = 11.01
    assert bucket.lease(100)[1] == 0, "they flow in again, they are not handed on"
    assert not bucket.finish(first)
    bucket.now = 11.06
    assert bucket.lease(100)[1] == 5
    assert bucket.lease(100)[1] == 0


def test_i10_a_slow_call_keeps_the_bucket_from_filling(bucket: Bucket) -> None:
    bucket.now = 10.0
    leases = [bucket.lease()[0], bucket.lease()[0]]
    for _ in range(9):
        bucket.now += 0.9
        assert all(bucket.finish(lease, 0) for lease in leases)
        assert bucket.lease()[1] == 0, "both leases are out, and the bucket has room for two"
    assert all(bucket.finish(lease) for lease in leases)
    bucket.now += 0.5
    assert bucket.lease()[1] > 5, "and has become larger, because calls are long"


def test_i10_calls_that_have_not_finished_stay_on_lease(bucket: Bucket) -> None:
    bucket.now = 10.0
    first, second = bucket.lease()[0], bucket.lease()[0]
    assert bucket.finish(second)
    bucket.now += 0.9
    assert bucket.finish(first, 2)
    bucket.now += 0.9
    assert sum(bucket.lease()[1] for _ in range(5)) == 5, "8 in the bucket and 3 out"
    bucket.now += 0.11
    assert not bucket.finish(first)


def test_i10_two_workers_that_ask_at_once_share_one_bucket(bucket: Bucket) -> None:
    bucket.now = 10.0
    with Intake(bucket.intake.uri) as watcher, Intake(bucket.intake.uri) as other, ThreadPoolExecutor(1) as background:
        rival = Bucket(other, bucket.rate, bucket.now)
        with bucket.intake.connection.transaction():
            granted = [bucket.lease()[1], bucket.lease()[1]]
            asking = background.submit(rival.lease)
            wait_until_blocked(watcher, asking)
        granted.append(asking.result()[1])
    assert granted == [5, 5, 0]


def test_i10_a_crash_gives_nothing_away(bucket: Bucket) -> None:
    bucket.now = 10.0
    bucket.lease()
    lose_unlogged(bucket.intake.connection)
    asked = "SELECT granted FROM intake.lease_tokens(%s, 100)"
    assert bucket.intake.value(asked, POOL) == 0
    (row,) = bucket.intake.dicts("SELECT *, now() AS now FROM intake.token_buckets")
    started = row["counted_at"]
    rest = "SELECT granted FROM intake_private.lease_tokens_at(intake_private.config_of(%s), 100, %s)"
    # What was out before the crash may still be under way for as long as a lease lasts.
    assert bucket.intake.value(rest, POOL, started + timedelta(seconds=0.9)) == 0
    assert bucket.intake.value(rest, POOL, started + timedelta(seconds=1.1)) == 0
    assert bucket.intake.value(rest, POOL, started + timedelta(seconds=1.16)) == 5


def test_a_fresh_pool_has_an_empty_bucket_and_no_pause(bucket: Bucket) -> None:
    assert bucket.lease()[1] == 0
    bucket.now = 0.05
    assert bucket.lease()[1] == 5


def test_a_changed_rate_acts_with_the_next_call(bucket: Bucket) -> None:
    bucket.now = 10.0
    fixed = bucket.intake.value("SELECT intake.configuration(%s)", POOL)
    window = {name: fixed[name] for name in ("opensAt", "closesAt")}
    bucket.intake.configure(10, maxPerSecond=1, **window)
    assert [bucket.lease(100)[1], bucket.lease(100)[1]] == [1, 0], "the bucket has shrunk, too"
    bucket.intake.configure(10, maxPerSecond=1000, **window)
    bucket.now += 0.1
    assert bucket.lease(100)[1] == 50
    bucket.intake.configure(10, **window)
    assert bucket.intake.rows("SELECT lease, granted FROM intake.lease_tokens(%s, 100)", POOL) == [(None, 100)]
    assert bucket.intake.rows("SELECT * FROM intake.token_buckets") == []
    bucket.intake.configure(10, maxPerSecond=1000, **window)
    unseen = bucket.intake.value("SELECT cardinality(leases) FROM intake.token_buckets")
    assert unseen == 1, "calls may be out that no bucket has seen"


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing_for_long(bucket: Bucket) -> None:
    bucket.now = 3600.0
    lease, granted, _ = bucket.lease()
    bucket.lease()
    bucket.now = 10.0
    assert bucket.lease()[1] == 0
    bucket.now = 10.9
    assert bucket.lease()[1] == 0
    bucket.now = 11.1
    assert bucket.lease()[1] == 0
    bucket.now = 11.15
    assert bucket.lease()[1] == 5
    assert granted == 5
    assert not bucket.finish(lease)


def test_a_lease_is_at_most_half_of_the_bucket(bucket: Bucket) -> None:
    bucket.now = 10.0
    assert [bucket.lease(3)[1], bucket.lease(100)[1], bucket.lease(100)[1]] == [3, 5, 0]


def test_returning_tokens_without_a_limit_or_too_many_is_harmless(intake: Intake) -> None:
    intake.configure(10)
    assert intake.value("SELECT intake.return_tokens(%s, gen_random_uuid(), 5)", POOL)
    assert intake.rows("SELECT * FROM intake.token_buckets") == []
