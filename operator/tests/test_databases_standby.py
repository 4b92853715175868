"""DB1 with a synchronous standby: a wait that was cancelled is an error for the operator."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from intake_operator.database.connection import to_database

from tests.standby import Pair


async def test_a_seal_whose_wait_for_the_standby_is_cancelled_was_not_answered() -> None:
    """After a failover the pool would be open again, and its teardown begun."""
    with Pair() as pair:
        now = datetime.now(UTC)
        config = f'{{"inventorySize": 1, "opensAt": "{now}", "closesAt": "{now + timedelta(hours=1)}"}}'
        with psycopg.connect(pair.uri(), autocommit=True) as owner:
            owner.execute("ALTER DATABASE intake SET client_min_messages = error")
            owner.execute("SELECT intake.configure('drop', %s)", (config,))
            owner.execute("SELECT intake.seed('drop')")
        host = str(pair.primary.directory / "socket")
        async with await to_database(host, "", "20s") as connection:
            pair.deafen()
            seal = asyncio.create_task(connection.execute("SELECT intake.seal('drop', 'over')"))
            await asyncio.to_thread(lambda: pair.cancel(pair.wait_until_waiting(seal.done)))
            with pytest.raises(psycopg.OperationalError, match="standby"):
                await seal
            assert connection.closed
        async with await to_database(host, "", "20s") as connection:
            # Asked again, it waits again, and tells when the standby knows.
            seal = asyncio.create_task(connection.execute("SELECT intake.seal('drop', 'over')"))
            assert await asyncio.to_thread(pair.wait_until_waiting, seal.done)
            await asyncio.to_thread(pair.hear)
            await seal
            async with connection.transaction():
                await connection.execute("SELECT intake.configuration('drop')")
