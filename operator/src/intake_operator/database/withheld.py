"""Withholds slots from sale in DB1, and returns them. A connection must have the rights of the owner.

Every call raises psycopg.Error, or TimeoutError after CALL_TIMEOUT.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, LiteralString

from intake_shared.connections import bounded
from psycopg import AsyncConnection
from psycopg.rows import class_row

from intake_operator.model.audit import AuditNote
from intake_operator.model.withheld import WithheldSlot

# DB1 waits 30 s for the claims that are running, and says so.
STATEMENT_TIMEOUT: Final = "45s"
# Seconds. A frozen DB1 does not keep to its own limit.
CALL_TIMEOUT: Final = 50.0

WITHHELD: Final = ("withheld", "already", "claimed", "unknown")
RETURNED: Final = ("returned", "not_withheld", "unknown")

type Change = Callable[[AsyncConnection, str, Sequence[int], AuditNote], Awaitable[Outcomes]]
"""`withhold` or `give_back`."""
type Outcomes = list[tuple[int, str]]
"""Slots, each with one word of WITHHELD or RETURNED."""


async def withhold(connection: AsyncConnection, pool: str, slots: Sequence[int], note: AuditNote) -> Outcomes:
    """Take slots off sale. Those that a claim has stay with it."""
    return await _change(
        connection, "SELECT slot_no, outcome FROM intake.withhold_slots(%s, %s, %s, %s)", pool, slots, note
    )


async def give_back(connection: AsyncConnection, pool: str, slots: Sequence[int], note: AuditNote) -> Outcomes:
    """Put withheld slots on sale again."""
    return await _change(
        connection, "SELECT slot_no, outcome FROM intake.return_slots(%s, %s, %s, %s)", pool, slots, note
    )


async def page(connection: AsyncConnection, pool: str, most: int, after: int) -> list[WithheldSlot]:
    """At most `most` withheld slots with numbers above `after`, in their order."""
    query = "SELECT * FROM intake.withheld_slots(%s, %s, %s)"
    async with bounded(CALL_TIMEOUT), connection.cursor(row_factory=class_row(WithheldSlot)) as cursor:
        return await (await cursor.execute(query, (pool, after, most))).fetchall()


async def find(connection: AsyncConnection, pool: str, seats: Sequence[str]) -> dict[str, int | None]:
    """The slots of seats, each named by its label or its resource id; None where the pool has no such seat."""
    async with bounded(CALL_TIMEOUT):
        found = await connection.execute("SELECT seat, slot_no FROM intake.find_slots(%s, %s)", (pool, list(seats)))
        return dict(await found.fetchall())


async def _change(
    connection: AsyncConnection, query: LiteralString, pool: str, slots: Sequence[int], note: AuditNote
) -> Outcomes:
    async with bounded(CALL_TIMEOUT):
        found = await connection.execute(query, (pool, list(slots), note.actor, note.reason))
        return await found.fetchall()
