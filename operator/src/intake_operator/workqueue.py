"""A work queue of keys: a key is queued at most once, is with one worker at a time, and is retried after a failure.

Its workers are shared fairly by namespace, so that passes of one namespace that hang leave workers for the others.
"""

import asyncio
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

type Key = tuple[str, str]
"""Namespace and name."""

WORKERS: Final = 8
"""Passes that run at the same time, if nothing else is said."""

# The first retry is quick, because most errors are conflicts and restarts. The longest is what a user waits after the
# cause was fixed.
FIRST_BACKOFF: Final = timedelta(seconds=0.5)
LONGEST_BACKOFF: Final = timedelta(seconds=30)
# FIRST_BACKOFF doubled this often is above LONGEST_BACKOFF.
MOST_DOUBLINGS: Final = 8


@dataclass(frozen=True)
class Load:
    """How busy the queue is at one moment."""

    waiting: int
    """Keys that are due and with no worker."""
    oldest: float
    """Seconds that the first of them has been due."""
    starved: float
    """The same among namespaces that hold no worker: what makes these wait are the other namespaces."""
    held: Mapping[str, int]
    """Busy workers by namespace; a namespace without one is not in it."""
    workers: int

    @property
    def busy(self) -> int:
        """Workers that have a key."""
        return sum(self.held.values())


class WorkQueue:
    """Dedupes keys, delays them, backs off those that fail, and shares `workers` fairly among namespaces.

    - Namespaces with keys take turns; within a namespace the key that waits longest is next.
    - While others wait, a namespace holds at most its equal share of the workers.
    - The last quarter of the workers goes only to namespaces that hold none.

    `clock` is in seconds and monotonic, `jitter` is in 0..1; tests pass their own.

        queue = WorkQueue(time.monotonic, workers=8)
        queue.add(("tickets", "taylor-drop"))
        queue.add_after(("tickets", "taylor-drop"), timedelta(seconds=10))
        workers = [asyncio.create_task(queue.work(reconcile)) for _ in range(queue.workers)]
    """

    def __init__(
        self, clock: Callable[[], float], jitter: Callable[[], float] = random.random, workers: int = WORKERS
    ) -> None:
        self.workers = workers
        self._reserve = max(1, workers // 4) if workers > 1 else 0
        self._clock = clock
        self._jitter = jitter
        self._ready: dict[str, deque[Key]] = {}
        """Keys that are due, by namespace; the namespace whose turn is next comes first."""
        self._due_since: dict[Key, float] = {}
        """For each key in `_ready`."""
        self._working: set[Key] = set()
        self._held: Counter[str] = Counter()
        """The number of keys in `_working` by namespace."""
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._count = itertools.count()
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Work on this key as soon as possible; a key that a worker has is queued again when the worker is done."""
        self._add(key, self._clock())

    def add_after(self, key: Key, delay: timedelta) -> None:
        """Work on this key after a delay, or earlier if it is added meanwhile; the shortest delay counts."""
        due = self._clock() + delay.total_seconds()
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._count), key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    def load(self) -> Load:
        """How busy the queue is now."""
        self._promote()  # while all workers are busy, nobody else does
        now, since = self._clock(), self._due_since
        starved = [now - since[keys[0]] for namespace, keys in self._ready.items() if not self._held[namespace]]
        return Load(
            waiting=len(since),
            oldest=max((now - begin for begin in since.values()), default=0.0),
            starved=max(starved, default=0.0),
            held={namespace: count for namespace, count in self._held.items() if count},
            workers=self.workers,
        )

    async def take(self) -> Key:
        """Wait for the next key. The caller has it until `done`."""
        while True:
            self._promote()
            if (namespace := self._next_namespace()) is not None:
                return self._take_from(namespace)
            self._changed.clear()
            timeout = self._later[0][0] - self._clock() if self._later else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key, *, failed: bool = False) -> None:
        """Give a key back; a failed one is queued after a delay that doubles with each failure, with jitter."""
        self._working.discard(key)
        self._held[key[0]] -= 1
        if not self._held[key[0]]:
            del self._held[key[0]]
        if failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failures - 1, MOST_DOUBLINGS))
            self.add_after(key, longest * (0.5 + self._jitter() / 2))
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)
        self._changed.set()  # a worker is free, so another namespace may have its share

    async def work(self, reconcile: Callable[[Key], Awaitable[timedelta | None]]) -> None:
        """Run one worker until it is cancelled. `reconcile` returns the delay of the next pass; None: no next pass."""
        while True:
            key = await self.take()
            try:
                requeue_after = await reconcile(key)
            except Exception:  # noqa: BLE001 -- `reconcile` has reported it; the key is retried whatever it was
                self.done(key, failed=True)
            else:
                self.done(key)
                if requeue_after is not None:
                    self.add_after(key, requeue_after)

    def _add(self, key: Key, since: float) -> None:
        if key in self._working:
            self._again.add(key)
        elif key not in self._due_since:
            self._due_since[key] = since
            self._ready.setdefault(key[0], deque()).append(key)
            self._changed.set()

    def _promote(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key, due)

    def _next_namespace(self) -> str | None:
        return next((namespace for namespace in self._ready if self._may_take(namespace)), None)

    def _may_take(self, namespace: str) -> bool:
        """Whether the worker that asks may have a key of this namespace."""
        held = self._held[namespace]
        if not held:
            return True
        if self.workers - len(self._working) <= self._reserve:
            return False
        with_work = self._ready.keys() | self._held.keys()
        others_wait = len(self._ready) > 1
        return not others_wait or held < max(1, self.workers // len(with_work))

    def _take_from(self, namespace: str) -> Key:
        keys = self._ready.pop(namespace)
        key = keys.popleft()
        if keys:
            self._ready[namespace] = keys  # behind the others
        del self._due_since[key]
        self._working.add(key)
        self._held[namespace] += 1
        self._due.pop(key, None)
        return key
