"""A ledger behind a PostgreSQL function: one statement for a batch, an outcome for each claim."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import psycopg
from intake_shared.certificates import NO_CERTIFICATES, Certificates
from intake_shared.connections import bounded, connect
from intake_shared.redaction import message_of, one_line
from intake_shared.sqlstates import NO_SUCH_CHARACTER, QUERY_CANCELED
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from intake_bridge.adapters.ledger_functions import Signature, find_functions
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.anonymous import reported, told
from intake_bridge.domain.answers import MAX_RECEIPT_BYTES, Addition, Answers
from intake_bridge.domain.health import Offer
from intake_bridge.domain.message import Messages, State
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.domain.portions import Written, in_portions
from intake_bridge.ports import DependencyDownError, Gate, UriSource

log = logging.getLogger(__name__)

# A ledger call is cancelled after this. The lease is renewed meanwhile.
_CALL_SECONDS = 30.0

# Whether a text survives: a few characters of the Japanese and Chinese encodings become others, or bytes that the
# server itself refuses to read.
_SURVIVES_CONVERSION: Final = (
    "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
)
# In these nothing is converted.
_NOT_CONVERTED: Final = frozenset({"UTF8", "SQL_ASCII"})

_SEVERITY = [table.Blame.CLAIM, table.Blame.SUSPECT, table.Blame.DEPENDENCY]

_LEFT_OUT: Final = object()

type Words = dict[str, Outcome]


class _Failed(NamedTuple):
    """A statement that failed, with the ledger's own words."""

    sqlstate: str | None
    error: str


async def no_certificates() -> Certificates:
    """For a ledger whose URI says all."""
    return NO_CERTIFICATES


