"""Compares DB1 with the ledger, claim by claim. decide/compare.py has the rules, and why the reads have this order."""

from collections.abc import Callable
from typing import Final

from psycopg import AsyncConnection

from intake_operator.decide.compare import NAMED, Comparison
from intake_operator.ledger.claims import claims_at, ledger_claims, settled_claim, settled_claims

INVARIANTS: Final = "SELECT invariant, detail FROM intake.reconcile(%s) LIMIT %s"


async def compare(
    database: AsyncConnection, ledger: AsyncConnection, pool: str, *, voids: bool, clock: Callable[[], float]
) -> Comparison:
    """Compare a pool. `voids`: the ledger has `void_claim`, so that it knows of voided claims. `clock` is in seconds.

    Raises psycopg.Error, OSError or PageOrderError.
    """
    comparison = Comparison(voids=voids)
    async for ended in settled_claims(database, pool):
        comparison.ended(ended)
    async for page in ledger_claims(ledger, pool, clock):
        found = await claims_at(database, pool, [claim.claim_id for claim in page])
        comparison.page(page, {claim.claim_id: claim for claim in found})
    for number, key in enumerate(comparison.missing()):
        if number >= NAMED:
            comparison.broken("I2", "and another claim that the ledger does not have")
            continue
        comparison.absent(await settled_claim(database, pool, key))
    violations = await database.execute(INVARIANTS, (pool, NAMED))
    for invariant, detail in await violations.fetchall():
        comparison.broken(invariant, detail)
    return comparison
