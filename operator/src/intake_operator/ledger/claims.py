"""Reads the claims of a pool out of DB1 and out of the ledger: page by page, in short statements."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from intake_operator.ledger.connection import call_timeout
from intake_operator.model.consistency import DatabaseClaim, LedgerClaim

# Rows of one read: a few milliseconds of either database.
DATABASE_PAGE: Final = 5000
LEDGER_PAGE: Final = 1000
# Bytes of a page of the ledger: 1000 claims of 100 slots, with the longest names that there are, have five megabytes.
LONGEST_PAGE: Final = 8 * 1024 * 1024
# The types are named on both sides: what comes is read in binary, which no DateStyle and no TimeZone changes.
LEDGER_CLAIMS: Final = """
    SELECT claim_id::uuid, state::text, user_id::text, request_id::text, claimed_at::timestamptz, slot_nos::bigint[],
        resource_ids::uuid[]
    FROM ledger_claims(%s::text, %s::uuid, %s::int)
"""
# By name: a DB1 of a later version may have more columns.
SETTLED_CLAIMS: Final = """
    SELECT key, claim_id, state, user_id, slot_nos, resource_ids FROM intake.settled_claims(%s, %s, %s)
"""
CLAIMS_AT: Final = "SELECT key, claim_id, state, user_id, slot_nos, resource_ids FROM intake.claims_at(%s, %s)"


class PageOrderError(Exception):
    """The ledger's pages do not follow each other, so reading them would never end."""


async def settled_claims(database: AsyncConnection, pool: str) -> AsyncIterator[list[DatabaseClaim]]:
    """The claims that have ended in DB1, page by page, in the order of their keys."""
    after: int | None = None
    while claims := await _database_claims(database, SETTLED_CLAIMS, pool, after, DATABASE_PAGE):
        yield claims
        after = claims[-1].key


async def settled_claim(database: AsyncConnection, pool: str, key: int) -> DatabaseClaim:
    """The claim with this key, which has ended in DB1."""
    (claim,) = await _database_claims(database, SETTLED_CLAIMS, pool, key - 1, 1)
    return claim


async def claims_at(database: AsyncConnection, pool: str, claim_ids: Sequence[UUID]) -> list[DatabaseClaim]:
    """Where these claims stand in DB1; those that it does not know are left out."""
    return await _database_claims(database, CLAIMS_AT, pool, list(claim_ids))


async def _database_claims(database: AsyncConnection, query: LiteralString, *arguments: object) -> list[DatabaseClaim]:
    async with database.cursor(row_factory=class_row(DatabaseClaim)) as cursor:
        return await (await cursor.execute(query, arguments)).fetchall()


async def ledger_claims(
    ledger: AsyncConnection, pool: str, clock: Callable[[], float]
) -> AsyncIterator[list[LedgerClaim]]:
    """What the ledger has of a pool, page by page. `clock` is in seconds.

    Between two pages the ledger rests as long as the page took, so that at most half of what one session can ask of it
    is used. Raises psycopg.Error, OSError or PageOrderError.
    """
    after = None
    while True:
        began = clock()
        async with call_timeout():
            found = await ledger.execute(LEDGER_CLAIMS, (pool, after, LEDGER_PAGE), binary=True)
            rows = await found.fetchall()
        took = clock() - began
        if not rows:
            return
        ids = [after] if after else []
        ids += [row[0] for row in rows]
        if any(later <= earlier for earlier, later in pairwise(ids)):
            raise PageOrderError(
                "ledger_claims must return claims in the order of claim_id, each behind the one it is given"
            )
        yield [
            LedgerClaim(claim_id, state, user_id, request_id, claimed_at, tuple(slots or ()), tuple(resources or ()))
            for claim_id, state, user_id, request_id, claimed_at, slots, resources in rows
        ]
        after = rows[-1][0]
        # The caller's work on the page counts as rest.
        await asyncio.sleep(max(0.0, 2 * took - (clock() - began)))
