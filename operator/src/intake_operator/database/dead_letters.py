"""Dead letters in DB1, over a connection of one's own and with the rights of the role that may."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, LiteralString

from intake_shared.connections import bounded
from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

from intake_operator.database.connection import to_database
from intake_operator.model.audit import AuditEntry
from intake_operator.model.dead_letters import DeadLetter

STATEMENT_TIMEOUT: Final = "20s"
# Seconds; frozen, DB1 does not keep to its own.
CALL_TIMEOUT: Final = 25.0

_LIST: Final = (
    "SELECT %s::text AS pool_id, msg_id AS id, claim_id, user_id, slot_no, resource_id, request_id, state, failures,"
    " reason, last_error, dead_at, claimed_at FROM intake.dead_letters(%s, %s, %s, %s)"
)


@asynccontextmanager
async def visit(
    host: str, password: str, role: str, statement_timeout: str = STATEMENT_TIMEOUT
) -> AsyncIterator[AsyncConnection]:
    """DB1 as one of its roles. Apart from the operator's own connection, which may be seeding for minutes."""
    async with await to_database(host, password, statement_timeout, role) as connection:
        yield connection


async def page(connection: AsyncConnection, pool: str, most: int, after: int) -> list[DeadLetter]:
    """Some of the dead letters, oldest first."""
    return await _list(connection, pool, most, after, None)


async def named(connection: AsyncConnection, pool: str, ids: Sequence[int]) -> list[DeadLetter]:
    """Those of these ids that are dead letters."""
    return await _list(connection, pool, len(ids), 0, list(ids))


async def replay(connection: AsyncConnection, pool: str, ids: Sequence[int], actor: str, reason: str) -> set[int]:
    """Back on the queue; the ids that were dead letters until now."""
    done = await _rows(connection, "SELECT intake.replay(%s, %s, %s, %s)", pool, list(ids), actor, reason)
    return {row[0] for row in done}


async def discard(
    connection: AsyncConnection, pool: str, ids: Sequence[int], actor: str, reason: str, evidence: str
) -> set[int]:
    """Archived as voided, slots free; the ids that were dead letters until now."""
    query = "SELECT intake.discard(%s, %s, %s, %s, %s)"
    done = await _rows(connection, query, pool, list(ids), actor, reason, evidence)
    return {row[0] for row in done}


async def audit(connection: AsyncConnection, pool: str, most: int, before: int | None) -> list[AuditEntry]:
    """What people did by hand, the latest first."""
    query = "SELECT id, at, action, actor, reason, detail FROM intake.audit_log(%s, %s, %s)"
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(AuditEntry)) as cursor:
        return await (await cursor.execute(query, (pool, most, before))).fetchall()


async def _list(
    connection: AsyncConnection, pool: str, most: int, after: int, ids: list[int] | None
) -> list[DeadLetter]:
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return await (await cursor.execute(_LIST, (pool, pool, most, after, ids))).fetchall()


async def _rows(connection: AsyncConnection, query: LiteralString, *arguments: object) -> list[TupleRow]:
    async with bounded(CALL_TIMEOUT):
        return await (await connection.execute(query, arguments)).fetchall()
