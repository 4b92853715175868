"""The user's own rows out of a table or view in any Postgres, a chunk at a time."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from intake_shared.connections import connect
from intake_shared.redaction import one_line
from psycopg import AsyncConnection, sql

from intake_operator import names
from intake_operator.ledger.ledgers import from_elsewhere
from intake_operator.model.inventory import InventoryError, Row, check, invalid, quoted
from intake_operator.reasons import Problem

# Rows in one call of intake.stock: more make it no faster, and this is all that is in memory at a time.
CHUNK: Final = 5_000
# Sorting ten million rows takes a while; a lock on somebody's table must not hold a pass for ever.
STATEMENT_TIMEOUT: Final = "60s"

# For this transaction alone, because a pooler may stand before the table. A label that is a date or a number must be
# the same text in the next look, whatever somebody has set for the role or the server meanwhile.
SETTINGS: Final = f"""
    SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true), set_config('datestyle', 'ISO, YMD', true),
        set_config('intervalstyle', 'postgres', true), set_config('timezone', 'UTC', true),
        set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true)
"""

# Compared byte by byte, because the order of a collation changes with the server it runs on.
ROWS: Final = sql.SQL("""
    SELECT resource_id, label
    FROM (SELECT resource_id::uuid AS resource_id, nullif(label::text, '') AS label FROM {table}) AS seats
    ORDER BY label COLLATE "C", resource_id LIMIT {size}
""")
# The first row that the query above breaks off at, which Postgres tells by its value alone, and of any length.
NO_ID: Final = sql.SQL("""
    SELECT row, label, resource_id
    FROM (SELECT row_number() OVER (ORDER BY label COLLATE "C", resource_id) AS row, label, resource_id
        FROM (SELECT resource_id::text AS resource_id, nullif(label::text, '') AS label FROM {table}) AS seats) AS rows
    WHERE resource_id !~ '^[{{]?([0-9A-Fa-f]{{4}}-?){{7}}[0-9A-Fa-f]{{4}}[}}]?$'
        OR (left(resource_id, 1) = '{{') <> (right(resource_id, 1) = '}}')
    ORDER BY row LIMIT 1
""")
COUNT: Final = sql.SQL("SELECT count(*) FROM (SELECT resource_id, label FROM {table} LIMIT {size}) AS seats")


@dataclass(frozen=True)
class Table:
    """A table (`name` or `schema.name`) behind a connection URI, as an event of this namespace names it."""

    uri: str
    namespace: str
    name: str

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`. Raises InventoryError."""
        async with self._connection() as connection:
            row = await (await connection.execute(self._query(COUNT, size))).fetchone()
        return int(row[0]) if row else 0

    async def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows, counted in the order of label and id. Raises InventoryError."""
        number = 0
        async with self._connection() as connection, connection.cursor("seats", binary=True) as cursor:
            try:
                await cursor.execute(self._query(ROWS, size))
                while rows := await cursor.fetchmany(CHUNK):
                    yield [check(f"row {number + n}", *row) for n, row in enumerate(rows, 1)]
                    number += len(rows)
            except psycopg.errors.InvalidTextRepresentation as error:
                raise await self._unreadable(one_line(error)) from None

    async def _unreadable(self, told: str) -> InventoryError:
        """Which row breaks off the reading, in words by which its owner finds it."""
        async with self._connection() as connection:
            found = await (await connection.execute(self._query(NO_ID, 0))).fetchone()
        if found is None:
            return invalid(told)
        row, label, resource_id = found
        called = "without a label" if label is None else f"with the label {quoted(label)}"
        return invalid(f"row {row}, {called}: {quoted(resource_id)} is not a UUID in the column resource_id")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        try:
            # Never prepared: a pooler may stand before the table.
            async with await connect(
                from_elsewhere(self.uri, self.namespace),
                application_name=names.FIELD_MANAGER,
                prepare_threshold=None,
            ) as connection:
                await connection.set_read_only(True)
                await connection.execute(SETTINGS)
                yield connection
        except psycopg.DataError as error:
            raise invalid(one_line(error)) from error
        except (psycopg.Error, OSError) as error:
            raise InventoryError(Problem.INVENTORY_MISSING, one_line(error)) from error

    def _query(self, query: sql.SQL, size: int) -> sql.Composed:
        return query.format(table=sql.Identifier(*self.name.split(".")), size=sql.Literal(size))
