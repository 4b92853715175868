"""When DB1 is compared with the ledger, and what the latest comparison found.

A comparison reads every claim on both sides. So it is made while the queue is empty, which it never is in a rush, and
then every five minutes; on demand at any time; and at the end by the proof of the drain. Counts and a digest are
compared first (one statement on either side), then claim by claim if these differ. On demand: claim by claim.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
from intake_shared.redaction import one_line
from psycopg import AsyncConnection

from intake_operator.addresses import Address
from intake_operator.database import account as database_account
from intake_operator.database import connection as db1
from intake_operator.decide.consistency import NO_QUESTION
from intake_operator.ledger.account import read_account
from intake_operator.ledger.claims import LONGEST_PAGE, PageOrderError
from intake_operator.ledger.compare import compare
from intake_operator.ledger.connection import connect
from intake_operator.ledger.functions import offers, void_function
from intake_operator.long_reads import LongReads
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import Event
from intake_operator.reasons import ConsistencyReason
from intake_operator.remembered import Remembered

logger = logging.getLogger(__name__)

# The digests of a million claims take either database a second or two.
WHILE_GOOD: Final = timedelta(minutes=5)
# A person may be correcting it. `intake-admin reconcile` compares at once.
WHILE_BAD: Final = timedelta(minutes=1)

MONITOR: Final = "monitor"
# intake.reconcile() of a million claims takes tens of seconds on a small machine.
STATEMENT_TIMEOUT: Final = "300s"
# Seconds of a whole comparison. The next one waits for it, and a frozen DB1 does not keep to its own limits.
COMPARISON_TIMEOUT: Final = 900.0
READ: Final = "comparison"
NOT_OFFERED: Final = "the ledger offers no"


@dataclass(frozen=True)
class Sides:
    """How to reach both sides of a comparison."""

    event: Event
    host: str
    """Of DB1."""
    password: str = field(repr=False)
    """Of DB1's superuser."""
    ledger: Address | None
    """None for a webhook."""
    function: str = ""
    """The ledger's commit function."""


class ConsistencyChecks:
    """The latest verdict on each event, with its time.

    `clock` and `timeout` are in seconds, `now` tells the time of day.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        long_reads: LongReads,
        timeout: float = COMPARISON_TIMEOUT,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._long_reads = long_reads
        self._timeout = timeout
        self._now = now
        self._verdicts: Remembered[None, Verdict | None] = Remembered(clock)
        self._locks: dict[str, asyncio.Lock] = {}

    def latest(self, uid: str) -> Verdict | None:
        """The latest verdict; None before the first."""
        return self._verdicts.latest(uid)

    def is_due(self, uid: str) -> bool:
        """Whether it is time for the next comparison, and none is running."""
        return not self._long_reads.is_running(READ, uid) and self._verdicts.is_due(uid, None)

    def start(self, sides: Sides) -> None:
        """Compare in the background if it is time. Call while the queue is empty. Its end wakes the event."""
        event = sides.event
        if self.is_due(event.uid):
            self._long_reads.start(READ, event.uid, (event.namespace, event.name), lambda: self._check(sides))

    async def check_now(self, sides: Sides) -> Verdict:
        """Compare claim by claim. Calls for the same event wait for each other."""
        async with self._locks.setdefault(sides.event.uid, asyncio.Lock()):
            before, verdict = self.latest(sides.event.uid), await self._compare_claims(sides)
            self._keep(sides, verdict)
        if verdict != before:
            self._long_reads.wake((sides.event.namespace, sides.event.name))
        return verdict

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._verdicts.forget(uid)
        self._locks.pop(uid, None)
        self._long_reads.stop(uid)

    def _keep(self, sides: Sides, verdict: Verdict | None) -> None:
        known = replace(verdict, at=self._now()) if verdict else self.latest(sides.event.uid)
        good = known is not None and known.agrees is not False
        self._verdicts.keep(sides.event.uid, None, known, WHILE_GOOD if good else WHILE_BAD)

    async def _check(self, sides: Sides) -> None:
        try:
            verdict = await self._compare_accounts(sides)
        except Exception as error:
            # No caller waits for this task. Without a verdict it would be started again in every pass.
            logger.exception("the comparison with the ledger failed", extra={"event": sides.event.name})
            verdict = failed(error)
        self._keep(sides, verdict)

    async def _compare_accounts(self, sides: Sides) -> Verdict | None:
        """By counts and digest, then claim by claim. None when claims ended in DB1 in the meantime."""
        try:
            assert sides.ledger is not None
            async with asyncio.timeout(self._timeout), self._database(sides) as database:
                before = await database_account.read_account(database, sides.event.pool)
                ledger = await read_account(sides.ledger, sides.event.pool)
                if ledger == before:
                    return agreed(before.committed, before.voided)
                if before != await database_account.read_account(database, sides.event.pool):
                    return None
        except (psycopg.Error, OSError) as error:
            return failed(error)
        if ledger is None:
            return cannot_be_asked(f"{NOT_OFFERED} ledger_proof (docs/ledger.md)")
        verdict = await self._compare_claims(sides)
        if verdict.agrees is None:
            theirs, ours = (f"{side.committed} committed and {side.voided} voided" for side in (ledger, before))
            counts = f"the ledger has {theirs}, DB1 {ours}"
            return Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, f"{counts}; which claims: {verdict.message}")
        return verdict

    async def _compare_claims(self, sides: Sides) -> Verdict:
        if sides.ledger is None:
            return cannot_be_asked(NO_QUESTION)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._database(sides) as database,
                connect(sides.ledger, LONGEST_PAGE) as ledger,
            ):
                if not await offers(ledger, "ledger_claims"):
                    return cannot_be_asked(f"{NOT_OFFERED} ledger_claims (docs/ledger.md)")
                voids = await void_function(ledger, sides.function) is not None
                found = await compare(database, ledger, sides.event.pool, voids=voids, clock=self._clock)
        except (psycopg.Error, OSError, PageOrderError) as error:
            return failed(error)
        if not found.found:
            return agreed(found.committed, found.voided, found.on_their_way)
        more = f" and {found.found - 5} more" if found.found > 5 else ""
        message = "; ".join(map(str, found.violations[:5])) + more
        return Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, message, tuple(found.violations))

    @staticmethod
    def _database(sides: Sides) -> AbstractAsyncContextManager[AsyncConnection]:
        return db1.connect(sides.host, sides.password, MONITOR, STATEMENT_TIMEOUT)


def agreed(committed: int, voided: int, on_their_way: int = 0) -> Verdict:
    """Both sides have the same claims; some are committed in the ledger and not acknowledged in DB1 yet."""
    rest = f", {on_their_way} of them still on their way here" if on_their_way else ""
    message = f"the ledger has {committed} claims committed and {voided} voided{rest}, and nothing contradicts DB1"
    return Verdict(True, ConsistencyReason.LEDGER_AGREES, message)


def cannot_be_asked(message: str) -> Verdict:
    """The ledger has no way to tell what it has."""
    return Verdict(None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, message)


def failed(error: Exception) -> Verdict:
    """One of the two did not answer as it should."""
    return Verdict(None, ConsistencyReason.COMPARISON_FAILED, f"the comparison broke off: {one_line(error)}")
