"""Every call to a server of somebody else ends, whether that accepts and never answers, or sends a byte now and then.

docs/tenancy.md lists the calls with their bounds.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database import databases as db1
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.inventory.inventories import Inventories
from intake_operator.inventory.table import Table
from intake_operator.kube import client as kube
from intake_operator.ledger import account, connection
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.claims import ledger_claims
from intake_operator.ledger.connection import connect
from intake_operator.ledger.functions import find_function
from intake_operator.ledger.voiding import void
from intake_operator.long_reads import LongReads
from intake_operator.model.inventory import InventoryError
from intake_operator.model.observed import Event
from intake_operator.model.spec import Inventory
from intake_operator.workqueue import Key, WorkQueue
from kubernetes.aio.client import ApiClient, Configuration
from psycopg import sql

from tests.frozen import Answers, Relay
from tests.patience import PATIENCE_SECONDS
from tests.postgres import INTAKE_SQL, PostgresServer, install_ledger

SHORT = 0.5
UID, POOL = "uid", "taylor-la-night-1"
BROKEN = (psycopg.Error, OSError, InventoryError)

pytestmark = pytest.mark.parametrize("answers", [Answers.NEVER, Answers.BYTE_BY_BYTE], ids=lambda each: each.value)


async def ends_badly(call: Awaitable[Any]) -> None:
    """The call ends, with an error that its caller expects."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(BROKEN):
            await call


@pytest.fixture
def books(server: PostgresServer) -> Iterator[None]:
    """A ledger with a table of seats."""
    uri = server.create_database("books")
    install_ledger(uri)
    with psycopg.connect(uri) as owner:
        owner.execute("CREATE TABLE seats (resource_id uuid, label text)")
    yield
    server.drop_database("books")


async def rows(uri: Address) -> None:
    async for _ in Table(uri, "seats", call_timeout=SHORT).chunks(1):
        pass


async def claims(uri: Address) -> None:
    async with connect(uri) as ledger:
        async for _ in ledger_claims(ledger, POOL, monotonic):
            pass


async def voided(uri: Address) -> None:
    async with connect(uri) as ledger:
        await void(ledger, sql.Identifier("void_claim"), {"claim_id": "x"})


async def found(uri: Address) -> None:
    async with connect(uri) as ledger:
        await find_function(ledger, "finalize_transaction")


async def checked(uri: Address) -> None:
    state = await LedgerChecks(monotonic, timeout=SHORT).check(UID, uri, "finalize_transaction")
    assert state.problem, "it is told, and not raised"
    raise OSError(state.message)


@pytest.mark.parametrize("after_login", [False, True], ids=["before login", "after login"])
async def test_calls_to_a_user_s_postgres_end(
    server: PostgresServer, books: None, monkeypatch: pytest.MonkeyPatch, answers: Answers, *, after_login: bool
) -> None:
    monkeypatch.setattr(account, "TIMEOUT", SHORT)
    monkeypatch.setattr(connection, "CALL_TIMEOUT", SHORT)
    async with Relay(server.directory / "socket", answers, after_login=after_login) as relay:
        uri = f"postgresql://postgres@127.0.0.1:{relay.port}/books?sslmode=disable&gssencmode=disable"
        address = Address(uri, "tickets")
        calls: list[Callable[[Address], Awaitable[Any]]] = [
            lambda uri: Table(uri, "seats", call_timeout=SHORT).count(1),
            rows,
            claims,
            voided,
            found,
            checked,
            lambda uri: read_account(uri, POOL),
        ]
        await asyncio.gather(*(ends_badly(call(address)) for call in calls))


@pytest.fixture
def intake(server: PostgresServer) -> Iterator[None]:
    """An empty DB1."""
    server.create_database("intake")
    yield
    server.drop_database("intake")


