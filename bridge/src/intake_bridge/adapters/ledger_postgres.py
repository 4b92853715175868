"""A ledger behind a PostgreSQL function: one statement for a batch, an outcome for each claim."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from intake_shared.connections import bounded, connect
from intake_shared.redaction import one_line
from intake_shared.sqlstates import NO_SUCH_CHARACTER, QUERY_CANCELED
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from intake_bridge.domain import outcomes as table
from intake_bridge.domain.health import Offer
from intake_bridge.domain.message import Messages, State, anonymous
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.ports import DependencyDownError, Gate, UriSource

# A ledger call is cancelled after this. The lease is renewed meanwhile.
_CALL_SECONDS = 30.0

# The functions that a call with one jsonb could mean, as PostgreSQL resolves the name where no schema is given.
_LOOK_UP: Final = """
SELECT p.oid::pg_catalog.regprocedure::text AS form, p.proretset AS set_based,
       CASE p.prorettype WHEN 'pg_catalog.text'::pg_catalog.regtype THEN 'text'
           WHEN 'pg_catalog.void'::pg_catalog.regtype THEN 'void'
           ELSE pg_catalog.format_type(p.prorettype, NULL) END AS returns, -- the session may quote its answer
       pg_catalog.has_function_privilege(p.oid, 'EXECUTE') AS allowed
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = %(name)s AND p.prokind = 'f'
    AND (n.nspname = %(schema)s OR (%(schema)s = '' AND pg_catalog.pg_function_is_visible(p.oid)))
    AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
    AND p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype
ORDER BY 1
"""

# Asked with a function, because a pooler need not pass on the parameters that the server reports.
_ENCODING: Final = "SELECT pg_catalog.getdatabaseencoding()"
# Whether a text survives: a few characters of the Japanese and Chinese encodings become others, or bytes that the
# server itself refuses to read.
_SURVIVES_CONVERSION: Final = (
    "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
)
# In these nothing is converted.
_NOT_CONVERTED: Final = frozenset({"UTF8", "SQL_ASCII"})

_SEVERITY = [table.Blame.CLAIM, table.Blame.SUSPECT, table.Blame.DEPENDENCY]

type Words = dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class Signature:
    """How the ledger can be called. Looked up at each connect."""

    function: sql.Identifier
    set_based: bool
    returns_void: bool
    void_function: sql.Identifier | None
    encoding: str

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What it can do beyond the least that the contract asks for."""
        found = {
            Offer.BATCH: self.set_based,
            Offer.OUTCOMES: not self.returns_void,
            Offer.VOID: self.void_function is not None,
        }
        return tuple(offer for offer, is_there in found.items() if is_there)


