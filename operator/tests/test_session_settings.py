"""Settings of a server or a role change nothing that is read of DB1, ledger and inventory."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlparse
from uuid import UUID

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database import connection as db1
from intake_operator.database import dead_letters
from intake_operator.inventory.table import Table
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.connection import connect
from intake_operator.ledger.consistency import ConsistencyChecks, Sides
from intake_operator.ledger.functions import void_function
from intake_operator.ledger.voiding import void
from intake_operator.long_reads import LongReads
from intake_operator.model.dead_letters import DeadLetter
from intake_operator.model.observed import Event, LedgerState
from psycopg.types.json import Jsonb

from tests.pooler import Pooler
from tests.postgres import PostgresServer, install_intake, install_ledger
from tests.settings import HOSTILE, impose, lift

POOL: Final = "taylor-la-night-1"
DATABASES: Final = ("intake", "books", "hall")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Six claims: three committed, one voided, one dead, one queued. And seats whose labels are no texts."""
    now = datetime.now(UTC)
    window = {"opensAt": now - timedelta(hours=1), "closesAt": now + timedelta(hours=1)}
    with PostgresServer() as running:
        install_intake(running.create_database("intake"))
        install_ledger(running.create_database("books"))
        hall = running.create_database("hall")
        with (
            psycopg.connect(running.uri("intake"), autocommit=True) as database,
            psycopg.connect(running.uri("books"), autocommit=True) as books,
            psycopg.connect(hall, autocommit=True) as owner,
        ):
            config = {"inventorySize": 10} | {name: at.isoformat() for name, at in window.items()}
            database.execute("SELECT intake.configure(%s, %s)", (POOL, Jsonb(config)))
            database.execute("SELECT intake.seed(%s)", (POOL,))
            claim = "SELECT intake.claim_resource(%s, 'ü' || n, 'r' || n) FROM generate_series(1, 6) n"
            database.execute(claim, (POOL,))
            for number, (msg_id, read_ct, message) in enumerate(
                database.execute(
                    "SELECT b.msg_id, b.read_ct, q.message FROM intake.read_batch(%s, 'w', 5) b"
                    " JOIN pgmq.q_intake_queue q USING (msg_id)",
                    (POOL,),
                ).fetchall()
            ):
                leased = (POOL, [msg_id], [read_ct])
                if number == 4:
                    database.execute("SELECT intake.dead_letter(%s, %s, %s, '{lost}')", leased)
                    continue
                word = "voided" if number == 3 else "committed"
                function = "void_claim" if number == 3 else "finalize_transaction"
                books.execute(f"SELECT {function}(%s)".encode(), (Jsonb(message),))
                database.execute("SELECT intake.acknowledge(%s, %s, %s, %s)", (*leased, [word]))
            for table, value in (
                ("days", "date '2026-12-01' + n"),
                ("rows", "n / 3.0::float8"),
                ("ages", "n * '1 d 1 h'::interval"),
            ):
                owner.execute(
                    f"CREATE TABLE {table} AS SELECT gen_random_uuid() AS resource_id, {value} AS label"
                    " FROM generate_series(1, 3) n".encode()
                )
        yield running


@dataclass
class Reading:
    """All that the operator reads, in one value that can be compared."""

    server: PostgresServer
    sides: Sides

    async def everything(self) -> list[Any]:
        """Each read over a connection of its own, as it comes to the user's session settings."""
        host, ledger, hall = self.sides.host, self.sides.ledger, self.server.uri("hall")
        assert ledger is not None
        async with db1.connect(host, "", "monitor") as connection:
            dead = await dead_letters.page(connection, POOL, 10, 0)
            audit = await dead_letters.audit(connection, POOL, 10, None)
            found = await connection.execute("SELECT intake.engine_status(%s)", (POOL,))
            row = await found.fetchone()
        assert row is not None
        status = {name: row[0][name] for name in ("inventory", "claims", "committed", "voided", "ready")}
        return [
            dead,
            audit,
            status,
            await LedgerChecks(lambda: 0.0).check("uid", ledger, "finalize_transaction"),
            await read_account(ledger, POOL),
            # Here what cannot be read came as an exception that no caller expects.
            *await asyncio.gather(
                ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None)).check_now(self.sides), return_exceptions=True
            ),
            [
                [row async for chunk in Table(Address(hall, "tickets"), table).chunks(9) for row in chunk]
                for table in ("days", "rows", "ages")
            ],
        ]


@pytest.fixture
def reading(server: PostgresServer, event: Callable[..., Event]) -> Reading:
    host = unquote(urlparse(server.uri()).query.removeprefix("host="))
    return Reading(server, Sides(event(), host, "", Address(server.uri("books"), "tickets"), "finalize_transaction"))


@pytest.mark.parametrize("setting", HOSTILE)
async def test_no_setting_changes_what_is_read(server: PostgresServer, reading: Reading, setting: str) -> None:
    before = await reading.everything()
    dead, _, status, looked, account, verdict, labels = before
    assert (len(dead), dead[0].user_id, status["committed"]) == (1, "ü5", 3)
    assert (looked, account.committed, verdict.agrees) == (LedgerState(), 3, True)
    assert [row[1] for row in labels[0]] == ["2026-12-02", "2026-12-03", "2026-12-04"]
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        try:
            for database in DATABASES:
                impose(owner, database, setting)
            assert await reading.everything() == before
        finally:
            for database in DATABASES:
                lift(owner, database)


async def test_a_claim_is_voided_under_any_setting(server: PostgresServer, letter: DeadLetter) -> None:
    """The time of a claim goes as RFC 3339, which every DateStyle reads alike."""
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        try:
            for number, setting in enumerate(HOSTILE, 50):
                impose(owner, "books", setting)
                async with connect(Address(server.uri("books"), "tickets")) as connection:
                    void_claim = await void_function(connection, "finalize_transaction")
                    assert void_claim is not None
                    claim = replace(letter, pool_id="other", claim_id=_id(number)).as_json()
                    assert await void(connection, void_claim, claim) == "voided"
                lift(owner, "books")
        finally:
            lift(owner, "books")
    with psycopg.connect(server.uri("books")) as owner:
        moments = owner.execute("SELECT DISTINCT claimed_at FROM ledger.claims WHERE pool_id = 'other'").fetchall()
        owner.execute("DELETE FROM ledger.claims WHERE pool_id = 'other'")
    assert moments == [(letter.claimed_at,)]


async def test_a_pooler_takes_every_connection_and_gets_it_back_unchanged(reading: Reading) -> None:
    """It refuses parameters that it does not know, and lends one session to many."""
    async with Pooler(reading.sides.host) as pooler:
        pooled = Address(f"postgresql://postgres@127.0.0.1:{pooler.port}/books", "tickets")
        direct = reading.sides.ledger
        assert direct is not None
        assert await LedgerChecks(lambda: 0.0).check("uid", pooled, "finalize_transaction") == LedgerState()
        assert await read_account(pooled, POOL) == await read_account(direct, POOL)
        checks = ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None))
        verdict = await checks.check_now(replace(reading.sides, ledger=pooled))
        assert verdict.agrees is True
        hall = f"postgresql://postgres@127.0.0.1:{pooler.port}/hall"
        assert await Table(Address(hall, "tickets"), "days").count(9) == 3
        assert pooler.connections >= 4
        assert pooler.statements
        told = [each for each in pooler.statements if each.upper().startswith(("SET ", "PREPARE", "LISTEN"))]
        assert told == []


def _id(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-8000-{number:012}")
