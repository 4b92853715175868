"""Claimers that take every connection they can get, and the programs that must connect beside them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote, urlparse

import psycopg
import pytest
from intake_operator.children.database import settings
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.decide import connections
from intake_operator.model.spec import Database, IntakeEventSpec
from psycopg import AsyncConnection
from sale import POOL, Sale, open_sale

from tests.postgres import INTAKE_SQL, PostgresServer, install_ledger

UID: Final = "11111111-2222"
CLOSED: Final = datetime.now(UTC) - timedelta(seconds=1)
SPEC: Final = IntakeEventSpec.model_validate(
    {
        "pool": POOL,
        "inventorySize": 1000,
        "window": {"opensAt": (CLOSED - timedelta(hours=1)).isoformat(), "closesAt": CLOSED.isoformat()},
        "commitTarget": {"postgres": {"secretRef": {"name": "ledger"}}},
        "bridge": {"maxReplicas": 1},
    }
)


@pytest.fixture
def small() -> Iterator[PostgresServer]:
    """DB1 as the operator starts it, with as few connections as one bridge allows."""
    with PostgresServer(settings(Database(parameters={"max_connections": "60"}))) as running:
        yield running


@pytest.fixture
async def databases(small: PostgresServer) -> AsyncIterator[Databases]:
    """The operator, which has made DB1 and keeps room in it."""
    opened = Databases(load(INTAKE_SQL))
    small.create_database("intake")
    await opened.observe(UID, POOL, host(small), "")
    await opened.migrate(UID)
    await opened.limit_claimers(UID, connections.for_others(SPEC))
    with psycopg.connect(small.uri("intake"), autocommit=True) as owner:
        for role in ("claimer", "bridge", "monitor"):
            owner.execute(psycopg.sql.SQL("ALTER ROLE {} LOGIN").format(psycopg.sql.Identifier(role)))
    yield opened
    await opened.close_all()


@pytest.fixture
async def sale(small: PostgresServer, server: PostgresServer, databases: Databases) -> AsyncIterator[Sale]:
    """A pool on sale; its ledger is on another server."""
    ledger = server.create_database("crowd_ledger")
    install_ledger(ledger)
    async with open_sale(small.uri("intake"), ledger, 1000) as sale:
        yield sale
    server.drop_database("crowd_ledger")


def host(server: PostgresServer) -> str:
    """Where it listens."""
    return unquote(urlparse(server.uri()).query.removeprefix("host="))


class Crowd:
    """Sessions that are opened as long as the server lets them, and kept."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._held = AsyncExitStack()
        self.refusal = ""

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    async def take(self) -> int:
        """Every connection that is to be had; how many it were."""
        for taken in range(200):
            try:
                connection = await AsyncConnection.connect(self._uri, autocommit=True)
            except psycopg.OperationalError as error:
                self.refusal = str(error)
                return taken
            self._held.push_async_callback(connection.close)
        raise AssertionError("no connection was refused")


async def cut(sale: Sale) -> None:
    """Whatever bridges have is gone at once."""
    await sale.intake.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bridge'")


async def test_bridge_monitor_and_operator_connect_while_claimers_take_every_connection(
    sale: Sale, small: PostgresServer, databases: Databases
) -> None:
    async with Crowd(small.uri("intake", "claimer")) as crowd:
        assert await crowd.take() == connections.LEAST
        assert "too many connections for role" in crowd.refusal
        await sale.claim(50)
        async with sale.worker():
            await sale.until_drained()
            await cut(sale)
            assert await crowd.take() == 0, "what a bridge has lost is not the crowd's"
            await sale.claim(50)
            await sale.until_drained()
            async with await AsyncConnection.connect(small.uri("intake", "monitor")) as monitor:
                await monitor.execute("SELECT intake.engine_status(%s)", (POOL,))
            await databases.close(UID)
            seen = await databases.observe(UID, POOL, host(small), "")
        assert seen.reachable
        assert seen.connections
        assert (seen.connections.limit, seen.connections.claimers) == (connections.LEAST, connections.LEAST)
        assert seen.connections.claimers_at_limit
        assert not seen.connections.exhausted
    await sale.check()
    assert len(sale.claims) == 100


async def test_claimers_that_stay_connected_after_the_close_leave_room_for_the_drain(
    sale: Sale, small: PostgresServer, databases: Databases
) -> None:
    async with Crowd(small.uri("intake", "claimer")) as crowd:
        await crowd.take()
        await sale.claim(50)
        await sale.configure(closesAt=CLOSED.isoformat())
        await databases.seal(UID, POOL, "the window closed")
        async with sale.worker("one"), sale.worker("two"):
            await sale.until_drained()
        await sale.check()


async def test_a_second_role_with_the_rights_of_claimers_leaves_what_the_server_keeps(
    sale: Sale, small: PostgresServer, databases: Databases
) -> None:
    """The limit is the role's own. What the server keeps back is kept from every role."""
    await sale.intake.execute("CREATE ROLE shop LOGIN IN ROLE claimer")
    async with Crowd(small.uri("intake", "shop")) as crowd:
        assert await crowd.take() > connections.LEAST
        assert "connection slots are reserved" in crowd.refusal
        await sale.claim(50)
        async with sale.worker():
            await sale.until_drained()
            await cut(sale)
            assert await crowd.take() == 0
            await sale.claim(50)
            await sale.until_drained()
        seen = await databases.observe(UID, POOL, host(small), "")
        assert seen.reachable
    await sale.check()


async def test_a_claimer_cannot_lift_its_limit(sale: Sale, small: PostgresServer) -> None:
    async with await AsyncConnection.connect(small.uri("intake", "claimer"), autocommit=True) as claimer:
        for statement in ("ALTER ROLE claimer CONNECTION LIMIT -1", "SELECT intake.limit_claimers(-1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await claimer.execute(statement)


async def test_more_bridges_leave_claimers_less_at_once(
    sale: Sale, small: PostgresServer, databases: Databases
) -> None:
    before = await databases.observe(UID, POOL, host(small), "")
    assert before.connections
    await databases.limit_claimers(UID, 0)
    after = await databases.observe(UID, POOL, host(small), "")
    assert after.connections
    assert after.connections.limit == after.connections.common > before.connections.limit
