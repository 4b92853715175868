"""A ledger behind a PostgreSQL function: one statement for a batch, an outcome for each claim."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from intake_bridge.adapters.postgres import CONNECTION, UriSource, readable
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.message import Messages, State
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.ports import Gate, Offer, TargetDownError
from intake_bridge.redaction import one_line

# A ledger call is cancelled after this. The lease is renewed meanwhile.
_CALL_SECONDS = 30.0

# What the function looks like: oid is null where it does not exist (or not on the search_path).
_LOOK_UP = """
SELECT p.oid IS NOT NULL AS found, p.proretset, p.prorettype::regtype::text AS returns,
       has_function_privilege(p.oid, 'EXECUTE') AS allowed
FROM (SELECT to_regprocedure(%s) AS name) wanted LEFT JOIN pg_proc p ON p.oid = wanted.name
"""

_SEVERITY = [table.Blame.CLAIM, table.Blame.SUSPECT, table.Blame.TARGET]

type Words = dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class Signature:
    """How the ledger can be called; found out at each connect."""

    function: sql.Identifier
    set_based: bool
    returns_void: bool
    voider: sql.Identifier | None

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What it can do beyond the least."""
        found = {
            Offer.BATCH: self.set_based,
            Offer.OUTCOMES: not self.returns_void,
            Offer.VOID: self.voider is not None,
        }
        return tuple(offer for offer, there in found.items() if there)


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
        self._uri = readable(uri)
        self._kwargs: dict[str, Any] = CONNECTION | {
            "application_name": application_name,
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
            self._connection = await AsyncConnection.connect(await self._uri(), **self._kwargs)
            async with self._in_time():
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
            never = {each.msg_id: table.VOID_WORDS["voided"] for each in messages if each.state is State.QUEUED}
            return never | await self.commit([each for each in messages if each.msg_id not in never], gate)
        return await self._halving(_scalar_call(self._signature.voider), table.VOID_WORDS, messages, gate)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        # Twice: a cancelled psycopg call waits for the server to agree, and a frozen server never does.
        async with asyncio.timeout(self._call_seconds + 1), asyncio.timeout(self._call_seconds):
            yield

    async def _look(self, connection: AsyncConnection[Any]) -> Signature:
        *schema, name = self._name.split(".")
        scalar = sql.Identifier(*schema, name)
        found, retset, returns, allowed = await self._look_up(connection, scalar)
        signature = f"{self._name}(payload jsonb)"
        if found and not allowed:
            raise TargetDownError(f"no permission to execute {signature}")
        if found and (retset or returns not in {"text", "void"}):
            raise TargetDownError(f"{signature} must return text (an outcome) or void, and returns {returns}")
        plural = sql.Identifier(*schema, f"{name}s")
        set_found, set_retset, _, set_allowed = await self._look_up(connection, plural)
        set_based = bool(set_found and set_retset and set_allowed)
        if not found and not set_based:
            raise TargetDownError(f"function {signature} does not exist or is not on the search_path")
        voider = sql.Identifier(*schema, "void_claim")
        void_found, void_retset, void_returns, void_allowed = await self._look_up(connection, voider)
        if void_found and not void_allowed:
            raise TargetDownError("no permission to execute void_claim(payload jsonb)")
        return Signature(
            function=plural if set_based else scalar,
            set_based=set_based,
            returns_void=not set_based and returns == "void",
            voider=voider if void_found and not void_retset and void_returns == "text" else None,
        )

    @staticmethod
    async def _look_up(connection: AsyncConnection[Any], function: sql.Identifier) -> tuple[bool, bool, str, bool]:
        cursor = await connection.execute(_LOOK_UP, (f"{function.as_string(connection)}(jsonb)",))
        row = await cursor.fetchone()
        assert row is not None
        return row[0], bool(row[1]), row[2], bool(row[3])

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
            return answer
        failure = answer
        if failure.blame is not table.Blame.CLAIM:
            gate.told(failure, seconds)
            if failure.blame is table.Blame.TARGET:
                await self.close()
            # Committed or not: unknown, and the same for all of them. The lost connection is made again by `check`.
            return {message.msg_id: failure for message in held}
        if len(held) == 1:
            gate.told(failure, seconds)
            return {held[0].msg_id: failure}
        middle = len(held) // 2
        first = await self._halving(statement, words, held[:middle], gate)
        return first | await self._halving(statement, words, held[middle:], gate)

    async def _call(self, statement: sql.Composed, words: Words, messages: Messages) -> dict[int, Outcome] | Outcome:
        assert self._connection is not None
        payload = Jsonb([message.item() for message in messages])
        try:
            async with self._in_time():
                cursor = await self._connection.execute(statement, (payload,))
                rows = await cursor.fetchall()
        except TimeoutError:
            await self.close()
            return table.of_sqlstate("57014", "no answer in time")
        except psycopg.Error as error:
            return table.of_sqlstate(error.sqlstate, f"{one_line(error)}")
        said = {str(claim_id): word for claim_id, word in rows}
        return {
            message.msg_id: table.of_word(said[str(message.claim_id)], words)
            if str(message.claim_id) in said
            else table.silent("the ledger")
            for message in messages
        }


def _set_call(function: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT claim_id, outcome FROM {}(%s)").format(function)


def _scalar_call(function: sql.Identifier) -> sql.Composed:
    # A function that returns void gives NULL or an empty string, depending on its language.
    return sql.SQL(
        "SELECT each ->> 'claim_id', coalesce({}(each)::text, '') FROM jsonb_array_elements(%s) AS each"
    ).format(function)