@dataclass(frozen=True, slots=True)
class _Found:
    """A function as the catalog has it."""

    form: str
    set_based: bool
    returns: str
    allowed: bool


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
    ) -> None:
        self._name = function
        self._call_seconds = call_seconds
        self._uri = uri
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
            self._connection = await connect(await self._uri(), **self._kwargs)
            async with bounded(self._call_seconds):
                self._signature = await self._find_functions(self._connection)
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

    async def commit(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """Commit in one statement. A row whose data the ledger refuses is found by halving, and fails alone."""
        if self._signature is None:
            return {}
        call = _set_call if self._signature.set_based else _scalar_call
        words = {"": table.LEDGER_WORDS["committed"]} if self._signature.returns_void else table.LEDGER_WORDS
        return await self._halving(call(self._signature.function), words, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """Have the ledger promise that it will never commit these.

        A ledger without `void_claim` cannot. Then a claim that was never marked `validated` is voided without a call,
        because only validated claims are committed. A validated one may have been committed, or be under way, by a
        worker that has lost its lease: such a ledger can only be asked to commit it.
        """
        if self._signature is None:
            return {}
        if self._signature.void_function is None:
            voided = replace(table.VOID_WORDS["voided"], kind=table.DECIDED_BY_BRIDGE)
            never_sent = {each.msg_id: voided for each in messages if each.state is State.QUEUED}
            return never_sent | await self.commit([each for each in messages if each.msg_id not in never_sent], gate)
        return await self._halving(_scalar_call(self._signature.void_function), table.VOID_WORDS, messages, gate)

    async def _find_functions(self, connection: AsyncConnection[Any]) -> Signature:
        *schema, name = self._name.split(".")
        scalar, plural, void_function = (sql.Identifier(*schema, each) for each in (name, f"{name}s", "void_claim"))
        one = await self._look_up(connection, schema, name)
        signature = f"{self._name}(payload jsonb)"
        if one and not one.allowed:
            raise DependencyDownError(f"no permission to execute {signature}")
        if one and (one.set_based or one.returns not in {"text", "void"}):
            raise DependencyDownError(f"{signature} must return text (an outcome) or void, and returns {one.returns}")
        many = await self._look_up(connection, schema, f"{name}s")
        set_based = bool(many and many.set_based and many.allowed)
        if not one and not set_based:
            raise DependencyDownError(f"function {signature} does not exist or is not on the search_path")
        void = await self._look_up(connection, schema, "void_claim")
        if void and not void.allowed:
            raise DependencyDownError("no permission to execute void_claim(payload jsonb)")
        encoding = await (await connection.execute(_ENCODING)).fetchone()
        return Signature(
            function=plural if set_based else scalar,
            set_based=set_based,
            returns_void=not set_based and one is not None and one.returns == "void",
            void_function=void_function if void and not void.set_based and void.returns == "text" else None,
            encoding=str(encoding[0]) if encoding else "",
        )

    @staticmethod
    async def _look_up(connection: AsyncConnection[Any], schema: list[str], name: str) -> _Found | None:
        cursor = await connection.execute(_LOOK_UP, {"name": name, "schema": "".join(schema)})
        found = [_Found(*row) for row in await cursor.fetchall()]
        if len(found) > 1:
            raise DependencyDownError(
                f"ambiguous: {len(found)} functions {name} can be called with one jsonb, and there must be one: "
                + ", ".join(each.form for each in found)
            )
        return found[0] if found else None

    async def _halving(
        self, statement: sql.Composed, words: Words, messages: Messages, gate: Gate
    ) -> dict[int, Outcome]:
        """One statement; if it fails because of a row, one for each half. What the gate stops is left out."""
        ours = [message for message in messages if gate.may_continue(message)]
        if not ours or self._connection is None:
            return {}
        clock = asyncio.get_running_loop().time
        started = clock()
        answer = await self._call(statement, words, ours)
        seconds = clock() - started
        if not isinstance(answer, Outcome):
            # The worst last: one good answer does not close the breaker of a ledger that also gives a wrong one.
            *others, worst = sorted(set(answer.values()), key=lambda each: _SEVERITY.index(each.blame))
            for outcome in others:
                gate.record(outcome)
            gate.record(worst, seconds)
            return _at(clock(), answer)
        failure = answer
        if failure.blame is not table.Blame.CLAIM:
            gate.record(failure, seconds)
            if failure.blame is table.Blame.DEPENDENCY:
                await self.close()
            # Whether they are committed is unknown, for all of them alike. `check` makes the connection again.
            return {message.msg_id: failure for message in ours}
        if len(ours) == 1:
            gate.record(failure, seconds)
            return _at(clock(), {ours[0].msg_id: failure})
        middle = len(ours) // 2
        first = await self._halving(statement, words, ours[:middle], gate)
        return first | await self._halving(statement, words, ours[middle:], gate)

    async def _call(self, statement: sql.Composed, words: Words, messages: Messages) -> dict[int, Outcome] | Outcome:
        assert self._connection is not None
        # Without escapes: databases in other encodings than UTF8 accept few \u escapes, or none.
        payload = json.dumps([message.payload() for message in messages], ensure_ascii=False)
        try:
            async with bounded(self._call_seconds):
                if not await self._survives(payload):
                    return self._unwritable()
                cursor = await self._connection.execute(statement, (Jsonb(payload, dumps=str),))
                rows = await cursor.fetchall()
        except TimeoutError:
            await self.close()
            return table.of_sqlstate(QUERY_CANCELED, "no answer in time")
        except psycopg.Error as error:
            return table.of_sqlstate(error.sqlstate, anonymous(one_line(error), messages))
        words_by_claim = {str(claim_id): word for claim_id, word in rows}
        return {
            message.msg_id: table.of_word(words_by_claim[str(message.claim_id)], words)
            if str(message.claim_id) in words_by_claim
            else table.left_out("the ledger")
            for message in messages
        }

    async def _survives(self, payload: str) -> bool:
        """Whether the ledger's encoding has every character. Asked first: the call could fail so for other reasons."""
        assert self._connection is not None
        assert self._signature is not None
        if payload.isascii() or self._signature.encoding in _NOT_CONVERTED:
            return True
        try:
            row = await (await self._connection.execute(_SURVIVES_CONVERSION, (payload, payload.encode()))).fetchone()
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
            "(user or request): move the ledger to a database in UTF8, then replay",
        )


def _at(moment: float, answer: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """The same answers, with the moment at which the call ended. Most of them are one and the same object."""
    different = {id(outcome): outcome for outcome in answer.values()}
    known = {number: replace(outcome, at=moment) for number, outcome in different.items()}
    return {msg_id: known[id(outcome)] for msg_id, outcome in answer.items()}


def _set_call(function: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT claim_id, outcome FROM {}(%s)").format(function)


def _scalar_call(function: sql.Identifier) -> sql.Composed:
    # A function that returns void gives NULL or an empty string, depending on its language.
    return sql.SQL(
        "SELECT each ->> 'claim_id', coalesce({}(each)::text, '') FROM jsonb_array_elements(%s) AS each"
    ).format(function)
