"""Recovery of a lost DB1 from a real ledger: all of it, or nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from urllib.parse import unquote, urlparse
from uuid import UUID

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database import databases
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.database.recovery import RecoveryError, Restored, as_json
from intake_operator.ledger import claims as reading
from intake_operator.ledger.claims import PageOrderError
from intake_operator.model.consistency import LedgerClaim
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from tests.patience import PATIENCE_SECONDS
from tests.postgres import INTAKE_SQL, PostgresServer, install_intake, install_ledger

UID, NAMESPACE, POOL = "11111111-2222-3333-4444-555555555555", "tickets", "taylor-la-night-1"
SOLD = Restored(committed=7, voided=2, slots=9)
SIZE = 16


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_intake(running.create_database("as_migrated"))
        install_ledger(running.create_database("as_installed"))
        yield running


class Lost:
    """A sale of 16 slots whose DB1 is gone, and a new DB1 that was migrated and configured."""

    def __init__(self, databases: Databases, database: AsyncConnection, books: AsyncConnection, uri: str) -> None:
        self.databases = databases
        self.database = database
        self.books = books
        self.uri = uri
        self.queued: list[dict[str, Any]] = []

    async def recover(self) -> Restored:
        return await self.databases.recover(UID, POOL, Address(self.uri, NAMESPACE))

    async def value(self, query: LiteralString, *arguments: object) -> Any:  # noqa: ANN401 - whatever the query selects
        return (await self.row(query, *arguments))[0]

    async def row(self, query: LiteralString, *arguments: object) -> tuple[Any, ...]:
        row = await (await self.database.execute(query, arguments)).fetchone()
        assert row is not None
        return row

    async def kept(self) -> tuple[int, int]:
        """Claims and restores that DB1 has."""
        return await self.value("SELECT count(*) FROM intake.intents"), await self.value(
            "SELECT count(*) FROM intake.restores"
        )


def config() -> dict[str, Any]:
    now = datetime.now(UTC)
    window = {"opensAt": now - timedelta(hours=1), "closesAt": now + timedelta(hours=1)}
    return {"inventorySize": SIZE} | {name: at.isoformat() for name, at in window.items()}


async def sell(database: AsyncConnection, books: AsyncConnection) -> list[dict[str, Any]]:
    """Seven committed, one of them with the slots 4, 5 and 6, and two voided, one of them with the slots 8 and 9.

    Returns the messages that had not reached the ledger.
    """
    await database.execute("SELECT intake.configure(%s, %s)", (POOL, Jsonb(config())))
    await database.execute("SELECT intake.seed(%s)", (POOL,))
    await database.execute(
        "SELECT count(*) FROM generate_series(1, 10) n,"
        " intake.claim_resources(%s, 'u' || n, CASE n WHEN 4 THEN 3 WHEN 6 THEN 2 ELSE 1 END, 'r' || n)",
        (POOL,),
    )
    found = await database.execute("SELECT message FROM pgmq.q_intake_queue ORDER BY msg_id")
    messages = [message for (message,) in await found.fetchall()]
    for number, message in enumerate(messages[:9]):
        function = "void_claim" if number in {2, 5} else "finalize_transaction"
        await books.execute(f"SELECT {function}(%s)".encode(), (Jsonb(message),))
    return messages[9:]


@pytest.fixture
async def lost(server: PostgresServer) -> AsyncIterator[Lost]:
    ledger_uri = server.create_database("ledger", "as_installed")
    uri = server.create_database("intake", "as_migrated")
    host, databases = unquote(urlparse(uri).query.removeprefix("host=")), Databases(load(INTAKE_SQL))
    async with await AsyncConnection.connect(ledger_uri, autocommit=True) as books:
        async with await AsyncConnection.connect(uri, autocommit=True) as database:
            queued = await sell(database, books)
        server.drop_database("intake")
        server.create_database("intake", "as_migrated")
        await databases.observe(UID, POOL, host, "")
        await databases.configure(UID, POOL, config())
        async with await AsyncConnection.connect(uri, autocommit=True) as database:
            scene = Lost(databases, database, books, ledger_uri)
            scene.queued = queued
            yield scene
    await databases.close_all()
    for name in ("intake", "ledger"):
        server.drop_database(name)


@pytest.mark.parametrize("page", [1, 4, 9, 1000])
async def test_db1_has_every_claim_of_the_ledger_again(lost: Lost, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(reading, "LEDGER_PAGE", page)
    assert await lost.recover() == SOLD
    await lost.databases.seed(UID, POOL)
    account, _ = await lost.databases.account(UID, POOL)
    ended = account.ended
    assert (ended.committed, ended.voided, ended.slots, account.violations) == (7, 2, 9, ())
    restored = await lost.value("SELECT intake.engine_status(%s) -> 'restored'", POOL)
    assert (restored["committed"], restored["voided"]) == (7, 2)
    assert await lost.value("SELECT outcome FROM intake.claim_resource(%s, 'u1', 'r1')", POOL) == "replayed"
    several = "SELECT array_agg(slot_no), min(outcome) FROM intake.claim_resources(%s, 'u4', 3, 'r4')"
    assert await lost.row(several, POOL) == ([4, 5, 6], "replayed")
    for number in range(SIZE - SOLD.slots):
        query = "SELECT outcome FROM intake.claim_resource(%s, %s)"
        assert await lost.value(query, POOL, f"new {number}") == "claimed"
    assert await lost.value("SELECT outcome FROM intake.claim_resource(%s, 'late')", POOL) == "sold_out"


async def test_a_pool_of_which_nothing_was_sold_is_restored_empty(lost: Lost) -> None:
    await lost.books.execute("TRUNCATE ledger.claims, ledger.sold_slots")
    assert await lost.recover() == Restored(0, 0, 0)
    assert await lost.kept() == (0, 1)


async def test_a_bridge_that_still_commits_undoes_the_recovery(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim is read neither with its page, which was read before, nor with a later one."""
    monkeypatch.setattr(reading, "LEDGER_PAGE", 4)
    # The claim of a bridge that was slow: its id is older than all that have been read.
    late = lost.queued[0] | {"claim_id": str(UUID(int=1))}
    await lost.books.execute("ALTER FUNCTION ledger_claims SET SCHEMA ledger")
    await lost.books.execute(
        b"CREATE FUNCTION ledger_claims(text, uuid, int) RETURNS TABLE (claim_id uuid, state text, user_id text,"
        b" request_id text, claimed_at timestamptz, slot_nos bigint[], resource_ids uuid[]) LANGUAGE plpgsql AS $$"
        b" BEGIN RETURN QUERY SELECT * FROM ledger.ledger_claims($1, $2, $3); IF $2 IS NOT NULL THEN"
        b" PERFORM finalize_transaction(current_setting('test.late')::jsonb); END IF; END $$"
    )
    setting = sql.SQL("ALTER DATABASE ledger SET test.late = {}").format(sql.Literal(json.dumps(late)))
    await lost.books.execute(setting)
    with pytest.raises(RecoveryError, match="still committing"):
        await lost.recover()
    assert await lost.kept() == (0, 0)
    assert await lost.recover() == Restored(committed=8, voided=2, slots=10), "and the next one has it"


