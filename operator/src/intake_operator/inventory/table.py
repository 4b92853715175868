"""Reads the user's own rows out of a table or view in any PostgreSQL, a chunk at a time."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from intake_shared.connections import bounded
from intake_shared.measured import AnswerTooLongError
from intake_shared.redaction import one_line
from psycopg import AsyncConnection, AsyncServerCursor, sql

from intake_operator.addresses import Address
from intake_operator.model.attributes import MAX_BYTES, name_flaw
from intake_operator.model.inventory import HEADER, InventoryError, Row, check, invalid, quoted
from intake_operator.model.label import LONGEST_READ
from intake_operator.reasons import Problem

# Rows in one call of intake.stock, and in memory at a time. More of them make it hardly faster.
CHUNK: Final = 500
# Bytes of one answer: of a chunk of the longest rows that are fetched, which have 7 400 bytes.
LONGEST_CHUNK: Final = 4 * 1024 * 1024
# Sorting ten million rows takes a while.
STATEMENT_TIMEOUT: Final = "60s"
# Seconds of one call, counted here: what stands behind the URI may keep to no limit.
CALL_TIMEOUT: Final = 65.0
# Characters of a resource_id that are worth reading: a UUID has at most 41, and a message quotes 60.
LONGEST_ID: Final = 64

# For this transaction only, because a pooler may stand before the table. A label that is a date or a number must be
# read as the same text every time, whatever is set for the role or the server.
SETTINGS: Final = f"""
    SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true), set_config('datestyle', 'ISO, YMD', true),
        set_config('intervalstyle', 'postgres', true), set_config('timezone', 'UTC', true),
        set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true)
"""

# The columns that we may read, other than our two.
COLUMNS: Final = """
    SELECT attname FROM pg_catalog.pg_attribute
    WHERE attrelid = pg_catalog.to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%s)
        AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')
    ORDER BY attnum
"""
# COLLATE "C" compares bytes. The order of other collations changes with the server. Of what is too long to be kept only
# enough is fetched to see that.
ROWS: Final = sql.SQL("""
    SELECT seats.resource_id, left(seats.label, {longest_label}), {attributes}
    FROM (
        SELECT * FROM (SELECT {columns} FROM {table}) AS seats
        ORDER BY seats.label, seats.resource_id LIMIT {size}
    ) AS seats
    ORDER BY seats.label, seats.resource_id
""")
# A longer id is cut, which makes no UUID of it: PostgreSQL's error would quote all of it.
ID_AND_LABEL: Final = sql.SQL(
    """left(resource_id::text, {longest_id})::uuid AS resource_id, nullif(label::text, '') COLLATE "C" AS label"""
).format(longest_id=sql.Literal(LONGEST_ID))
ATTRIBUTES: Final = sql.SQL("left((to_jsonb(seats.*) - '{{resource_id,label}}'::text[])::text, {longest})").format(
    longest=sql.Literal(MAX_BYTES + 1)
)
NO_ATTRIBUTES: Final = sql.SQL("NULL::text")
# The first row whose resource_id is not a UUID. ROWS fails there, and PostgreSQL then tells only the value.
NOT_A_UUID: Final = sql.SQL("""
    SELECT row, label, resource_id
    FROM (SELECT row_number() OVER (ORDER BY label COLLATE "C", resource_id) AS row,
            left(label, {longest_label}) AS label, left(resource_id, {longest_id}) AS resource_id
        FROM (SELECT resource_id::text AS resource_id, nullif(label::text, '') AS label FROM {table}) AS seats) AS rows
    WHERE resource_id !~ '^[{{]?([0-9A-Fa-f]{{4}}-?){{7}}[0-9A-Fa-f]{{4}}[}}]?$'
        OR (left(resource_id, 1) = '{{') <> (right(resource_id, 1) = '}}')
    ORDER BY row LIMIT 1
