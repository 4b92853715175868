"""Withholds slots from sale in DB1, returns and lists them. Only the owner of DB1 may.

Every call raises psycopg.Error, or TimeoutError after CALL_TIMEOUT.
"""

from collections.abc import Sequence
from typing import LiteralString

from intake_shared.connections import bounded
from psycopg import AsyncConnection
from psycopg.rows import class_row

from intake_operator.database.dead_letters import CALL_TIMEOUT
from intake_operator.model.withheld import WithheldSlot

type Outcomes = dict[int, str]
"""What became of each slot."""


async def page(connection: AsyncConnection, pool: str, most: int, after: int) -> list[WithheldSlot]:
    """At most `most` withheld slots behind the slot `after`, in their order."""
    query = (
        "SELECT slot_no AS slot, resource_id, label, withheld_at, actor, reason FROM intake.withheld_slots(%s, %s, %s)"
    )
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(WithheldSlot)) as cursor:
        return await (await cursor.execute(query, (pool, after, most))).fetchall()


async def find(connection: AsyncConnection, pool: str, seats: Sequence[str]) -> dict[str, int | None]:
    """The slot of each seat, by its label or resource id; None where the pool has no such seat."""
    async with bounded(CALL_TIMEOUT):
        query = "SELECT seat, slot_no FROM intake.find_slots(%s, %s::text[])"
        found = await connection.execute(query, (pool, list(seats)))
        return dict(await found.fetchall())


async def withhold(connection: AsyncConnection, pool: str, slots: Sequence[int], actor: str, reason: str) -> Outcomes:
    """Take slots off sale: withheld, already, claimed or unknown."""
    query = "SELECT slot_no, outcome FROM intake.withhold_slots(%s, %s::bigint[], %s, %s)"
    return await _changed(connection, query, pool, list(slots), actor, reason)


async def give_back(connection: AsyncConnection, pool: str, slots: Sequence[int], actor: str, reason: str) -> Outcomes:
    """Put withheld slots on sale again: returned, not_withheld or unknown."""
    query = "SELECT slot_no, outcome FROM intake.return_slots(%s, %s::bigint[], %s, %s)"
    return await _changed(connection, query, pool, list(slots), actor, reason)


async def _changed(connection: AsyncConnection, query: LiteralString, *arguments: object) -> Outcomes:
    async with bounded(CALL_TIMEOUT):
        return dict(await (await connection.execute(query, arguments)).fetchall())
