"""DB1: the functions of schema intake, by name."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from intake_shared import uris
from intake_shared.confirmed import ConfirmedConnection
from intake_shared.connections import PINNED, SETTINGS
from intake_shared.redaction import one_line
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import ValidationError

from intake_bridge.domain.config import Configuration
from intake_bridge.domain.health import WorkerHealth
from intake_bridge.domain.message import Message, Messages, State
from intake_bridge.domain.outcomes import Result
from intake_bridge.domain.tokens import TokenAnswer
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError, GiveBack, UriSource

# Calls that may be under way at once: for each of three batches (batch_runner.MOST_BATCHES) one change and one renewal
# of its leases, and one of the control loop. Neither a read nor a call for tokens comes on top: with three batches
# under way nothing is read, and under a rate limit only one batch is.
_CONNECTIONS = 7
_WAIT_FOR_CONNECTION_SECONDS = 5.0
# No call of the bridge takes so long in a DB1 that is well, and a statement that hangs would outlive its lease.
_STATEMENT_TIMEOUT = "-c statement_timeout=20s -c idle_in_transaction_session_timeout=20s"

# JSON as text: it is handed on, and never parsed here.
_READ: Final = (
    "SELECT msg_id, read_ct, claim_id, user_id, request_id, claimed_at, jsonb_array_length(seats) AS slots, "
    "seats::text AS seats, payload::text AS payload, validation::text AS validation, state, failures, release, "
    "headers ->> 'traceparent' AS traceparent "
)
_BARE_SEAT: Final = re.compile(r'\{("slot_no": \d+), ("resource_id": (?:null|"[0-9a-f-]{36}"))\}')
_WHOLE_SEAT: Final = r'{"label": null, \1, "attributes": null, \2}'
_MARK_VALIDATED: Final = (
    "SELECT m.msg_id, g.data::text FROM intake.mark_validated(%s, %s::bigint[], %s::int[], %s::jsonb[]) m (msg_id)"
    " JOIN unnest(%s::bigint[], %s::jsonb[]) g (msg_id, data) USING (msg_id)"
)

# Besides every OperationalError: connection lost, shutting down, starting up, read-only after a failover.
_TRANSIENT = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, psycopg.errors.ReadOnlySqlTransaction)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise DatabaseUnavailableError or DatabaseRefusedError for psycopg's errors.

    Without their cause: a traceback would show its DETAIL and CONTEXT, which quote what was sent.
    """
    try:
        yield
    except _TRANSIENT as error:
        raise DatabaseUnavailableError(one_line(error)) from None
    except psycopg.Error as error:
        raise DatabaseRefusedError(one_line(error)) from None


def whole_seats(seats: str) -> str:
    """The seats with label and attributes, which DB1 leaves out of a seat that has neither, as the contract has them.

    `seats` is the text of a jsonb, so the order of keys and the spaces are known, and a quote inside a string is
    escaped. Parsing would cost ten times as much, and digits of numbers in attributes.
    """
    return _BARE_SEAT.sub(_WHOLE_SEAT, seats)


class DatabaseSession:
    """One connection to DB1 with the calls of the housekeeper. Raises what ports.Queue raises."""

    def __init__(self, connection: AsyncConnection[Any], pool_id: str) -> None:
        self._connection = connection
        self._pool_id = pool_id

    async def try_lock(self) -> bool:
        """Take the housekeeper lock of this pool, if no other worker has it. It lasts as long as the connection."""
        return bool(await self._value("SELECT pg_try_advisory_lock(hashtextextended('intake.housekeeper/' || %s, 0))"))

    async def record_metrics(self) -> None:
        """Add a row to `intake.engine_metrics`."""
        await self._value("SELECT intake.record_metrics(%s)")

    async def housekeep(self) -> int:
        """Rebuild after a crash, and recycle burnt slot numbers. Returns how many were recycled."""
        return int(await self._value("SELECT intake.housekeep(%s)"))

    async def _value(self, statement: LiteralString) -> Any:  # noqa: ANN401 - whatever the function returns
        async with translated():
            cursor = await self._connection.execute(statement, (self._pool_id,))
            row = await cursor.fetchone()
        return None if row is None else row[0]


