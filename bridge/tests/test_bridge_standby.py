"""DB1 with a synchronous standby: a bridge does not act on what only the primary has."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from intake_bridge.adapters.database import Database
from intake_bridge.ports import DatabaseUnavailableError

from tests.standby import Pair

POOL = "drop"
CONFIG = {"inventorySize": 10, "visibilityTimeoutSeconds": 1}


async def test_i8_a_read_whose_wait_for_the_standby_is_cancelled_was_not_answered() -> None:
    """Its message would go to the ledger, and after a failover its slot would be sold again."""
    with Pair() as pair:
        now = datetime.now(UTC)
        times = {"opensAt": str(now - timedelta(hours=1)), "closesAt": str(now + timedelta(hours=1))}
        with psycopg.connect(pair.uri(), autocommit=True) as owner:
            # What a role is not sent, no client can heed.
            owner.execute("ALTER ROLE bridge SET client_min_messages = error")
            owner.execute("SELECT intake.configure(%s, %s)", (POOL, json.dumps(CONFIG | times)))
            owner.execute("SELECT intake.seed(%s)", (POOL,))
            owner.execute("SELECT intake.claim_resource(%s, 'ann', 'r1')", (POOL,))

        async def uri() -> str:
            return pair.uri("bridge")

        database = Database(POOL, uri, "test")
        await database.open()
        try:
            before = await database.configuration()
            pair.deafen()
            read = asyncio.create_task(database.read_batch("worker", 5))
            await asyncio.to_thread(lambda: pair.cancel(pair.wait_until_waiting(read.done)))
            with pytest.raises(DatabaseUnavailableError, match="standby"):
                await read
            housekeeping = asyncio.create_task(housekeep(database))
            await asyncio.to_thread(lambda: pair.cancel(pair.wait_until_waiting(housekeeping.done)))
            with pytest.raises(DatabaseUnavailableError, match="standby"):
                await housekeeping
            # The next call comes over another connection, and what is answered then counts.
            assert await database.configuration() == before
            await asyncio.to_thread(pair.hear)
            while not (messages := await database.read_batch("worker", 5)):
                pass  # until the lease of the first read has run out
            assert [message.user_id for message in messages] == ["ann"]
        finally:
            await database.close()


async def housekeep(database: Database) -> None:
    """What the housekeeper writes, over its own connection."""
    async with database.session() as session:
        await session.record_metrics()