async def test_calls_to_db1_end(
    server: PostgresServer, intake: None, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    """Also where each comes first after DB1 has fallen silent."""
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGGSSENCMODE", "disable")
    now = datetime.now(UTC)
    window = {"opensAt": now.isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    config = {"inventorySize": 5, "batchSize": 1, **window}

    async def no_rows() -> AsyncIterator[Any]:
        yield []

    calls: dict[str, Callable[[Databases], Awaitable[Any]]] = {
        "migrate": lambda databases: databases.migrate(UID),
        "limit": lambda databases: databases.limit_claimers(UID, 1),
        "logins": lambda databases: databases.set_logins(UID, {}),
        "roles": lambda databases: databases.reset_roles(UID, []),
        "configure": lambda databases: databases.configure(UID, POOL, config),
        "stock": lambda databases: databases.stock(UID, POOL, no_rows()),
        "seed": lambda databases: databases.seed(UID, POOL),
        "recover": lambda databases: databases.recover(UID, POOL, Address("postgresql:///nowhere", "tickets")),
        "seal": lambda databases: databases.seal(UID, POOL, "test"),
        "account": lambda databases: databases.account(UID, POOL),
        "audit": lambda databases: databases.audit(UID, POOL),
    }
    async with Relay(server.directory / "socket") as relay:
        monkeypatch.setenv("PGPORT", str(relay.port))
        opened = [Databases(load(INTAKE_SQL)) for _ in calls]
        await opened[0].observe(UID, POOL, "127.0.0.1", "")
        await opened[0].migrate(UID)
        await opened[0].configure(UID, POOL, config)
        for databases in opened:
            assert (await databases.observe(UID, POOL, "127.0.0.1", "")).reachable
        relay.answers = answers
        for timeout in ("STEP_TIMEOUT", "SEED_TIMEOUT", "CHUNK_TIMEOUT", "ACCOUNT_TIMEOUT", "RECOVERY_TIMEOUT"):
            monkeypatch.setattr(db1, timeout, SHORT)
        for databases in opened:
            databases._timeout = SHORT
        await asyncio.gather(*(ends_badly(call(each)) for call, each in zip(calls.values(), opened, strict=True)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await Databases((), timeout=SHORT).observe(UID, POOL, "127.0.0.1", "")).error


async def test_requests_to_kubernetes_end(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    monkeypatch.setattr(kube, "REQUEST_TIMEOUT", SHORT)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answers is Answers.BYTE_BY_BYTE:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                writer.write(b" ")
                await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    settings = Configuration(host=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    cluster = kube.Cluster(ApiClient(settings))
    for call in (
        cluster.get("ConfigMap", "tickets", "seats"),
        cluster.list("Pod", "tickets", "a=b"),
        cluster.list_everywhere("ConfigMap", ["tickets"]),
    ):
        await ends_badly(call)
    await cluster.close()
    listening.close()


async def test_eight_events_whose_table_hangs_hold_no_worker(
    server: PostgresServer, event: Callable[..., Event], answers: Answers
) -> None:
    """Their passes end, the reads go on outside of them, and the event of another namespace has its pass."""
    table = Inventory.model_validate({"table": {"secretRef": {"name": "hall"}}})
    async with Relay(server.directory / "socket", answers) as relay:
        uri = f"postgresql://postgres@127.0.0.1:{relay.port}/books?sslmode=disable&gssencmode=disable"

        class Objects:
            async def get(self, *_: str) -> dict[str, Any]:
                return {"data": {"uri": base64.b64encode(uri.encode()).decode()}}

        queue = WorkQueue(monotonic)
        reads = LongReads(queue.add)
        inventories = Inventories(Objects(), Databases(()), monotonic, reads)
        passed: list[Key] = []
        eight = asyncio.Event()

        async def reconcile(key: Key) -> timedelta | None:
            assert key[0] == "other" or (await inventories.check(event(uid=key[1]), table, 5, 0)).checking
            passed.append(key)
            if len(passed) == 9:
                eight.set()
            return None

        for number in range(8):
            queue.add(("greedy", f"event-{number}"))
        queue.add(("other", "event"))
        workers = [asyncio.create_task(queue.work(reconcile)) for _ in range(queue.workers)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await eight.wait()
        assert queue.load().busy == 0
        assert reads.load()["running"] == 2
        for worker in workers:
            worker.cancel()
        await reads.close()
