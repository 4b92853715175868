"""A keyed work queue: one worker at a time for a key, a key waits at most once, and comes back later when it failed."""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

type Key = tuple[str, str]
"""Namespace and name."""

# Seconds. The first retry is quick, because most errors are conflicts and restarts; a minute is as long as a person
# waits after mending a cause.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0


class WorkQueue:
    """Dedupes keys, delays them, and backs off those that fail.

    Time and chance come from outside (`clock` in seconds, `jitter` in 0..1), so that tests own both.
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
        """Work on this key as soon as possible; a key that is being worked on will be again afterwards."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Work on this key then, or earlier if something else adds it; the soonest wish counts."""
        due = self._clock() + seconds
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._count), key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    def busy(self) -> bool:
        """Whether a key is being worked on, or could be."""
        return bool(self._ready or self._working)

    async def take(self) -> Key:
        """Wait for the next key. It is the caller's until `done`."""
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
        """Give a key back; a failed one comes again after a delay that doubles, with jitter."""
        self._working.discard(key)
        if failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1))
            self.add_after(key, longest * (0.5 + self._jitter() / 2))
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)

    async def work(self, reconcile: Callable[[Key], Awaitable[float | None]]) -> None:
        """One worker: take, reconcile, give back, for ever. `reconcile` answers in how many seconds to come again."""
        while True:
            key = await self.take()
            try:
                again = await reconcile(key)
            except Exception:  # noqa: BLE001 -- `reconcile` has reported it; the key must come back whatever it was
                self.done(key, failed=True)
            else:
                self.done(key)
                if again is not None:
                    self.add_after(key, again)

    def _promote(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
