"""The work queue: dedupe, one worker a key, delays, back-off."""

import asyncio
from datetime import timedelta

import pytest
from given import Clock
from intake_operator.workqueue import FIRST_BACKOFF, LONGEST_BACKOFF, Key, WorkQueue

from tests.patience import PATIENCE_SECONDS

A: Key = ("tickets", "a")
B: Key = ("tickets", "b")
SECOND = timedelta(seconds=1)


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(clock, jitter=lambda: 1.0)


async def take_now(queue: WorkQueue) -> Key | None:
    """The key that a worker would get at this moment, without waiting."""
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    if taking.done():
        return taking.result()
    taking.cancel()
    return None


async def test_a_key_is_queued_only_once(queue: WorkQueue) -> None:
    queue.add(A)
    queue.add(A)
    assert await queue.take() == A
    assert await take_now(queue) is None


async def test_a_key_is_never_with_two_workers(queue: WorkQueue) -> None:
    queue.add(A)
    await queue.take()
    queue.add(A)
    assert await take_now(queue) is None
    queue.done(A)
    assert await queue.take() == A


async def test_keys_are_taken_in_order(queue: WorkQueue) -> None:
    queue.add(B)
    queue.add(A)
    assert [await queue.take(), await queue.take()] == [B, A]


async def test_a_delayed_key_is_taken_when_it_is_due_and_the_shortest_delay_counts(
    queue: WorkQueue, clock: Clock
) -> None:
    queue.add_after(A, 10 * SECOND)
    queue.add_after(A, 2 * SECOND)
    queue.add_after(A, 30 * SECOND)
    clock.now = 1.9
    assert await take_now(queue) is None
    clock.now = 2.0
    assert await queue.take() == A
    queue.done(A)
    clock.now = 100
    assert await take_now(queue) is None


async def test_failures_back_off_up_to_a_bound_and_success_forgets_them(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    await queue.take()
    delays = []
    for _ in range(12):
        queue.done(A, failed=True)
        before = clock.now
        while await take_now(queue) is None:
            clock.now += FIRST_BACKOFF.total_seconds()
        delays.append(clock.now - before)
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(delays) == LONGEST_BACKOFF.total_seconds()
    queue.done(A)
    queue.add(A)
    await queue.take()
    queue.done(A, failed=True)
    clock.now += FIRST_BACKOFF.total_seconds()
    assert await queue.take() == A


async def test_a_worker_survives_what_reconcile_raises(queue: WorkQueue, clock: Clock) -> None:
    seen: list[Key] = []
    finished = asyncio.Event()

    async def reconcile(key: Key) -> timedelta | None:
        seen.append(key)
        if key == A:
            raise ValueError("broken")
        finished.set()
        return None

    worker = asyncio.create_task(queue.work(reconcile))
    queue.add(A)
    queue.add(B)
    await asyncio.wait_for(finished.wait(), PATIENCE_SECONDS)
    worker.cancel()
    assert seen == [A, B]
