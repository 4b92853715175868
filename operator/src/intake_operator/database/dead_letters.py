"""Reads, replays and discards the dead letters in DB1, and reads the audit of that.

A connection must have the rights of `bridge`, to read also of `monitor`, to read payloads of the owner. Every call
raises psycopg.Error, or TimeoutError after CALL_TIMEOUT.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from intake_shared.claims import Seat
from intake_shared.connections import bounded
from psycopg import AsyncConnection
from psycopg.rows import class_row, kwargs_row, scalar_row
from psycopg.types.json import set_json_loads

from intake_operator.model.audit import AuditEntry
from intake_operator.model.dead_letters import Content, DeadLetter, Discarding

# Seconds. A frozen DB1 does not keep to its own limit.
CALL_TIMEOUT: Final = 25.0
# Python converts no longer ones.
_MOST_DIGITS: Final = 4000

_LIST: Final = (
    "SELECT %s::text AS pool_id, msg_id AS id, claim_id, user_id, seats, request_id, state, failures, reason,"
    " last_error, dead_at, claimed_at FROM intake.dead_letters(%s, %s, %s, %s)"
)


async def page(connection: AsyncConnection, pool: str, most: int, after: int) -> list[DeadLetter]:
    """At most `most` dead letters with ids above `after`, oldest first."""
    return await _list(connection, pool, most, after, None)


async def with_ids(connection: AsyncConnection, pool: str, ids: Sequence[int]) -> list[DeadLetter]:
    """Those of these ids that are dead letters."""
    return await _list(connection, pool, len(ids), 0, list(ids))


async def contents(
    connection: AsyncConnection, pool: str, ids: Sequence[int], actor: str, reason: str
) -> list[Content]:
    """Payload and validation of those of these ids that are dead letters. The audit has who reads them, and why."""
    query = "SELECT msg_id AS id, payload, validation FROM intake.dead_letter_payloads(%s, %s, %s, %s)"
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(Content)) as cursor:
        set_json_loads(_loads, cursor)
        return await (await cursor.execute(query, (pool, list(ids), actor, reason))).fetchall()


def _loads(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """What a jsonb holds and Python does not is no reason to keep a claim: a number as a text, a deep nesting not."""
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float)
    except RecursionError:
        return {"truncated": True}


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


async def replay(connection: AsyncConnection, pool: str, ids: Sequence[int], actor: str, reason: str) -> set[int]:
    """Put dead letters back on the queue; the ids that were dead letters until now."""
    return await _moved(connection, "SELECT intake.replay(%s, %s, %s, %s)", pool, list(ids), actor, reason)


async def discard(
    connection: AsyncConnection, pool: str, ids: Sequence[int], discarding: Discarding, evidence: str
) -> set[int]:
    """Archive dead letters as voided; the ids that were dead letters until now.

    That frees all slots of their claims. Those of conflicts are withheld, unless it says otherwise.
    """
    query = "SELECT intake.discard(%s, %s, %s, %s, %s, %s)"
    how = discarding.actor, discarding.reason, evidence, discarding.return_conflicts
    return await _moved(connection, query, pool, list(ids), *how)


async def audit(connection: AsyncConnection, pool: str, most: int, before: int | None) -> list[AuditEntry]:
    """At most `most` entries with ids below `before` (None: all), the latest first."""
    query = "SELECT id, at, action, actor, reason, detail FROM intake.audit_log(%s, %s, %s)"
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(AuditEntry)) as cursor:
        return await (await cursor.execute(query, (pool, most, before))).fetchall()


async def _list(
    connection: AsyncConnection, pool: str, most: int, after: int, ids: list[int] | None
) -> list[DeadLetter]:
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=kwargs_row(_letter)) as cursor:
        return await (await cursor.execute(_LIST, (pool, pool, most, after, ids))).fetchall()


def _letter(*, seats: Sequence[Mapping[str, Any]], **columns: Any) -> DeadLetter:
    return DeadLetter(seats=tuple(Seat.read(seat) for seat in seats), **columns)


async def _moved(connection: AsyncConnection, query: LiteralString, *arguments: object) -> set[int]:
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=scalar_row) as cursor:
        return set(await (await cursor.execute(query, arguments)).fetchall())
