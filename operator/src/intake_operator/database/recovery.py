"""A DB1 whose volume was lost, made again from what the ledger holds of the pool: all of it, or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from intake_operator.ledger import ledgers
from intake_operator.ledger.compare import read_sales
from intake_operator.model.consistency import Sale
from intake_operator.model.proof import Account

CREATE: Final = "create it as docs/ledger.md says (sql/ledger/0001_ledger.sql is the reference), then recover again"


class RecoveryError(Exception):
    """The ledger cannot tell what it holds, or tells two things. Nothing was kept."""


@dataclass(frozen=True)
class Restored:
    """What DB1 has again: claims, claims, sold slots."""

    committed: int
    voided: int
    slots: int


async def recover(
    database: AsyncConnection, uri: str, namespace: str, pool: str, clock: Callable[[], float]
) -> Restored:
    """Restore a pool that was configured (and stocked) and never seeded. `clock` is in seconds.

    Raises RecoveryError, OrderError, psycopg.Error or OSError; then DB1 is as it was before.
    """
    # One transaction of DB1: half of a pool restored would sell the other half again.
    async with ledgers.visit(uri, namespace) as books, database.transaction():
        if not await ledgers.offers(books, "ledger_claims"):
            raise RecoveryError(f"the ledger offers no ledger_claims, from which DB1 is rebuilt: {CREATE}")
        async for sales in read_sales(books, pool, clock):
            await database.execute("SELECT intake.restore(%s, %s)", (pool, Jsonb(as_page(sales))))
        await database.execute("SELECT intake.end_restore(%s)", (pool,))
        found = await database.execute("SELECT committed, voided, slots, digest FROM intake.proof(%s)", (pool,))
        row = await found.fetchone()
        assert row is not None
        # Asked after the last page: a bridge that is still at work has committed in between, on a page that was read.
        told = await ledgers.account(ledgers.from_elsewhere(uri, namespace), pool)
        return agreed(Account(*row), told)


def as_page(sales: Sequence[Sale]) -> list[dict[str, Any]]:
    """A page of claims as `intake.restore` takes it."""
    return [
        {
            "claim_id": str(sale.claim_id),
            "state": sale.state,
            "user_id": sale.user_id,
            "request_id": sale.request_id,
            "claimed_at": sale.claimed_at.isoformat() if sale.claimed_at else None,
            "slot_nos": sale.slot_nos,
            "resource_ids": [str(resource) if resource else None for resource in sale.resource_ids],
        }
        for sale in sales
    ]


def agreed(ours: Account, told: Account | None) -> Restored:
    """What was restored, if the ledger's own account is the same. Raises RecoveryError otherwise."""
    if told is None:
        raise RecoveryError(f"the ledger offers no ledger_proof, by which a recovery is checked: {CREATE}")
    if told != ours:
        raise RecoveryError(
            f"what was read from the ledger is not what it says it has: {ledgers.difference(told, ours)}. A bridge was "
            "still committing, or ledger_claims and ledger_proof contradict each other; nothing was kept"
        )
    return Restored(ours.committed, ours.voided, ours.slots)
