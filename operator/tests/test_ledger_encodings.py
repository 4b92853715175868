"""Ledgers and inventories in databases of every encoding are read, proven, compared and recovered from."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlparse
from uuid import UUID

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database.recovery import Restored, recover
from intake_operator.inventory.table import Table
from intake_operator.ledger.account import read_account
from intake_operator.ledger.connection import connect
from intake_operator.ledger.consistency import ConsistencyChecks, Sides
from intake_operator.ledger.functions import void_function
from intake_operator.ledger.voiding import is_claim_error, void
from intake_operator.long_reads import LongReads
from intake_operator.model.dead_letters import DeadLetter
from intake_operator.model.inventory import InventoryError
from intake_operator.model.observed import Event
from intake_operator.model.proof import Account
from intake_operator.reasons import ConsistencyReason, Problem
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.encodings import ALL, Case
from tests.postgres import PostgresServer, install_intake, install_ledger

POOL: Final = "taylor-la-night-1"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_intake(running.create_database("as_migrated"))
        yield running


def config(size: int) -> Jsonb:
    now = datetime.now(UTC)
    window = {"opensAt": now - timedelta(hours=1), "closesAt": now + timedelta(hours=1)}
    return Jsonb({"inventorySize": size} | {name: at.isoformat() for name, at in window.items()})


def books(server: PostgresServer, encoding: str) -> str:
    """A reference ledger in a database of this encoding."""
    server.drop_database("books")
    uri = server.create_encoded("books", encoding)
    install_ledger(f"{uri}&client_encoding=utf8")
    return uri


@asynccontextmanager
async def db1(server: PostgresServer, *users: str) -> AsyncIterator[tuple[AsyncConnection, list[dict[str, Any]]]]:
    """A DB1 and the messages of these users' claims. Migrated, configured and no more without users."""
    server.drop_database("intake")
    uri = server.create_database("intake", "as_migrated")
    async with await AsyncConnection.connect(uri, autocommit=True) as database:
        await database.execute("SELECT intake.configure(%s, %s)", (POOL, config(50)))
        if users:
            await database.execute("SELECT intake.seed(%s)", (POOL,))
        for user in users:
            await database.execute("SELECT intake.claim_resource(%s, %s, %s)", (POOL, user, f"r {user}"))
        found = await database.execute("SELECT message FROM pgmq.q_intake_queue ORDER BY msg_id")
        yield database, [message for (message,) in await found.fetchall()]


async def settle(database: AsyncConnection, uri: str, messages: list[dict[str, Any]]) -> None:
    """The operator voids the first claim, the others are committed; all are acknowledged in DB1."""
    async with connect(Address(uri, "tickets")) as connection:
        void_claim = await void_function(connection, "finalize_transaction")
        assert void_claim is not None
        assert await void(connection, void_claim, messages[0]) == "voided"
        for message in messages[1:]:
            await connection.execute("SELECT finalize_transaction(%s)", (json.dumps(message, ensure_ascii=False),))
    await database.execute(
        "SELECT intake.acknowledge(%s, array_agg(b.msg_id), array_agg(b.read_ct),"
        " array_agg(CASE WHEN b.claim_id = %s THEN 'voided' ELSE 'committed' END))"
        " FROM intake.read_batch(%s, 'w', 100) b",
        (POOL, UUID(messages[0]["claim_id"]), POOL),
    )


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.encoding)
async def test_a_ledger_of_any_encoding_agrees_and_db1_comes_back_from_it(
    server: PostgresServer, event: Callable[..., Event], case: Case
) -> None:
    uri = books(server, case.encoding)
    users = ("plain", *case.holds)
    async with db1(server, *users) as (database, messages):
        await settle(database, uri, messages)
        found = await database.execute("SELECT committed, voided, slots, digest FROM intake.proof(%s)", (POOL,))
        ours = Account(*(await found.fetchone() or ()))
        assert (ours.committed, ours.voided) == (len(case.holds), 1)
        assert await read_account(Address(uri, "tickets"), POOL) == ours
        host = unquote(urlparse(server.uri()).query.removeprefix("host="))
        sides = Sides(event(), host, "", Address(uri, "tickets"), "finalize_transaction")
        verdict = await ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None)).check_now(sides)
        assert (verdict.agrees, verdict.reason) == (True, ConsistencyReason.LEDGER_AGREES), verdict
    async with db1(server) as (database, _):
        assert await recover(database, Address(uri, "tickets"), POOL, lambda: 0.0) == Restored(
            len(case.holds), 1, len(case.holds)
        )
        found = await database.execute("SELECT message ->> 'user_id', message ->> 'request_id' FROM intake.intents")
        assert dict(await found.fetchall()) == {user: f"r {user}" for user in users}


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "EUC_TW"])
async def test_a_user_that_the_ledger_s_encoding_lacks_is_not_voided_under_another_name(
    server: PostgresServer, letter: DeadLetter, encoding: str
) -> None:
    case = next(each for each in ALL if each.encoding == encoding)
    uri = books(server, encoding)
    async with connect(Address(uri, "tickets")) as connection:
        void_claim = await void_function(connection, "finalize_transaction")
        assert void_claim is not None
        for user in case.lacks:
            claim = replace(letter, pool_id=POOL, user_id=user).as_json()
            (told,) = await asyncio.gather(void(connection, void_claim, claim), return_exceptions=True)
            assert isinstance(told, psycopg.Error)
            assert is_claim_error(told), "the others are given up all the same"
            assert f"encoding {encoding}" in str(told)
            assert "UTF8" in str(told)
        letter = replace(letter, pool_id=POOL, user_id=case.holds[0], payload={"note": case.lacks[0]})
        assert await void(connection, void_claim, letter.as_json()) == "voided", (
            "what a buyer has written keeps no claim"
        )
    assert await read_account(Address(uri, "tickets"), POOL) != Account(0, 0, 0, 0)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.encoding)