""")
COUNT: Final = sql.SQL("SELECT count(*) FROM (SELECT resource_id, label FROM {table} LIMIT {size}) AS seats")


@dataclass(frozen=True)
class Table:
    """A table (`name` or `schema.name`) in a PostgreSQL of the user.

    Every call connects anew, and raises InventoryError when the table cannot be read, or a call takes longer than
    `call_timeout` seconds.
    """

    address: Address
    name: str
    call_timeout: float = CALL_TIMEOUT

    @property
    def fingerprint(self) -> str:
        """Empty: it would have to be read for it."""
        return ""

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`."""
        async with self._connection() as connection, bounded(self.call_timeout):
            row = await (await connection.execute(self._query(COUNT, size))).fetchone()
        return int(row[0]) if row else 0

    async def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows, in the order of label and id. Raises InventoryError if one cannot be a slot."""
        number = 0
        async with self._connection() as connection:
            cursor = connection.cursor("seats", binary=True)  # closed with its connection, without another call
            try:
                async with bounded(self.call_timeout):
                    await cursor.execute(await self.rows(connection, size))
                while rows := await self._fetch(cursor):
                    yield [check(f"row {number + n}", *row) for n, row in enumerate(rows, 1)]
                    number += len(rows)
            except psycopg.errors.InvalidTextRepresentation as error:
                raise await self._not_a_uuid(one_line(error)) from None
            except AnswerTooLongError as error:
                raise invalid(f"row {number + 1}, or one that is read with it: {error}") from None

    async def _fetch(self, cursor: AsyncServerCursor) -> Sequence[tuple[Any, ...]]:
        async with bounded(self.call_timeout):
            return await cursor.fetchmany(CHUNK)

    async def rows(self, connection: AsyncConnection, size: int) -> sql.Composed:
        """The query for the first `size` rows, with the columns that the table has now. Raises InventoryError."""
        found = await connection.execute(COLUMNS, (self._identifier().as_string(), list(HEADER)))
        names = [str(name) for (name,) in await found.fetchall()]
        for name in names:
            if wrong := name_flaw(name):
                raise invalid(f"its column {quoted(name)} {wrong}; name a view without it, or with another name for it")
        return ROWS.format(
            columns=sql.SQL(", ").join([ID_AND_LABEL, *map(sql.Identifier, names)]),
            attributes=ATTRIBUTES if names else NO_ATTRIBUTES,
            longest_label=sql.Literal(LONGEST_READ + 1),
            table=self._identifier(),
            size=sql.Literal(size),
        )

    async def _not_a_uuid(self, message: str) -> InventoryError:
        """Names the row by its number and label; `message` is what PostgreSQL says of it."""
        query = NOT_A_UUID.format(
            table=self._identifier(),
            longest_label=sql.Literal(LONGEST_READ + 1),
            longest_id=sql.Literal(LONGEST_ID),
        )
        async with self._connection() as connection, bounded(self.call_timeout):
            found = await (await connection.execute(query)).fetchone()
        if found is None:
            return invalid(message)
        row, label, resource_id = found
        labelled = "without a label" if label is None else f"with the label {quoted(label)}"
        return invalid(f"row {row}, {labelled}: {quoted(resource_id)} is not a UUID in the column resource_id")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await self.address.connect(LONGEST_CHUNK)
            try:
                await connection.set_read_only(True)
                async with bounded(self.call_timeout):
                    await connection.execute(SETTINGS)
                yield connection
            finally:
                await connection.close()  # there is nothing to commit, and a commit would have to be waited for
        except TimeoutError as error:
            late = f"no answer within {self.call_timeout:.0f} s"
            raise InventoryError(Problem.INVENTORY_MISSING, late) from error
        except (psycopg.DataError, AnswerTooLongError) as error:
            raise invalid(one_line(error)) from error
        except (psycopg.Error, OSError) as error:
            raise InventoryError(Problem.INVENTORY_MISSING, one_line(error)) from error

    def _query(self, query: sql.SQL, size: int) -> sql.Composed:
        return query.format(table=self._identifier(), size=sql.Literal(size))

    def _identifier(self) -> sql.Identifier:
        return sql.Identifier(*self.name.split("."))
