"""Makes the proof of a drain, outside of passes, and makes it again while it does not hold."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import psycopg
from intake_shared.redaction import one_line

from intake_operator.addresses import Address
from intake_operator.database.databases import Databases
from intake_operator.ledger.account import difference, read_account
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from intake_operator.remembered import Remembered

# For the pass that a proof wakes. Made anew if that comes too late: it permits the removal of DB1.
WHILE_PROVEN: Final = timedelta(seconds=30)
# Between two attempts: a person may be correcting what does not add up.
WHILE_BAD: Final = timedelta(seconds=3)
# A proof reads every claim on both sides, of a large sale for seconds. Then it rests this many times as long.
REST: Final = 10


@dataclass(frozen=True)
class _Attempt:
    proof: Proof | None
    error: str


def _holds(attempt: _Attempt) -> bool:
    return attempt.proof is not None and not attempt.proof.failures


class Proofs:
    """Makes the proof that ends a drain.

        proof, error = await proofs.prove(event, observed, ledger)
        may_remove_db1 = proof is not None and not proof.failures

    It reads every claim on both sides, so it is a long read: the first call only starts it, and its end wakes the
    event. A proof that failed is made again only after a pause. `clock` is in seconds.
    """

    def __init__(self, databases: Databases, clock: Callable[[], float], long_reads: LongReads) -> None:
        self._databases = databases
        self._clock = clock
        self._long_reads = long_reads
        self._attempts: Remembered[object, _Attempt] = Remembered(clock)

    async def prove(self, event: Event, observed: Observed, ledger: Address | None) -> tuple[Proof | None, str]:
        """The proof, or None and why there is none. `ledger` is one in Postgres; None if it cannot be used.

        What was proven is of the DB1 that the pass has observed: sealed, without an unsettled claim, with these counts.
        """
        status = observed.database.status
        subject = (ledger, observed.ledger, observed.database.identity, status and status.ends)
        if attempt := self._attempts.fresh(event.uid, subject):
            return attempt.proof, attempt.error

        async def make() -> None:
            began = self._clock()
            made = await self._attempt(event, observed, ledger)
            took = timedelta(seconds=self._clock() - began)
            lasts = WHILE_PROVEN if _holds(made) else max(WHILE_BAD, REST * took)
            self._attempts.keep(event.uid, subject, made, lasts)

        self._long_reads.start("proof", event.uid, (event.namespace, event.name), make)
        # While a proof that failed is made anew, it is what is known.
        known = self._attempts.latest_to(event.uid, subject)
        return (known.proof, known.error) if known and not _holds(known) else (None, "")

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._long_reads.stop(uid)
        self._attempts.forget(uid)

    async def _attempt(self, event: Event, observed: Observed, ledger: Address | None) -> _Attempt:
        try:
            account, audit = await self._databases.account(event.uid, event.pool)
            theirs = await read_account(ledger, event.pool) if ledger else None
        except (psycopg.Error, OSError) as error:
            return _Attempt(None, f"the account cannot be made: {one_line(error)}")
        answer, detail = LedgerAnswer.AGREES, ""
        not_asked = ledger is None and event.spec is not None and event.spec.commit_target.postgres is not None
        if not_asked and (account.ended.committed or account.ended.voided):
            answer = LedgerAnswer.NOT_ASKED
            detail = f"{answer.value}: {observed.ledger.message}"
        elif theirs is None:
            answer = LedgerAnswer.NO_PROOF
        elif theirs != account.ended:
            answer, detail = LedgerAnswer.DIFFERS, difference(theirs, account.ended)
        return _Attempt(Proof(account, answer, detail, audit), "")
