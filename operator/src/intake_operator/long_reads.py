"""Reads that may take long run outside of passes, so that they hold no worker.

An inventory table, the ledger's account of a pool, a proof: each is read from a server of the user's, which may be slow
or may not answer at all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

# At the same time: for all events, and for those of one namespace. The memory for the rows of each is bounded
# (inventory/table.py), so these bound the memory of all.
MOST: Final = 8
MOST_OF_A_NAMESPACE: Final = 2

type ReadKey = tuple[str, str]
"""The event's uid, and what is read."""


class Places:
    """So many for all at the same time, and so many for each namespace."""

    def __init__(self, most: int, most_of_a_namespace: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_a_namespace = most_of_a_namespace
        self._namespaces: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Each is kept for as long as one of its places is used or waited for."""

    @asynccontextmanager
    async def one(self, namespace: str) -> AsyncIterator[None]:
        """Wait for a place and keep it. What waits for one of its namespace takes none of those of all."""
        if (ours := self._namespaces.get(namespace)) is None:
            ours = self._namespaces[namespace] = asyncio.Semaphore(self._most_of_a_namespace)
        async with ours, self._all:
            yield


class LongReads:
    """Runs long reads in the background. `wake` has the event reconciled at the end of each.

        reads = LongReads(queue.add)
        reads.start("inventory", event.uid, (event.namespace, event.name), lambda: self._read(event))

    A read keeps its own result, where the next pass looks for it, and bounds its own time. The time that it waits for
    a place does not count.
    """

    def __init__(
        self, wake: Callable[[Key], None], most: int = MOST, most_of_a_namespace: int = MOST_OF_A_NAMESPACE
    ) -> None:
        self.wake = wake
        self._places = Places(most, most_of_a_namespace)
        self._tasks: dict[ReadKey, asyncio.Task[None]] = {}
        self._reading: set[ReadKey] = set()

    def is_running(self, what: str, uid: str) -> bool:
        """Whether this read runs, or waits for a place."""
        return (uid, what) in self._tasks

    def start(self, what: str, uid: str, event: Key, read: Callable[[], Awaitable[None]]) -> None:
        """Read in the background, unless this read runs already."""
        key = (uid, what)
        if key in self._tasks:
            return
        task = self._tasks[key] = asyncio.create_task(self._run(key, event, read))

        def ended(_: object) -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]

        task.add_done_callback(ended)

    def stop(self, uid: str) -> None:
        """Break off the reads of an event that is gone, or whose DB1 is being removed."""
        for key in [each for each in self._tasks if each[0] == uid]:
            self._tasks.pop(key).cancel()

    async def close(self) -> None:
        """Break off every read."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def load(self) -> Mapping[str, int]:
        """How many are under way, and how many wait for a place."""
        return {"running": len(self._reading), "waiting": len(self._tasks) - len(self._reading)}

    async def _run(self, key: ReadKey, event: Key, read: Callable[[], Awaitable[None]]) -> None:
        async with self._places.one(event[0]):
            self._reading.add(key)
            try:
                await read()
            except Exception:  # no caller waits for this task
                # Without waking the event: its next pass starts the read again, and not at once.
                logger.exception("a long read failed", extra={"namespace": event[0], "event": event[1]})
                return
            finally:
                self._reading.discard(key)
        self._tasks.pop(key, None)  # before the pass that this wakes
        self.wake(event)