class Database:
    """The ports Queue, TokenBucket and Control over a connection pool that reconnects by itself."""

    def __init__(self, pool_id: str, uri: UriSource, application_name: str) -> None:
        self._pool_id = pool_id
        self._given = uri
        self._kwargs = SETTINGS | {"application_name": application_name, "options": PINNED, "autocommit": True}
        self._pool = AsyncConnectionPool(
            self._uri,  # asked again for each new connection: a rotated secret needs no restart
            connection_class=ConfirmedConnection,
            kwargs=self._kwargs | {"options": f"{PINNED} {_STATEMENT_TIMEOUT}"},
            min_size=1,
            max_size=_CONNECTIONS,
            open=False,
            timeout=_WAIT_FOR_CONNECTION_SECONDS,
            # The pool tries for this long to reconnect; the next call makes it try again.
            reconnect_timeout=10,
            name="db1",
        )

    async def open(self) -> None:
        """Start to connect. Returns at once, whether DB1 can be reached or not."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2)

    async def read_batch(self, worker: str, limit: int) -> list[Message]:
        """`intake.read_batch`."""
        return await self._lease(_READ + "FROM intake.read_batch(%s, %s, %s)", worker, limit)

    async def read_releases(self, worker: str, limit: int) -> list[Message]:
        """`intake.read_releases`."""
        return await self._lease(_READ + "FROM intake.read_releases(%s, %s, %s)", worker, limit)

    async def read_quarantined(self, worker: str) -> list[Message]:
        """`intake.read_quarantined`."""
        rows = await self._rows(_READ + "FROM intake.read_quarantined(%s, %s)", (self._pool_id, worker))
        return [self._message(row) for row in rows]

    async def mark_validated(self, messages: Messages, data: Sequence[str | None]) -> dict[int, str | None]:
        """`intake.mark_validated`."""
        added, ids = list(data), [each.msg_id for each in messages]
        return dict(await self._fenced(_MARK_VALIDATED, messages, added, ids, added))

    async def mark_committing(self, messages: Messages) -> set[int]:
        """`intake.mark_committing`."""
        return await self._change("SELECT * FROM intake.mark_committing(%s, %s::bigint[], %s::int[])", messages)

    async def acknowledge(
        self, messages: Messages, outcomes: Sequence[Result], receipts: Sequence[str | None]
    ) -> set[int]:
        """`intake.acknowledge`."""
        return await self._change(
            "SELECT * FROM intake.acknowledge(%s, %s::bigint[], %s::int[], %s::text[], %s::jsonb[])",
            messages,
            [outcome.value for outcome in outcomes],
            list(receipts),
        )

    async def give_back(self, returns: Sequence[GiveBack]) -> set[int]:
        """`intake.give_back`."""
        return await self._change(
            "SELECT * FROM intake.give_back(%s, %s::bigint[], %s::int[], %s::float8[], %s::text[])",
            [each.message for each in returns],
            [each.delay_seconds for each in returns],
            [each.error for each in returns],
        )

    async def dead_letter(self, messages: Messages, reasons: Sequence[str], conflicts: Sequence[bool]) -> set[int]:
        """`intake.dead_letter`."""
        return await self._change(
            "SELECT * FROM intake.dead_letter(%s, %s::bigint[], %s::int[], %s::text[], %s::boolean[])",
            messages,
            list(reasons),
            list(conflicts),
        )

    async def extend(self, messages: Messages) -> set[int]:
        """`intake.extend`."""
        return await self._change("SELECT * FROM intake.extend(%s, %s::bigint[], %s::int[])", messages)

    async def configuration(self) -> Configuration:
        """`intake.configuration`. DatabaseRefusedError also for a configuration that this bridge cannot read."""
        rows = await self._rows("SELECT intake.configuration(%s) AS configuration", (self._pool_id,))
        try:
            return Configuration.model_validate(rows[0]["configuration"])
        except ValidationError as error:
            raise DatabaseRefusedError(f"the configuration of the pool cannot be read: {one_line(error)}") from error

    async def lease_tokens(self, wanted: int) -> TokenAnswer:
        """`intake.lease_tokens`."""
        statement: LiteralString = "SELECT lease, granted, wait_seconds, lease_seconds FROM intake.lease_tokens(%s, %s)"
        (row,) = await self._rows(statement, (self._pool_id, wanted))
        return TokenAnswer(**row)

    async def return_tokens(self, lease: UUID, finished: int) -> bool:
        """`intake.return_tokens`."""
        rows = await self._rows("SELECT intake.return_tokens(%s, %s, %s) AS known", (self._pool_id, lease, finished))
        return bool(rows[0]["known"])

    async def report_worker(self, worker: str, acting: Configuration, batch_size: int, health: WorkerHealth) -> None:
        """`intake.report_worker`."""
        report = health.model_dump(mode="json", exclude_none=True)
        await self._rows(
            "SELECT intake.report_worker(%s, %s, %s, %s, %s)",
            (self._pool_id, worker, acting.generation, batch_size, Jsonb(report)),
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[DatabaseSession]:
        """A connection outside the pool, for the housekeeper lock. A rebuild is slow: no statement timeout."""
        try:
            connection = await ConfirmedConnection.connect(await self._uri(), **self._kwargs)
        except (psycopg.Error, OSError) as error:
            raise DatabaseUnavailableError(one_line(error)) from error
        async with connection:
            yield DatabaseSession(connection, self._pool_id)

    async def _uri(self) -> str:
        """DB1's URI. Refused here if libpq cannot parse it, because libpq's error would quote the password."""
        uri = await self._given()
        uris.read(uri)
        return uri

    async def _lease(self, statement: LiteralString, worker: str, limit: int) -> list[Message]:
        rows = await self._rows(statement, (self._pool_id, worker, limit))
        return [self._message(row) for row in rows]

    def _message(self, row: dict[str, Any]) -> Message:
        row["state"], row["seats"] = State(row["state"]), whole_seats(row["seats"])
        return Message(pool_id=self._pool_id, **row)

    async def _change(self, statement: LiteralString, messages: Messages, *arrays: list[Any]) -> set[int]:
        return {row[0] for row in await self._fenced(statement, messages, *arrays)}

    async def _fenced(self, statement: LiteralString, messages: Messages, *arrays: list[Any]) -> list[tuple[Any, ...]]:
        fence = ([each.msg_id for each in messages], [each.read_ct for each in messages])
        async with self._translated(), self._pool.connection() as connection:
            cursor = await connection.execute(statement, (self._pool_id, *fence, *arrays))
            return await cursor.fetchall()

    async def _rows(self, statement: LiteralString, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        async with self._translated(), self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(statement, parameters)
            return await cursor.fetchall()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            async with translated():
                yield
        except DatabaseUnavailableError:
            # After a restart of DB1 every pooled connection is dead: one check instead of one failure for each.
            await self._pool.check()
            raise
