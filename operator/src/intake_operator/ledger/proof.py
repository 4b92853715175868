"""The account of a sealed database and the ledger's word on it, made again while it does not add up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from intake_shared.redaction import one_line

from intake_operator.database.databases import Databases
from intake_operator.ledger import ledgers
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof

# Seconds between two proofs of something that somebody may be mending.
WHILE_BAD: Final = 3.0
# A proof reads every claim on both sides. Of a large sale it takes seconds: then it rests so many times as long.
REST: Final = 10.0


@dataclass(frozen=True)
class _Made:
    subject: object
    """What was proven; something else is proven at once."""
    until: float
    proof: Proof | None
    error: str


class Proofs:
    """Proves, and remembers what did not add up for a while. `clock` is in seconds."""

    def __init__(self, databases: Databases, clock: Callable[[], float]) -> None:
        self._engines = databases
        self._clock = clock
        self._made: dict[str, _Made] = {}

    async def prove(self, event: Event, observed: Observed, uri: str) -> tuple[Proof | None, str]:
        """The proof, or why it cannot be made. `uri` is the Postgres ledger's, empty without one that can be used."""
        ends = observed.database.status and observed.database.status.ends
        subject = (uri, observed.ledger, observed.database.identity, ends)
        made = self._made.get(event.uid)
        if made is None or made.subject != subject or self._clock() >= made.until:
            began = self._clock()
            proof, error = await self._prove(event, observed, uri)
            if proof is not None and not proof.failures:
                self.forget(event.uid)
                return proof, error
            rest = max(WHILE_BAD, REST * (self._clock() - began))
            made = self._made[event.uid] = _Made(subject, self._clock() + rest, proof, error)
        return made.proof, made.error

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event."""
        self._made.pop(uid, None)

    async def _prove(self, event: Event, observed: Observed, uri: str) -> tuple[Proof | None, str]:
        try:
            account = await self._engines.account(event.uid, event.pool)
            by_hand = await self._engines.audit(event.uid, event.pool)
            told = await ledgers.account(ledgers.from_elsewhere(uri, event.namespace), event.pool) if uri else None
        except (psycopg.Error, OSError) as error:
            return None, f"the account cannot be made: {one_line(error)}"
        unasked = not uri and event.spec is not None and event.spec.commit_target.postgres is not None
        answer, detail = LedgerAnswer.AGREES, ""
        if unasked and (account.ended.committed or account.ended.voided):
            answer = LedgerAnswer.NOT_ASKED
            detail = f"{answer.value}: {observed.ledger.message}"
        elif told is None:
            answer = LedgerAnswer.NO_PROOF
        elif told != account.ended:
            answer, detail = LedgerAnswer.DIFFERS, ledgers.difference(told, account.ended)
        return Proof(account, answer, detail, by_hand), ""
