"""Recovers a DB1 whose volume was lost from what the ledger has of the pool: all of it, or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from intake_operator.addresses import Address
from intake_operator.database import account
from intake_operator.ledger.account import difference, read_account
from intake_operator.ledger.claims import LONGEST_PAGE, ledger_claims
from intake_operator.ledger.connection import connect
from intake_operator.ledger.functions import offers
from intake_operator.model.consistency import LedgerClaim
from intake_operator.model.proof import Account

CREATE: Final = "create it as docs/ledger.md says (sql/ledger/0001_ledger.sql is the reference), then recover again"


class RecoveryError(Exception):
    """The ledger cannot tell what it has, or contradicts itself. DB1 is as it was before."""


@dataclass(frozen=True)
class Restored:
    """What DB1 has again."""

    committed: int
    """Claims."""
    voided: int
    """Claims."""
    slots: int
    """Slots that are sold."""


async def recover(database: AsyncConnection, address: Address, pool: str, clock: Callable[[], float]) -> Restored:
    """Restore a pool that was configured (and stocked) and never seeded. `clock` is in seconds.

    Raises RecoveryError, PageOrderError, psycopg.Error or OSError; then DB1 is as it was before.
    """
    # One transaction of DB1: half of a pool restored would sell the other half again.
    async with connect(address, LONGEST_PAGE) as ledger, database.transaction():
        if not await offers(ledger, "ledger_claims"):
            raise RecoveryError(f"the ledger offers no ledger_claims, from which DB1 is rebuilt: {CREATE}")
        async for page in ledger_claims(ledger, pool, clock):
            await database.execute("SELECT intake.restore(%s, %s)", (pool, Jsonb(as_json(page))))
        await database.execute("SELECT intake.end_restore(%s)", (pool,))
        restored = await account.read_account(database, pool)
        # After the last page: a bridge that still runs may have committed a claim before a page that was read.
        return checked(restored, await read_account(address, pool))


def as_json(page: Sequence[LedgerClaim]) -> list[dict[str, Any]]:
    """A page of claims as `intake.restore` takes it."""
    return [
        {
            "claim_id": str(claim.claim_id),
            "state": claim.state,
            "user_id": claim.user_id,
            "request_id": claim.request_id,
            "claimed_at": claim.claimed_at.isoformat() if claim.claimed_at else None,
            "slot_nos": claim.slot_nos,
            "resource_ids": [str(resource) if resource else None for resource in claim.resource_ids],
        }
        for claim in page
    ]


def checked(database: Account, ledger: Account | None) -> Restored:
    """What was restored, if the ledger's own account is the same. Raises RecoveryError otherwise."""
    if ledger is None:
        raise RecoveryError(f"the ledger offers no ledger_proof, by which a recovery is checked: {CREATE}")
    if ledger != database:
        raise RecoveryError(
            f"what was read from the ledger is not what it says it has: {difference(ledger, database)}. A bridge was "
            "still committing, or ledger_claims and ledger_proof contradict each other; nothing was kept"
        )
    return Restored(database.committed, database.voided, database.slots)