@pytest.mark.parametrize("function", ["ledger_claims", "ledger_proof"])
async def test_a_ledger_without_the_functions_fails_with_what_to_create(lost: Lost, function: str) -> None:
    await lost.books.execute(f"DROP FUNCTION {function}".encode())
    with pytest.raises(RecoveryError, match=rf"{function}.* create it as docs/ledger.md"):
        await lost.recover()
    assert await lost.kept() == (0, 0)


async def test_an_ambiguous_ledger_proof_recovers_nothing(lost: Lost) -> None:
    await lost.books.execute("CREATE FUNCTION ledger_proof(a text, b text) RETURNS int LANGUAGE sql RETURN 1")
    with pytest.raises(psycopg.Error, match="2 functions named ledger_proof"):
        await lost.recover()
    assert await lost.kept() == (0, 0)


async def test_a_claim_that_was_not_sold_from_this_inventory_undoes_all(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LEDGER_PAGE", 4)
    await lost.books.execute("UPDATE ledger.sold_slots SET resource_id = gen_random_uuid() WHERE slot_no = 5")
    with pytest.raises(psycopg.Error) as caught:
        await lost.recover()
    assert caught.value.sqlstate == "IE006"
    assert await lost.kept() == (0, 0)
    assert (await lost.databases.observe(UID, POOL, "", "")).reachable, "its connection goes on"


async def test_pages_that_never_end_are_refused(lost: Lost) -> None:
    await lost.books.execute(
        b"CREATE OR REPLACE FUNCTION ledger_claims(pool_id text, after uuid, most int) RETURNS TABLE (claim_id uuid,"
        b" state text, user_id text, request_id text, claimed_at timestamptz, slot_nos bigint[], resource_ids uuid[])"
        b" LANGUAGE sql AS $$ SELECT c.claim_id, c.state, c.user_id, c.request_id, c.claimed_at, '{}'::bigint[],"
        b" '{}'::uuid[] FROM ledger.claims c WHERE state = 'voided' ORDER BY 1 LIMIT 1 $$"
    )
    with pytest.raises(PageOrderError):
        await lost.recover()
    assert await lost.kept() == (0, 0)


async def test_a_seeded_pool_is_not_restored(lost: Lost) -> None:
    await lost.databases.seed(UID, POOL)
    with pytest.raises(psycopg.Error) as caught:
        await lost.recover()
    assert caught.value.sqlstate == "IE003"


async def test_a_recovery_from_a_frozen_ledger_ends(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "RECOVERY_TIMEOUT", 0.5)
    async with lost.books.transaction():
        await lost.books.execute("LOCK TABLE ledger.claims IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(TimeoutError):
                await lost.recover()
    assert await lost.kept() == (0, 0)


async def test_a_ledger_that_cannot_be_reached_changes_nothing(lost: Lost) -> None:
    lost.uri = "host=/nowhere dbname=ledger"
    with pytest.raises(psycopg.OperationalError):
        await lost.recover()
    assert await lost.kept() == (0, 0)


def test_a_page_is_what_ledger_claims_returned() -> None:
    at = datetime(2026, 12, 1, 18, tzinfo=UTC)
    sold = LedgerClaim(UUID(int=1), "committed", "ann", "r1", at, (7, 9), (UUID(int=2), UUID(int=4)))
    bare = LedgerClaim(UUID(int=3), "voided", "bob", None, None, (), ())
    assert as_json([sold, bare]) == [
        {
            "claim_id": str(UUID(int=1)),
            "state": "committed",
            "user_id": "ann",
            "request_id": "r1",
            "claimed_at": "2026-12-01T18:00:00+00:00",
            "slot_nos": (7, 9),
            "resource_ids": [str(UUID(int=2)), str(UUID(int=4))],
        },
        {
            "claim_id": str(UUID(int=3)),
            "state": "voided",
            "user_id": "bob",
            "request_id": None,
            "claimed_at": None,
            "slot_nos": (),
            "resource_ids": [],
        },
    ]
