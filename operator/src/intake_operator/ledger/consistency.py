"""Keeps what is known about DB1 and the ledger agreeing, and has it looked at: seldom, and only when there is peace.

A look reads every claim on both sides. So it is taken while the queue is empty, which in a rush it never is, and then
every five minutes; on demand at any time; and at the end by the proof of the drain. First only counts and a digest are
compared (one statement on either side); claim by claim where these differ, or on demand.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import psycopg
from intake_shared.redaction import one_line
from psycopg import AsyncConnection

from intake_operator.database import dead_letters
from intake_operator.ledger import ledgers
from intake_operator.ledger.compare import OrderError, compare
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import Event
from intake_operator.model.proof import Account
from intake_operator.reasons import ConsistencyReason
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

# Seconds. A million claims are a second or two of either database for the digests.
WHILE_GOOD: Final = 300.0
# Somebody is mending; the command tells at once.
WHILE_BAD: Final = 60.0

MONITOR: Final = "monitor"
# intake.reconcile() of a million claims takes tens of seconds on a small machine.
STATEMENT_TIMEOUT: Final = "300s"
# Seconds of a whole comparison: who asks for the next one waits for it, and a frozen DB1 keeps to no limit of its own.
LONGEST: Final = 900.0
NOT_OFFERED: Final = "the ledger offers no"


@dataclass(frozen=True)
class Sides:
    """How to reach both."""

    event: Event
    host: str
    """Of DB1."""
    password: str
    uri: str
    """Of the ledger; empty for a webhook."""
    function: str = ""


class Consistencies:
    """The latest verdict on each event. `wake` has an event looked at again, `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float], wake: Callable[[Key], None], longest: float = LONGEST) -> None:
        self._clock = clock
        self._wake = wake
        self._longest = longest
        self._known: dict[str, tuple[float, Verdict | None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def known(self, uid: str) -> Verdict | None:
        """The latest verdict; None before the first."""
        return self._known[uid][1] if uid in self._known else None

    def consider(self, sides: Sides) -> None:
        """The queue is empty: look, if it is time. Returns at once; the event is woken when there is a verdict."""
        uid = sides.event.uid
        at, verdict = self._known.get(uid, (None, None))
        patience = WHILE_BAD if verdict is None or verdict.agrees is False else WHILE_GOOD
        if uid in self._running or (at is not None and self._clock() - at < patience):
            return
        task = self._running[uid] = asyncio.create_task(self._look(sides))
        task.add_done_callback(lambda _: self._running.pop(uid, None))

    async def now(self, sides: Sides) -> Verdict:
        """Compare claim by claim; those who ask at the same time wait for each other."""
        uid = sides.event.uid
        async with self._locks.setdefault(uid, asyncio.Lock()):
            verdict = await self._whole(sides)
            self._keep(sides, verdict)
        return verdict

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event."""
        self._known.pop(uid, None)
        self._locks.pop(uid, None)
        if task := self._running.pop(uid, None):
            task.cancel()

    async def close(self) -> None:
        """Give up what is running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _keep(self, sides: Sides, verdict: Verdict | None) -> None:
        before = self.known(sides.event.uid)
        self._known[sides.event.uid] = (self._clock(), verdict or before)
        if verdict is not None and verdict != before:
            self._wake((sides.event.namespace, sides.event.name))

    async def _look(self, sides: Sides) -> None:
        try:
            verdict = await self._short(sides)
        except Exception as error:
            # Nobody waits for this task: untold, it would begin anew with every pass.
            logger.exception("the comparison with the ledger failed", extra={"event": sides.event.name})
            verdict = failed(error)
        self._keep(sides, verdict)

    async def _short(self, sides: Sides) -> Verdict | None:
        """By counts and digest. None when the database was not at peace after all."""
        try:
            async with asyncio.timeout(self._longest), self._database(sides) as database:
                before = await _ends(database, sides.event.pool)
                told = await ledgers.account(ledgers.from_elsewhere(sides.uri, sides.event.namespace), sides.event.pool)
                if told == before:
                    return agreed(before.committed, before.voided)
                if before != await _ends(database, sides.event.pool):
                    return None
        except (psycopg.Error, OSError) as error:
            return failed(error)
        if told is None:
            return Verdict(
                None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, f"{NOT_OFFERED} ledger_proof (docs/ledger.md)"
            )
        whole = await self._whole(sides)
        if whole.agrees is None:
            theirs, ours = (f"{side.committed} committed and {side.voided} voided" for side in (told, before))
            counts = f"the ledger has {theirs}, DB1 {ours}"
            return Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, f"{counts}; which claims: {whole.message}")
        return whole

    async def _whole(self, sides: Sides) -> Verdict:
        if not sides.uri:
            return Verdict(
                None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, "a webhook ledger offers no way to ask what it holds"
            )
        try:
            async with (
                asyncio.timeout(self._longest),
                self._database(sides) as database,
                ledgers.visit(sides.uri, sides.event.namespace) as books,
            ):
                if not await ledgers.offers(books, "ledger_claims"):
                    told = f"{NOT_OFFERED} ledger_claims (docs/ledger.md)"
                    return Verdict(None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, told)
                voids = await ledgers.voider(books, sides.function) is not None
                found = await compare(database, books, sides.event.pool, voids=voids, clock=self._clock)
        except (psycopg.Error, OSError, OrderError) as error:
            return failed(error)
        if not found.found:
            return agreed(found.committed, found.voided, found.on_their_way)
        more = f" and {found.found - 5} more" if found.found > 5 else ""
        message = "; ".join(map(str, found.violations[:5])) + more
        return Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, message, tuple(found.violations))

    @staticmethod
    def _database(sides: Sides) -> AbstractAsyncContextManager[AsyncConnection]:
        return dead_letters.visit(sides.host, sides.password, MONITOR, STATEMENT_TIMEOUT)


def agreed(committed: int, voided: int, on_their_way: int = 0) -> Verdict:
    """Both sides say the same."""
    rest = f", {on_their_way} of them still on their way here" if on_their_way else ""
    told = f"the ledger has {committed} claims committed and {voided} voided{rest}, and nothing contradicts DB1"
    return Verdict(True, ConsistencyReason.LEDGER_AGREES, told)


def failed(error: Exception) -> Verdict:
    """One of the two did not answer as it should."""
    return Verdict(None, ConsistencyReason.COMPARISON_FAILED, f"the comparison broke off: {one_line(error)}")


async def _ends(database: AsyncConnection, pool: str) -> Account:
    found = await database.execute("SELECT committed, voided, slots, digest FROM intake.proof(%s)", (pool,))
    row = await found.fetchone()
    assert row is not None
    return Account(*row)
