"""The work queue: dedupe, one worker a key, delays, back-off, and a fair share of the workers for each namespace."""

import asyncio
from datetime import timedelta
from math import inf

import pytest
from given import Clock
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
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


def working_on(queue: WorkQueue, *namespaces: str) -> None:
    """Eight events in each of these namespaces have to be worked on."""
    for namespace in namespaces:
        for number in range(8):
            queue.add((namespace, f"event-{number}"))


async def taken(queue: WorkQueue) -> list[str]:
    """The namespaces of the keys that the free workers get at this moment."""
    found = []
    while queue.load().busy < queue.workers and (key := await take_now(queue)):
        found.append(key[0])
    return found


async def test_one_namespace_whose_passes_hang_leaves_workers_for_others(queue: WorkQueue) -> None:
    working_on(queue, "greedy")
    assert await taken(queue) == ["greedy"] * 6
    queue.add(A)
    assert await take_now(queue) == A
    queue.add(("late", "a"))
    assert await take_now(queue) == ("late", "a")


async def test_the_last_workers_are_for_namespaces_that_hold_none(queue: WorkQueue) -> None:
    working_on(queue, "greedy", "hungry")
    assert sorted(await taken(queue)) == ["greedy"] * 3 + ["hungry"] * 3
    working_on(queue, "a", "b", "c")
    assert await taken(queue) == ["a", "b"]


async def test_a_namespace_gives_back_what_is_above_its_share_as_its_passes_end(queue: WorkQueue) -> None:
    working_on(queue, "greedy")
    held = [key for _ in range(6) if (key := await take_now(queue))]
    working_on(queue, "a", "b", "c")
    assert await taken(queue) == ["a", "b"], "the last ones"
    for key in held[:4]:
        queue.done(key)
    assert await taken(queue) == ["c", "a"], "greedy still holds its share of two"


async def test_namespaces_take_turns_and_a_key_waits_for_those_of_its_own_only(queue: WorkQueue) -> None:
    working_on(queue, "many")
    queue.add(A)
    order = []
    for _ in range(3):
        key = await queue.take()
        order.append(key)
        queue.done(key)
    assert order == [("many", "event-0"), A, ("many", "event-1")]


async def test_the_load_tells_who_holds_the_workers_and_who_is_starved(queue: WorkQueue, clock: Clock) -> None:
    working_on(queue, "greedy", "hungry")
    await taken(queue)
    queue.add(A)
    queue.add(("late", "a"))
    await taken(queue)
    queue.add_after(("last", "a"), 10 * SECOND)
    clock.now = 25.0
    load = queue.load()
    assert load.held == {"greedy": 3, "hungry": 3, "tickets": 1, "late": 1}
    assert (load.busy, load.workers, load.waiting) == (8, 8, 11)
    assert (load.oldest, load.starved) == (25.0, 15.0), "a key that became due while all workers were busy counts"


NAMESPACES = ("a", "b", "c", "d")
KEYS = st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(("1", "2", "3")))


class FairQueue(RuleBasedStateMachine):
    """Any order of adding, taking, ending and waiting: no key is lost, none is with two workers, each has its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.queue = WorkQueue(self.clock, jitter=lambda: 1.0, workers=5)
        self.failures: dict[Key, int] = {}
        self.wanted: dict[Key, float] = {}
        """Keys that must be taken, and when they are due."""
        self.held: list[Key] = []
        self.again: set[Key] = set()
        self.passed_over: dict[str, int] = {}
        """For each namespace that has a key that is due and holds no worker: keys taken since."""

    def due(self) -> set[str]:
        """Namespaces with a key that is due and that no worker has."""
        return {key[0] for key, at in self.wanted.items() if at <= self.clock.now}

    @rule(key=KEYS)
    def add(self, key: Key) -> None:
        self.queue.add(key)
        if key in self.held:
            self.again.add(key)
        else:
            self.wanted[key] = min(self.wanted.get(key, self.clock.now), self.clock.now)

    @rule(key=KEYS, seconds=st.sampled_from((1, 3)))
    def add_later(self, key: Key, seconds: int) -> None:
        if key not in self.held:
            self.queue.add_after(key, timedelta(seconds=seconds))
            self.wanted[key] = min(self.wanted.get(key, inf), self.clock.now + seconds)

    @rule()
    def wait(self) -> None:
        self.clock.now += 1.0

    @precondition(lambda self: len(self.held) < 5)
    @rule()
    def take(self) -> None:
        due = self.due()
        holds_none = {namespace for namespace in due if namespace not in {held for held, _ in self.held}}
        key = self.runner.run(take_now(self.queue))
        if key is None:
            assert not holds_none, "a worker is free, and they hold none"
            free = 5 - len(self.held)
            assert not due or free <= 1 or len(due) > 1, "the rest is for others"
            return
        assert key not in self.held
        assert self.wanted.pop(key) <= self.clock.now
        self.held.append(key)
        share = max(1, 5 // len({*due, *(namespace for namespace, _ in self.held)}))
        count = sum(namespace == key[0] for namespace, _ in self.held)
        assert count == 1 or len(due) == 1 or count <= share, "others wait"
        assert count <= 4, "one worker is left for others"
        self.passed_over = {each: self.passed_over.get(each, 0) + 1 for each in holds_none if each != key[0]}
        assert all(turns < len(NAMESPACES) for turns in self.passed_over.values()), "each has its turn"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), failed=st.booleans())
    def done(self, data: st.DataObject, failed: bool) -> None:
        key = data.draw(st.sampled_from(self.held))
        self.held.remove(key)
        before = self.wanted.pop(key, inf)
        self.queue.done(key, failed=failed)
        if failed:
            self.failures[key] = self.failures.get(key, 0) + 1
            delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (self.failures[key] - 1))
            at = min(before, self.clock.now + delay.total_seconds())
        else:
            self.failures.pop(key, None)
            at = self.clock.now if key in self.again else before
        if at < inf:
            self.wanted[key] = at
        self.again.discard(key)

    @invariant()
    def the_load_agrees(self) -> None:
        load = self.queue.load()
        assert load.busy == len(self.held) <= 5
        assert len(self.held) == len(set(self.held))

    def teardown(self) -> None:
        """With workers that finish, every key that was wanted is taken."""
        for key in self.held:
            self.queue.done(key)
        missing = set(self.wanted)
        self.clock.now += 1_000
        while key := self.runner.run(take_now(self.queue)):
            missing.discard(key)
            self.queue.done(key)
        self.runner.close()
        assert not missing


TestFairQueue = FairQueue.TestCase
