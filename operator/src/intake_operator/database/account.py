"""Where the claims of a pool are, by DB1's own count."""

from psycopg import AsyncConnection
from psycopg.rows import class_row, scalar_row

from intake_operator.model.proof import Account, DatabaseAccount


async def read_account(connection: AsyncConnection, pool: str) -> Account:
    """What the ledger must have as well. Raises psycopg.Error."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute("SELECT committed, voided, slots, digest FROM intake.proof(%s)", (pool,))
        account = await cursor.fetchone()
    assert account is not None
    return account


async def read_database_account(connection: AsyncConnection, pool: str) -> DatabaseAccount:
    """Where every claim of a sealed pool is. Raises psycopg.Error."""
    found = await connection.execute(
        "SELECT claims, released, expired, held, queued, dead, committed, voided, slots, digest FROM intake.proof(%s)",
        (pool,),
    )
    row = await found.fetchone()
    assert row is not None
    claims, released, expired, held, queued, dead_letters, *ended = row
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("SELECT invariant || ': ' || detail FROM intake.reconcile(%s) LIMIT 20", (pool,))
        violations = tuple(await cursor.fetchall())
    return DatabaseAccount(claims, released, expired, held, queued, dead_letters, Account(*ended), violations)