async def test_labels_in_any_encoding_are_read(server: PostgresServer, case: Case) -> None:
    server.drop_database("hall")
    uri = server.create_encoded("hall", case.encoding)
    with psycopg.connect(f"{uri}&client_encoding=utf8", autocommit=True) as owner:
        owner.execute("CREATE TABLE seats (resource_id uuid DEFAULT gen_random_uuid(), label text)")
        owner.execute("INSERT INTO seats (label) SELECT unnest(%s::text[])", (list(case.holds),))
    rows = [row async for chunk in Table(Address(uri, "tickets"), "seats").chunks(10) for row in chunk]
    assert {row.label for row in rows} == set(case.holds)


async def test_bytes_that_are_not_utf8_are_reported_as_an_error(
    server: PostgresServer, event: Callable[..., Event]
) -> None:
    """A database in SQL_ASCII has whatever bytes its clients have sent."""
    uri = books(server, "SQL_ASCII")
    with psycopg.connect(uri, autocommit=True) as owner:
        owner.execute("CREATE TABLE seats AS SELECT gen_random_uuid() AS resource_id, E'Z\\351' AS label")
        owner.execute(
            "INSERT INTO ledger.claims VALUES (gen_random_uuid(), %s, E'J\\374rgen', NULL, now(), 'voided')", (POOL,)
        )
        owner.execute(
            "CREATE FUNCTION broken(jsonb) RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION E'd\\351j\\340 vendu' USING ERRCODE = 'P0001'; END $$"
        )
    with pytest.raises(InventoryError, match="invalid byte sequence") as caught:
        [chunk async for chunk in Table(Address(uri, "tickets"), "seats").chunks(10)]
    assert caught.value.problem is Problem.INVENTORY_INVALID
    with pytest.raises(psycopg.DataError, match="invalid byte sequence"):
        await read_account(Address(uri, "tickets"), POOL)
    async with db1(server, "plain"):
        host = unquote(urlparse(server.uri()).query.removeprefix("host="))
        sides = Sides(event(), host, "", Address(uri, "tickets"), "finalize_transaction")
        verdict = await ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None)).check_now(sides)
    assert (verdict.agrees, verdict.reason) == (None, ConsistencyReason.COMPARISON_FAILED)
    assert "invalid byte sequence" in verdict.message
    async with connect(Address(uri, "tickets")) as connection:
        with pytest.raises(psycopg.Error) as told:
            await connection.execute("SELECT broken('{}')")
    assert "vendu" in str(told.value) or "invalid byte sequence" in str(told.value)
