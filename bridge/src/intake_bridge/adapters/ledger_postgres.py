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
from intake_bridge.domain.message import Messages, State, anonymous
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.ports import Gate, Offer, TargetDownError, UriSource

# A ledger call is cancelled after this. The lease is renewed meanwhile.
_CALL_SECONDS = 30.0

# The functions that a call with one jsonb could mean; as PostgreSQL looks for them where no schema is given.
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

# Asked as a function, because a pooler need not pass on what the server reports.
_ENCODING: Final = "SELECT pg_catalog.getdatabaseencoding()"
# Whether a text comes back as it was: a few characters of the Japanese and Chinese encodings become others, or bytes
# that the server itself refuses to read.
_KEEPS: Final = "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
# In these nothing is converted.
_HOLD_ALL: Final = frozenset({"UTF8", "SQL_ASCII"})

_SEVERITY = [table.Blame.CLAIM, table.Blame.SUSPECT, table.Blame.TARGET]

type Words = dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class Signature:
    """How the ledger can be called; found out at each connect."""

    function: sql.Identifier
    set_based: bool
    returns_void: bool
    voider: sql.Identifier | None
    encoding: str

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What it can do beyond the least."""
        found = {
            Offer.BATCH: self.set_based,
            Offer.OUTCOMES: not self.returns_void,
            Offer.VOID: self.voider is not None,
        }
        return tuple(offer for offer, there in found.items() if there)


@dataclass(frozen=True, slots=True)
class _Found:
    """A function as the catalog has it."""

    form: str
    set_based: bool
    returns: str
    allowed: bool


class PostgresLedger:
    """The function as a ledger, over one connection that is made again after each failure."""

    # The ledger itself decides each claim's fate by its first insert: nothing has to be marked here.
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
        """What was found at the last connect; nothing while there is none."""
        return () if self._signature is None else self._signature.offers

    async def check(self) -> None:
        """Connect if need be, and find the function."""
        if self._connection is not None and not self._connection.closed and self._signature is not None:
            return
        await self.close()
        try:
            self._connection = await connect(await self._uri(), **self._kwargs)
            async with bounded(self._call_seconds):
                self._signature = await self._look(self._connection)
        except TimeoutError as error:
            await self.close()
            raise TargetDownError("connects, and then gives no answer in time") from error
        except (psycopg.Error, OSError) as error:
            await self.close()
            raise TargetDownError(f"{one_line(error)}") from error
        except TargetDownError:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection; the next check makes a new one."""
        connection, self._connection, self._signature = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def commit(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """Commit the batch; a row whose data the ledger refuses is found by halving and fails alone."""
        if self._signature is None:
            return {}
        call = _set_call if self._signature.set_based else _scalar_call
        words = {"": table.LEDGER_WORDS["committed"]} if self._signature.returns_void else table.LEDGER_WORDS
        return await self._halving(call(self._signature.function), words, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """Have the ledger promise that it will never commit these.

        A ledger without `void_claim` cannot. Then our word alone frees the slot of a claim that was never marked
        `validated`, because nothing else is ever committed. Another one may have been committed by a worker that has
        lost its lease, or may be this instant: all that such a ledger can be asked for is the sale.
        """
        if self._signature is None:
            return {}
        if self._signature.voider is None:
            ours = replace(table.VOID_WORDS["voided"], kind=table.OURS)
            never = {each.msg_id: ours for each in messages if each.state is State.QUEUED}
            return never | await self.commit([each for each in messages if each.msg_id not in never], gate)
        return await self._halving(_scalar_call(self._signature.voider), table.VOID_WORDS, messages, gate)

    async def _look(self, connection: AsyncConnection[Any]) -> Signature:
        *schema, name = self._name.split(".")
        scalar, plural, voider = (sql.Identifier(*schema, each) for each in (name, f"{name}s", "void_claim"))
        one = await self._look_up(connection, schema, name)
        signature = f"{self._name}(payload jsonb)"
        if one and not one.allowed:
            raise TargetDownError(f"no permission to execute {signature}")
        if one and (one.set_based or one.returns not in {"text", "void"}):
            raise TargetDownError(f"{signature} must return text (an outcome) or void, and returns {one.returns}")
        many = await self._look_up(connection, schema, f"{name}s")
        set_based = bool(many and many.set_based and many.allowed)
        if not one and not set_based:
            raise TargetDownError(f"function {signature} does not exist or is not on the search_path")
        void = await self._look_up(connection, schema, "void_claim")
        if void and not void.allowed:
            raise TargetDownError("no permission to execute void_claim(payload jsonb)")
        encoding = await (await connection.execute(_ENCODING)).fetchone()
        return Signature(
            function=plural if set_based else scalar,
            set_based=set_based,
            returns_void=not set_based and one is not None and one.returns == "void",
            voider=voider if void and not void.set_based and void.returns == "text" else None,
            encoding=str(encoding[0]) if encoding else "",
        )

    @staticmethod
    async def _look_up(connection: AsyncConnection[Any], schema: list[str], name: str) -> _Found | None:
        cursor = await connection.execute(_LOOK_UP, {"name": name, "schema": "".join(schema)})
        found = [_Found(*row) for row in await cursor.fetchall()]
        if len(found) > 1:
            raise TargetDownError(
                f"ambiguous: {len(found)} functions {name} can be called with one jsonb, and there must be one: "
                + ", ".join(each.form for each in found)
            )
        return found[0] if found else None

    async def _halving(
        self, statement: sql.Composed, words: Words, messages: Messages, gate: Gate
    ) -> dict[int, Outcome]:
        """One statement; if it fails for a row's sake, each half by itself. What the gate stops is left out."""
        held = [message for message in messages if gate.holds(message)]
        if not held or self._connection is None:
            return {}
        clock = asyncio.get_running_loop().time
        started = clock()
        answer = await self._call(statement, words, held)
        seconds = clock() - started
        if not isinstance(answer, Outcome):
            # The worst last: a ledger that speaks nonsense for one claim is not well because it spoke for another.
            *others, worst = sorted(set(answer.values()), key=lambda each: _SEVERITY.index(each.blame))
            for outcome in others:
                gate.told(outcome)
            gate.told(worst, seconds)
            return _at(clock(), answer)
        failure = answer
        if failure.blame is not table.Blame.CLAIM:
            gate.told(failure, seconds)
            if failure.blame is table.Blame.TARGET:
                await self.close()
            # Committed or not: unknown, and the same for all of them. The lost connection is made again by `check`.
            return {message.msg_id: failure for message in held}
        if len(held) == 1:
            gate.told(failure, seconds)
            return _at(clock(), {held[0].msg_id: failure})
        middle = len(held) // 2
        first = await self._halving(statement, words, held[:middle], gate)
        return first | await self._halving(statement, words, held[middle:], gate)

    async def _call(self, statement: sql.Composed, words: Words, messages: Messages) -> dict[int, Outcome] | Outcome:
        assert self._connection is not None
        # As it is, without escapes: those of other databases than UTF8 know few of them, or none.
        payload = json.dumps([message.payload() for message in messages], ensure_ascii=False)
        try:
            async with bounded(self._call_seconds):
                if not await self._holds(payload):
                    return self._unwritable()
                cursor = await self._connection.execute(statement, (Jsonb(payload, dumps=str),))
                rows = await cursor.fetchall()
        except TimeoutError:
            await self.close()
            return table.of_sqlstate(QUERY_CANCELED, "no answer in time")
        except psycopg.Error as error:
            return table.of_sqlstate(error.sqlstate, anonymous(one_line(error), messages))
        said = {str(claim_id): word for claim_id, word in rows}
        return {
            message.msg_id: table.of_word(said[str(message.claim_id)], words)
            if str(message.claim_id) in said
            else table.silent("the ledger")
            for message in messages
        }

    async def _holds(self, payload: str) -> bool:
        """Whether the ledger's encoding has every character. Asked before the call, which might fail so by itself."""
        assert self._connection is not None
        assert self._signature is not None
        if payload.isascii() or self._signature.encoding in _HOLD_ALL:
            return True
        try:
            row = await (await self._connection.execute(_KEEPS, (payload, payload.encode()))).fetchone()
        except psycopg.DataError as error:
            if error.sqlstate in NO_SUCH_CHARACTER:
                return False
            raise
        return bool(row and row[0])

    def _unwritable(self) -> Outcome:
        """No try will ever succeed, so it is not tried again: the claim ends here, and says why."""
        assert self._signature is not None
        encoding = self._signature.encoding
        return Outcome(
            table.Result.DEAD,
            kind=table.OURS,
            reason=f"the ledger's database has the encoding {encoding}, which has not every character of this claim "
            "(user or request): move the ledger to a database in UTF8, then replay",
        )


def _at(moment: float, answer: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """The same answers, each with the moment at which the call ended. Most of them are one and the same object."""
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
