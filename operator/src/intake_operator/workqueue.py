"""A work queue of keys: a key is queued at most once, is with one worker at a time, and is retried after a failure."""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

type Key = tuple[str, str]
"""Namespace and name."""

# The first retry is quick, because most errors are conflicts and restarts. The longest is what a user waits after the
# cause was fixed.
FIRST_BACKOFF: Final = timedelta(seconds=0.5)
LONGEST_BACKOFF: Final = timedelta(seconds=30)
# FIRST_BACKOFF doubled this often is above LONGEST_BACKOFF.
MOST_DOUBLINGS: Final = 8


class WorkQueue:
    """Dedupes keys, delays them, and backs off those that fail.

    `clock` is in seconds and monotonic, `jitter` is in 0..1; tests pass their own.

        queue = WorkQueue(time.monotonic)
        queue.add(("tickets", "taylor-drop"))
        queue.add_after(("tickets", "taylor-drop"), timedelta(seconds=10))
        workers = [asyncio.create_task(queue.work(reconcile)) for _ in range(8)]
    """

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._count = itertools.count()
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Work on this key as soon as possible; a key that a worker has is queued again when the worker is done."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._changed.set()

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

    def busy(self) -> bool:
        """Whether a key is queued, or with a worker."""
        return bool(self._ready or self._working)

    async def take(self) -> Key:
        """Wait for the next key. The caller has it until `done`."""
        while True:
            self._promote()
            if self._ready:
                key = self._ready.popleft()
                self._waiting.discard(key)
                self._working.add(key)
                self._due.pop(key, None)
                return key
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

    def _promote(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
