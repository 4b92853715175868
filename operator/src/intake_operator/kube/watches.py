"""Lists and watches what the passes read, and keeps it in the store.

kopf's index keeps an object that vanished while its watch was broken, and the informer of the Kubernetes client is not
for asyncio and says nothing of silence: neither would be right after an outage, so this is our own.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from intake_shared.redaction import one_line

from intake_operator import names
from intake_operator.kube.client import ApiError, BrokenWatchError, Cluster
from intake_operator.kube.store import Shelf, Store

logger = logging.getLogger(__name__)

# The children whose changes queue their event. Secrets are not watched: a watch needs the right to list all Secrets.
CHILDREN: Final = (
    "StatefulSet",
    "Deployment",
    "Service",
    "Pod",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
WATCHED: Final = (names.KIND, *CHILDREN)

# Seconds. The API server ends a watch after so long, and the next goes on where it ended. Not all at the same time.
LASTS: Final = (480, 600)
# The API server sends a bookmark a minute. A watch that is silent for longer than two looks like one without changes.
SILENCE: Final = 150.0
# A loop that has neither heard nor tried anything for so long hangs, and only a restart of the process helps.
STUCK: Final = 400.0
# Statuses of an API server that is busy, and how often it may say so before a new list is tried.
BUSY: Final = frozenset({429, 503})
PATIENCE: Final = 5
# Objects of one answer: bounds what is decoded at a time.
PAGE: Final = 500
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


class Record(Protocol):
    """Where it is recorded what becomes of the watches."""

    def watch_ended(self, kind: str, reason: str) -> None:
        """A watch has ended in another way than the API server ends it, and is started again."""

    def watch_silence(self, kind: str, silence: Callable[[], float]) -> None:
        """How long the watches of a kind have been silent, in seconds."""


@dataclass
class _Life:
    """The moments of one watch, in seconds: when it last heard anything, and when it last tried anything."""

    heard: float
    tried: float
    failures: int = 0


class Watches:
    """One loop for each shelf of the store: list, then watch from there; list again where the watch cannot go on.

    `clock` and `silence` are in seconds; tests pass their own.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        record: Record,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        silence: float = SILENCE,
    ) -> None:
        self._cluster, self._store, self._record = cluster, store, record
        self._clock, self._sleep, self._silent_after = clock, sleep, silence
        self._jitter = random.random
        self._lives = {(shelf.kind, shelf.namespace): _Life(clock(), clock()) for shelf in store.shelves()}
        for kind in dict.fromkeys(kind for kind, _ in self._lives):
            record.watch_silence(kind, partial(self._silence, kind))

    def stuck(self) -> str:
        """What /livez says of a watch whose loop hangs; empty if none does."""
        now = self._clock()
        hung = [f"{kind} {ns}".strip() for (kind, ns), life in self._lives.items() if now - life.tried > STUCK]
        return f"these watches have hung for {STUCK:.0f} s: {', '.join(hung)}" if hung else ""

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as loops:
            for shelf in self._store.shelves():
                loops.create_task(self._keep(shelf))

    async def _keep(self, shelf: Shelf) -> None:
        life, current = self._lives[shelf.kind, shelf.namespace], False
        while True:
            try:
                if not current:
                    await self._list(shelf, life)
                    current = True
                await self._watch(shelf, life)
            except BrokenWatchError as error:
                self._note(shelf, life, error.reason, error)  # the next watch goes on where this one broke
            except ApiError as error:
                # 410: the API server does not know any more what has happened since. One that is busy is asked again.
                current = current and error.status in BUSY and life.failures < PATIENCE
                self._note(shelf, life, "gone" if error.status == 410 else "refused", error)
            except Exception as error:  # noqa: BLE001 -- an answer that cannot be understood must not end the loop
                current = False
                self._note(shelf, life, "broken", error)
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(life.failures, 8))
            await self._sleep(pause * (0.5 + self._jitter() / 2))
            life.tried = self._clock()

    def _note(self, shelf: Shelf, life: _Life, reason: str, error: Exception) -> None:
        life.failures += 1
        life.tried = self._clock()
        self._record.watch_ended(shelf.kind, reason)
        where = {"kind": shelf.kind, "namespace": shelf.namespace}
        level = logging.INFO if reason in {"gone", "silent"} else logging.WARNING
        logger.log(level, "watch is started again: %s: %s", reason, one_line(error), extra=where)

    async def _list(self, shelf: Shelf, life: _Life) -> None:
        shelf.asks()
        selector = "" if shelf.kind == names.KIND else names.EVENT_LABEL
        first = page = await self._cluster.list_page(shelf.kind, shelf.namespace, selector, PAGE)
        items = list(first.items)
        while page.more:
            life.tried = self._clock()
            page = await self._cluster.list_page(shelf.kind, shelf.namespace, selector, PAGE, page.more)
            items += page.items
        self._heard(life)
        self._store.tell(shelf.replace(items, first.version))

    async def _watch(self, shelf: Shelf, life: _Life) -> None:
        selector = "" if shelf.kind == names.KIND else names.EVENT_LABEL
        seconds = round(LASTS[0] + (LASTS[1] - LASTS[0]) * self._jitter())
        watch = self._cluster.watch(shelf.kind, shelf.namespace, selector, shelf.version, seconds, self._silent_after)
        async with aclosing(watch) as events:
            async for type_, item in events:
                self._heard(life)
                self._store.tell(shelf.told(type_, item))

    def _heard(self, life: _Life) -> None:
        life.heard = life.tried = self._clock()
        life.failures = 0

    def _silence(self, kind: str) -> float:
        return max(self._clock() - life.heard for (found, _), life in self._lives.items() if found == kind)
