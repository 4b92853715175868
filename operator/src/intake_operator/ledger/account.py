"""What the ledger has of a pool, by its own `ledger_proof`."""

from typing import Final

import psycopg
from intake_shared.connections import bounded

from intake_operator.addresses import Address
from intake_operator.ledger.connection import connect
from intake_operator.ledger.functions import offers
from intake_operator.model.proof import Account

# Seconds to connect and to read a whole pool: five for a million slots, and ten million are the most.
TIMEOUT: Final = 120.0
# As numbers, whatever type the ledger counts in.
PROOF: Final = "SELECT committed::bigint, voided::bigint, slots::bigint, digest::bigint FROM ledger_proof(%s)"


async def read_account(ledger: Address, pool: str) -> Account | None:
    """The ledger's own account of a pool; None when it has no `ledger_proof`, which is optional.

    Raises psycopg.Error or OSError when the ledger cannot be read, has more than one `ledger_proof`, or answers with
    anything but one row of four numbers.
    """
    async with bounded(TIMEOUT), connect(ledger) as connection:
        if not await offers(connection, "ledger_proof"):
            return None
        rows = await (await connection.execute(PROOF, (pool,))).fetchall()
    # Not "none offered", which would let a pool be sold twice.
    if len(rows) != 1 or None in rows[0]:
        raise psycopg.DataError(
            f"ledger_proof must return one row of four numbers for any pool, and returned "
            f"{'a NULL' if len(rows) == 1 else f'{len(rows)} rows'} for this one"
        )
    return Account(*rows[0])


def difference(ledger: Account, database: Account) -> str:
    """How two accounts differ, as a sentence."""
    slots = f"; the ledger has sold {ledger.slots} slots, the database {database.slots}"
    return (
        f"the ledger has {ledger.committed} committed, {ledger.voided} voided;"
        f" the database {database.committed} and {database.voided}"
        + ("" if ledger.slots == database.slots else slots)
        + ("" if ledger.digest == database.digest else "; the claims are not the same ones")
    )
