"""Reads DB1 and the ledger for the comparison: short statements, page by page, and the ledger rests in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Final, LiteralString

from intake_shared.connections import bounded
from psycopg import AsyncConnection
from psycopg.rows import class_row

from intake_operator.decide.compare import NAMED, Comparison
from intake_operator.ledger import ledgers
from intake_operator.model.consistency import DatabaseClaim, Sale

# Rows of one read: a few milliseconds of either database.
DATABASE_PAGE: Final = 5000
LEDGER_PAGE: Final = 1000
# The types are named on both sides: what comes is read in binary, which no DateStyle and no TimeZone changes.
LEDGER_CLAIMS: Final = """
    SELECT claim_id::uuid, state::text, user_id::text, request_id::text, claimed_at::timestamptz, slot_nos::bigint[],
        resource_ids::uuid[]
    FROM ledger_claims(%s::text, %s::uuid, %s::int)
"""
INTERNAL: Final = "SELECT invariant, detail FROM intake.reconcile(%s) LIMIT %s"


class OrderError(Exception):
    """The ledger's pages do not follow each other, and would never end."""


async def compare(
    database: AsyncConnection, books: AsyncConnection, pool: str, *, voids: bool, clock: Callable[[], float]
) -> Comparison:
    """Compare a pool. Raises psycopg.Error, OSError, OrderError. `clock` is in seconds."""
    comparison = Comparison(voids=voids)
    async for ended in _ended(database, pool):
        comparison.ended(ended)
    async for sales in read_sales(books, pool, clock):
        ids = [sale.claim_id for sale in sales]
        found = await _claims(database, "SELECT * FROM intake.claims_at(%s, %s)", pool, ids)
        comparison.page(sales, {claim.claim_id: claim for claim in found})
    for number, key in enumerate(comparison.missing()):
        if number >= NAMED:
            comparison.broken("I2", "and another claim that the ledger does not have")
            continue
        (claim,) = await _claims(database, "SELECT * FROM intake.ended_claims(%s, %s, 1)", pool, key - 1)
        comparison.absent(claim)
    internal = await database.execute(INTERNAL, (pool, NAMED))
    for invariant, detail in await internal.fetchall():
        comparison.broken(invariant, detail)
    return comparison


async def _ended(database: AsyncConnection, pool: str) -> AsyncIterator[list[DatabaseClaim]]:
    after: int | None = None
    while True:
        query = "SELECT * FROM intake.ended_claims(%s, %s, %s)"
        claims = await _claims(database, query, pool, after, DATABASE_PAGE)
        if not claims:
            return
        yield claims
        after = claims[-1].key


async def _claims(database: AsyncConnection, query: LiteralString, *arguments: object) -> list[DatabaseClaim]:
    async with database.cursor(row_factory=class_row(DatabaseClaim)) as cursor:
        return await (await cursor.execute(query, arguments)).fetchall()


async def read_sales(books: AsyncConnection, pool: str, clock: Callable[[], float]) -> AsyncIterator[list[Sale]]:
    """What the ledger has of a pool, page by page. Raises psycopg.Error, OSError, OrderError. `clock` is in seconds."""
    after = None
    while True:
        began = clock()
        async with bounded(ledgers.CALL_TIMEOUT):
            found = await books.execute(LEDGER_CLAIMS, (pool, after, LEDGER_PAGE), binary=True)
            rows = await found.fetchall()
        took = clock() - began
        if not rows:
            return
        ids = [after] if after else []
        ids += [row[0] for row in rows]
        if any(later <= earlier for earlier, later in pairwise(ids)):
            raise OrderError(
                "ledger_claims must return claims in the order of claim_id, each behind the one it is given"
            )
        yield [
            Sale(claim_id, state, user_id, request_id, claimed_at, tuple(slots or ()), tuple(resources or ()))
            for claim_id, state, user_id, request_id, claimed_at, slots, resources in rows
        ]
        after = rows[-1][0]
        # As long as the page took, also while it is worked on: at most half of what one session can ask of the ledger.
        await asyncio.sleep(max(0.0, 2 * took - (clock() - began)))