class PostgresLedger:
    """Calls the function over one connection, which is made again after each failure."""

    # The ledger's first insert decides whether a claim is committed or voided: nothing has to be marked in DB1.
    needs_mark = False

    def __init__(
        self,
        function: str,
        uri: UriSource,
        application_name: str,
        call_seconds: float = _CALL_SECONDS,
        certificates: Callable[[], Awaitable[Certificates]] = no_certificates,
    ) -> None:
        self._name = function
        self._call_seconds = call_seconds
        self._uri = uri
        self._certificates = certificates
        self._kwargs: dict[str, Any] = {
            "application_name": application_name,
            "autocommit": True,
            "prepare_threshold": None,  # a transaction pooler may stand before the ledger
        }
        self._connection: AsyncConnection[Any] | None = None
        self._signature: Signature | None = None

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What the last connect found; empty while there is no connection."""
        return () if self._signature is None else self._signature.offers

    async def check(self) -> None:
        """Connect if there is no connection, and look the function up."""
        if self._connection is not None and not self._connection.closed and self._signature is not None:
            return
        await self.close()
        try:
            uri, certificates = await self._uri(), await self._certificates()
            self._connection = await connect(uri, certificates=certificates, **self._kwargs)
            async with bounded(self._call_seconds):
                self._signature = await find_functions(self._connection, self._name)
        except TimeoutError as error:
            await self.close()
            raise DependencyDownError("accepts the connection, but gives no answer in time") from error
        except (psycopg.Error, OSError) as error:
            await self.close()
            raise DependencyDownError(one_line(error)) from error
        except DependencyDownError:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection; the next check makes a new one."""
        connection, self._connection, self._signature = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def commit(self, messages: Messages, gate: Gate) -> Answers:
        """Commit in one statement. A row whose data the ledger refuses is found by halving, and fails alone."""
        if self._signature is None:
            return Answers()
        words = {"": table.LEDGER_WORDS["committed"]} if self._signature.returns_void else table.LEDGER_WORDS
        return await self._send(self._signature.commit, words, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Answers:
        """Have the ledger promise that it will never commit these.

        A ledger without `void_claim` cannot. Then a claim that was never marked `validated` is voided without a call,
        because only validated claims are committed. A validated one may have been committed, or be under way, by a
        worker that has lost its lease: such a ledger can only be asked to commit it.
        """
        if self._signature is None:
            return Answers()
        if self._signature.void is None:
            voided = replace(table.VOID_WORDS["voided"], kind=table.DECIDED_BY_BRIDGE)
            never_sent = {each.msg_id: voided for each in messages if each.state is State.QUEUED}
            sent = [each for each in messages if each.msg_id not in never_sent]
            return Answers(never_sent) | await self.commit(sent, gate)
        with_receipts = self._signature.gives_receipts
        answers = await self._send(self._signature.void, table.VOID_WORDS, messages, gate)
        late = [each for each in messages if _is_committed(answers.outcomes.get(each.msg_id))]
        if not late or not with_receipts:
            return answers
        # It is too late for these, and `void_claim` returns no receipt: a commit is answered with `duplicate` and the
        # first receipt. What gets no answer to it is asked again; what is refused is sold all the same.
        known = await self.commit(late, gate)
        for message in late:
            committed = answers.outcomes.pop(message.msg_id)
            outcome = known.outcomes.get(message.msg_id)
            if outcome is not None and outcome.blame is table.Blame.CLAIM and not _is_committed(outcome):
                known.outcomes[message.msg_id] = committed
        return answers | known

    async def _send(self, statement: sql.Composed, words: Words, messages: Messages, gate: Gate) -> Answers:
        answers = Answers()
        for portion in in_portions([(message, message.as_text()) for message in messages]):
            answers |= await self._halving(statement, words, portion, gate)
        return answers

    async def _halving(self, statement: sql.Composed, words: Words, claims: Sequence[Written], gate: Gate) -> Answers:
        """One statement; if it fails because of a row, one for each half. What the gate stops is left out."""
        ours = [claim for claim in claims if gate.may_continue(claim[0])]
        if not ours or self._connection is None:
            return Answers()
        clock = asyncio.get_running_loop().time
        started = clock()
        answer = await self._call(statement, words, ours)
        seconds = clock() - started
        if isinstance(answer, Answers):
            # The worst last: one good answer does not close the breaker of a ledger that also gives a wrong one.
            *others, worst = sorted(set(answer.outcomes.values()), key=lambda each: _SEVERITY.index(each.blame))
            for outcome in others:
                gate.record(outcome)
            gate.record(worst, seconds)
            return Answers(_at(clock(), answer.outcomes), answer.additions)
        failure = table.of_sqlstate(*answer) if isinstance(answer, _Failed) else answer
        if failure.blame is table.Blame.CLAIM and len(ours) > 1:
            middle = len(ours) // 2
            first = await self._halving(statement, words, ours[:middle], gate)
            return first | await self._halving(statement, words, ours[middle:], gate)
        messages = [message for message, _ in ours]
        if isinstance(answer, _Failed):
            failure = table.of_sqlstate(answer.sqlstate, told(answer.error, messages))
        gate.record(failure, seconds)
        if failure.blame is table.Blame.CLAIM:
            return Answers(_at(clock(), {messages[0].msg_id: failure}))
        if failure.blame is table.Blame.DEPENDENCY:
            await self.close()
        # Whether they are committed is unknown, for all of them alike. `check` makes the connection again.
        return Answers({message.msg_id: failure for message in messages})

    async def _call(
        self, statement: sql.Composed, words: Words, claims: Sequence[Written]
    ) -> Answers | _Failed | Outcome:
        """The answers, or the failure of the whole call; an Outcome where there was none to make."""
        assert self._connection is not None
        array = f"[{','.join(text for _, text in claims)}]"
        try:
            async with bounded(self._call_seconds):
                if not await self._survives(array):
                    return self._unwritable()
                cursor = await self._connection.execute(statement, (Jsonb(array, dumps=str),))
                rows = await cursor.fetchall()
        except TimeoutError:
            await self.close()
            return _Failed(QUERY_CANCELED, "no answer in time")
        except psycopg.Error as error:
            return _Failed(error.sqlstate, message_of(error))
        by_claim = {claim_id: (word, receipt) for claim_id, word, receipt in rows}
        answers = Answers()
        for message, _ in claims:
            word, receipt = by_claim.get(str(message.claim_id), (_LEFT_OUT, None))
            if word is _LEFT_OUT:
                outcome = table.left_out("the ledger")
            else:
                outcome = reported(table.of_word(word, words), [message], receipt or "")
            answers.outcomes[message.msg_id] = outcome
            if receipt is not None and receipt != "null" and outcome.result is table.Result.COMMITTED:
                answers.additions[message.msg_id] = Addition(receipt).bounded(MAX_RECEIPT_BYTES)
            elif word == "duplicate":
                log.debug("committed before, and no receipt comes with it", extra=message.for_log())
        return answers

    async def _survives(self, claims: str) -> bool:
        """Whether the ledger's encoding has every character. Asked first: the call could fail so for other reasons."""
        assert self._connection is not None
        assert self._signature is not None
        if claims.isascii() or self._signature.encoding in _NOT_CONVERTED:
            return True
        try:
            row = await (await self._connection.execute(_SURVIVES_CONVERSION, (claims, claims.encode()))).fetchone()
        except psycopg.DataError as error:
            if error.sqlstate in NO_SUCH_CHARACTER:
                return False
            raise
        return bool(row and row[0])

    def _unwritable(self) -> Outcome:
        """A dead letter at once: no retry can succeed."""
        assert self._signature is not None
        encoding = self._signature.encoding
        return Outcome(
            table.Result.DEAD,
            kind=table.DECIDED_BY_BRIDGE,
            reason=f"the ledger's database has the encoding {encoding}, which lacks a character of this claim "
            "(user, request, seats, payload or validation): move the ledger to a database in UTF8, then replay",
        )


def _is_committed(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.result is table.Result.COMMITTED


def _at(moment: float, answer: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """The same answers, with the moment at which the call ended. Most of them are one and the same object."""
    different = {id(outcome): outcome for outcome in answer.values()}
    known = {number: replace(outcome, at=moment) for number, outcome in different.items()}
    return {msg_id: known[id(outcome)] for msg_id, outcome in answer.items()}
