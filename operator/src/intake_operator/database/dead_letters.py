"""Dead letters in DB1, over a connection of one's own and with the rights of the role that may."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from intake_operator.model.letters import DeadLetter
from intake_operator.postgres.connection import in_time, to_database

STATEMENT_TIMEOUT: Final = "20s"
# Seconds; frozen, DB1 does not keep to its own.
CALL_TIMEOUT: Final = 25.0

_LIST: Final = (
    "SELECT msg_id, claim_id, user_id, slot_no, label, resource_id, request_id, state, failures, reason, last_error,"
    " dead_at, claimed_at FROM intake.dead_letters(%s, %s, %s, %s)"
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
    return [DeadLetter(*row) for row in await _rows(connection, _LIST, pool, most, after, None)]


async def named(connection: AsyncConnection, pool: str, ids: Sequence[int]) -> list[DeadLetter]:
    """Those of these ids that are dead letters."""
    return [DeadLetter(*row) for row in await _rows(connection, _LIST, pool, len(ids), 0, list(ids))]


async def replay(connection: AsyncConnection, pool: str, ids: Sequence[int], actor: str, reason: str) -> set[int]:
    """Back on the queue; the ids that were dead letters until now."""
    done = await _rows(connection, "SELECT intake.replay(%s, %s, %s, %s)", pool, list(ids), actor, reason)
    return {row[0] for row in done}


async def discard(
    connection: AsyncConnection, pool: str, ids: Sequence[int], who: tuple[str, str], evidence: str
) -> set[int]:
    """Archived as voided, slots free; the ids that were dead letters until now. `who` is actor and reason."""
    done = await _rows(connection, "SELECT intake.discard(%s, %s, %s, %s, %s)", pool, list(ids), *who, evidence)
    return {row[0] for row in done}


async def audit(connection: AsyncConnection, pool: str, most: int, before: int | None) -> list[dict[str, Any]]:
    """What people did by hand, the latest first."""
    query = "SELECT id, at, action, actor, reason, detail FROM intake.audit_log(%s, %s, %s)"
    return [_entry(*row) for row in await _rows(connection, query, pool, most, before)]


async def _rows(connection: AsyncConnection, query: LiteralString, *arguments: object) -> list[TupleRow]:
    async with in_time(CALL_TIMEOUT):
        return await (await connection.execute(query, arguments)).fetchall()


def _entry(number: int, at: datetime, action: str, actor: str, reason: str, detail: object) -> dict[str, Any]:
    return {"id": number, "at": at.isoformat(), "action": action, "actor": actor, "reason": reason, "detail": detail}
