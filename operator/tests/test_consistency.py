"""Comparisons of a DB1 with a ledger on a real PostgreSQL: at rest, during a sale, and after manual changes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlparse

import given
import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.ledger import claims as reading
from intake_operator.ledger.consistency import WHILE_BAD, WHILE_GOOD, ConsistencyChecks, Sides
from intake_operator.long_reads import LongReads
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import Event
from intake_operator.reasons import ConsistencyReason
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer, install_intake, install_ledger

POOL = "taylor-la-night-1"
MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC)
# The claim of u3 has the slots 3, 4 and 5.
SALE = (
    "SELECT count(*) FROM generate_series(1, %s) n,"
    " intake.claim_resources(%s, 'u' || n, CASE n WHEN 3 THEN 3 ELSE 1 END, 'r' || n)"
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_intake(running.create_database("as_migrated"))
        install_ledger(running.create_database("as_installed"))
        yield running


class Scene:
    """A DB1 and a ledger, with a bridge that does what the test says."""

    def __init__(self, database: AsyncConnection, books: AsyncConnection, sides: Sides) -> None:
        self.database = database
        self.books = books
        self.sides = sides
        self.woken: list[tuple[str, str]] = []
        self.now = 0.0
        self.reads = LongReads(self.woken.append)
        self.consistencies = ConsistencyChecks(
            lambda: self.now, self.reads, now=lambda: MIDNIGHT + timedelta(seconds=self.now)
        )

    async def read(self, count: int) -> list[tuple[int, int, dict[str, Any]]]:
        found = await self.database.execute(
            "SELECT b.msg_id, b.read_ct, q.message FROM intake.read_batch(%s, 'w', %s) b"
            " JOIN pgmq.q_intake_queue q USING (msg_id)",
            (POOL, count),
        )
        return [(row[0], row[1], row[2]) for row in await found.fetchall()]

    async def end(self, count: int, function: str, outcome: str, *, acknowledge: bool = True) -> None:
        """Commit or void this many claims in the ledger, and acknowledge them in DB1."""
        for msg_id, read_ct, message in await self.read(count):
            await self.books.execute(f"SELECT {function}(%s)".encode(), (Jsonb(message),))
            if acknowledge:
                acknowledged = "SELECT intake.acknowledge(%s, %s, %s, %s)"
                await self.database.execute(acknowledged, (POOL, [msg_id], [read_ct], [outcome]))

    async def compare(self) -> Verdict:
        return await self.consistencies.check_now(self.sides)

    async def check_if_due(self) -> Verdict | None:
        """What a pass does while the queue is empty; returns when that comparison has ended."""
        self.consistencies.start(self.sides)
        await given.ended(self.reads)
        return self.consistencies.latest(self.sides.event.uid)


@pytest.fixture
async def scene(server: PostgresServer, event: Callable[..., Event]) -> AsyncIterator[Scene]:
    """Twelve slots, eight claims: five committed (one of three slots), one voided, one released, one queued."""
    uri, ledger_uri = server.create_database("intake", "as_migrated"), server.create_database("ledger", "as_installed")
    socket = unquote(urlparse(uri).query.removeprefix("host="))
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    async with (
        await AsyncConnection.connect(uri, autocommit=True) as database,
        await AsyncConnection.connect(ledger_uri, autocommit=True) as books,
    ):
        await database.execute("SELECT intake.configure(%s, %s)", (POOL, Jsonb({"inventorySize": 12, **window})))
        await database.execute("SELECT intake.seed(%s)", (POOL,))
        await database.execute(SALE, (8, POOL))
        scene = Scene(
            database, books, Sides(event(), socket, "", Address(ledger_uri, "tickets"), "finalize_transaction")
        )
        await scene.end(5, "finalize_transaction", "committed")
        await scene.end(1, "void_claim", "voided")
        released = (
            "SELECT intake.release_claim(%s, (message ->> 'claim_id')::uuid, 'ill') FROM pgmq.q_intake_queue"
            " ORDER BY msg_id LIMIT 1"
        )
        await database.execute(released, (POOL,))
        yield scene
        await scene.reads.close()
    server.drop_database("intake")
    server.drop_database("ledger")


async def test_what_was_compared_says_when(scene: Scene) -> None:
    """Claims that are sold later are in the other counts of the status, and not in this one."""
    await scene.check_if_due()
    scene.now += 60
    later = await scene.check_if_due()
    assert later is not None
    assert later.told.endswith("and nothing contradicts DB1 (compared at 2026-12-01T00:00:00+00:00)")
    scene.now += WHILE_GOOD.total_seconds()
    renewed = await scene.check_if_due()
    assert renewed == later, "the same verdict"
    assert renewed.told.endswith("(compared at 2026-12-01T00:06:00+00:00)")


async def test_a_sound_sale_agrees(scene: Scene) -> None:
    found = await scene.compare()
    assert (found.agrees, found.reason) == (True, ConsistencyReason.LEDGER_AGREES), found
    assert "5 claims committed and 1 voided" in found.message
    await scene.end(1, "finalize_transaction", "committed", acknowledge=False)
    assert "1 of them still on their way" in (await scene.compare()).message


async def test_many_pages_are_one_comparison(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DATABASE_PAGE", 2)
    monkeypatch.setattr(reading, "LEDGER_PAGE", 2)
    assert (await scene.compare()).agrees is True
    await scene.books.execute("DELETE FROM ledger.claims WHERE user_id IN ('u1', 'u4')")
    assert len((await scene.compare()).violations) == 2


async def test_claims_that_move_during_a_comparison_are_no_violation(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are made, committed, voided and acknowledged all the time. Small pages leave time for it between reads."""
    monkeypatch.setattr(reading, "DATABASE_PAGE", 7)
    monkeypatch.setattr(reading, "LEDGER_PAGE", 7)
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    await scene.database.execute("SELECT intake.configure(%s, %s)", (POOL, Jsonb({"inventorySize": 400, **window})))
    await scene.database.execute("SELECT intake.seed(%s)", (POOL,))

    async def rush() -> None:
        for wave in range(20):
            users = [f"buyer-{wave}-{n}" for n in range(6)]
            batch = "SELECT count(*) FROM intake.claim_batch(%s, %s, NULL, %s)"
            await scene.database.execute(batch, (POOL, users, [1, 2, 3, 1, 4, 1]))
            await scene.end(4, "finalize_transaction", "committed")
            await scene.end(1, "void_claim", "voided")

    rushing = asyncio.create_task(rush())
    verdicts = [await scene.compare()]
    while not rushing.done():
        verdicts.append(await scene.compare())
    await rushing
    assert [verdict for verdict in verdicts if not verdict.agrees] == []
    assert len(verdicts) > 1, "it was compared meanwhile"


@pytest.mark.parametrize(
    ("invariant", "damage"),
    [
        ("I2", "DELETE FROM ledger.claims WHERE user_id = 'u3'"),
        ("I2", "DELETE FROM ledger.claims WHERE state = 'voided'"),
        ("I2", "UPDATE ledger.claims SET claim_id = gen_random_uuid() WHERE user_id = 'u3'"),
        ("I3", "UPDATE ledger.claims SET state = 'voided' WHERE user_id = 'u3'"),
        ("I3", "UPDATE ledger.claims SET state = 'committed' WHERE state = 'voided'"),
        ("I4", "UPDATE ledger.claims SET user_id = 'thief' WHERE user_id = 'u3'"),
        ("I4", "UPDATE ledger.sold_slots SET resource_id = gen_random_uuid() WHERE slot_no = 3"),
        ("I4", "UPDATE ledger.sold_slots SET slot_no = 99 WHERE slot_no = 3"),
        ("I4", "DELETE FROM ledger.sold_slots WHERE slot_no = 3"),
        ("I4", "DELETE FROM ledger.sold_slots WHERE slot_no IN (3, 4, 5)"),
        (
            "I4",
            "UPDATE ledger.sold_slots SET claim_id = (SELECT claim_id FROM ledger.claims WHERE user_id = 'u1')"
            " WHERE slot_no = 4",
        ),
        ("I4", "UPDATE ledger.sold_slots SET slot_no = 9 - slot_no + 90 WHERE slot_no IN (4, 5)"),
        (
            "I4",
            "UPDATE ledger.sold_slots s SET resource_id = o.resource_id FROM ledger.sold_slots o"
            " WHERE s.slot_no IN (4, 5) AND o.slot_no = 9 - s.slot_no",
        ),
        (
            "I4",
            "INSERT INTO ledger.sold_slots SELECT pool_id, 99, claim_id, resource_id FROM ledger.sold_slots LIMIT 1",
        ),
    ],
)
async def test_a_manual_change_of_the_ledger_is_found(scene: Scene, invariant: str, damage: str) -> None:
    await scene.books.execute(damage.encode())
    found = await scene.compare()
    assert (found.agrees, found.reason) == (False, ConsistencyReason.LEDGER_INCONSISTENT)
    assert invariant in {each.invariant for each in found.violations}, found
    await scene.end(1, "finalize_transaction", "committed")  # the queue is empty, the counts alone are compared first
    short = await scene.check_if_due()
    assert short is not None
    assert short.agrees is False, "and the proof notices it as well"


async def test_a_claim_that_lacks_a_slot_in_the_ledger_is_named_with_its_slots(scene: Scene) -> None:
    await scene.books.execute("DELETE FROM ledger.sold_slots WHERE slot_no = 4")
    (violation,) = (await scene.compare()).violations
    assert violation.invariant == "I4"
    assert violation.detail.endswith("of slots 3, 4, 5 has other slots (3, 5) in the ledger")


async def test_a_ledger_whose_page_splits_a_claim_is_not_compared(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each slot would be taken for claims that lack slots."""
    monkeypatch.setattr(reading, "LEDGER_PAGE", 2)
    await scene.books.execute(
        "CREATE OR REPLACE FUNCTION ledger_claims(pool_id text, after uuid, most int)"
        " RETURNS TABLE (claim_id uuid, state text, user_id text, request_id text, claimed_at timestamptz,"
        " slot_nos bigint[], resource_ids uuid[]) LANGUAGE sql AS $$ SELECT c.claim_id, c.state, c.user_id,"
        " c.request_id, c.claimed_at, ARRAY[s.slot_no], ARRAY[s.resource_id] FROM ledger.claims c"
        " JOIN ledger.sold_slots s USING (claim_id)"
        " WHERE c.claim_id > coalesce(after, '00000000-0000-0000-0000-000000000000') ORDER BY 1, s.slot_no LIMIT most"
        " $$"
    )
    found = await scene.compare()
    assert (found.agrees, found.reason) == (None, ConsistencyReason.COMPARISON_FAILED)


async def test_a_broken_invariant_inside_db1_is_found(scene: Scene) -> None:
    await scene.database.execute("UPDATE intake.claimed_slots SET status = 'R' WHERE slot_no = 1")
    assert "I6" in {each.invariant for each in (await scene.compare()).violations}


async def test_with_an_empty_queue_it_is_compared_seldom_and_after_a_violation_sooner(scene: Scene) -> None:
    await scene.end(1, "finalize_transaction", "committed")
    first = await scene.check_if_due()
    assert first is not None
    assert (first.agrees, len(scene.woken)) == (True, 1)
    await scene.books.execute(
        "WITH gone AS (DELETE FROM ledger.claims WHERE user_id = 'u3' RETURNING claim_id)"
        " DELETE FROM ledger.sold_slots s USING gone g WHERE s.claim_id = g.claim_id"
    )
    scene.now += WHILE_GOOD.total_seconds() - 1
    assert await scene.check_if_due() == first, "not yet"
    scene.now += 1
    found = await scene.check_if_due()
    assert found is not None
    assert (found.agrees, len(found.violations), len(scene.woken)) == (False, 1, 2), (
        "claim by claim, since counts differ"
    )
    gone = await scene.database.execute("SELECT message FROM intake.intents WHERE message ->> 'user_id' = 'u3'")
    for (message,) in await gone.fetchall():
        await scene.books.execute("SELECT finalize_transaction(%s)", (Jsonb(message),))
    scene.now += WHILE_BAD.total_seconds()
    mended = await scene.check_if_due()
    assert mended is not None
    assert mended.agrees is True


async def test_a_dead_letter_that_the_ledger_has_is_no_violation(scene: Scene) -> None:
    for msg_id, read_ct, message in await scene.read(1):
        await scene.books.execute("SELECT finalize_transaction(%s)", (Jsonb(message),))
        await scene.database.execute("SELECT intake.dead_letter(%s, %s, %s, '{lost}')", (POOL, [msg_id], [read_ct]))
    found = await scene.check_if_due()
    assert found is not None
    assert found.agrees is True, "counts differ, claims do not contradict each other"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DROP FUNCTION ledger_claims", ConsistencyReason.LEDGER_CANNOT_BE_ASKED),
        (
            "CREATE OR REPLACE FUNCTION ledger_claims(pool_id text, after uuid, most int)"
            " RETURNS TABLE (claim_id uuid, state text, user_id text, request_id text, claimed_at timestamptz,"
            " slot_nos bigint[], resource_ids uuid[]) LANGUAGE sql"
            " RETURN (SELECT s FROM (SELECT c.claim_id, c.state, c.user_id, c.request_id, c.claimed_at, '{}'::bigint[],"
            " '{}'::uuid[] FROM ledger.claims c LIMIT 1) s)",
            ConsistencyReason.COMPARISON_FAILED,
        ),
    ],
)
async def test_a_ledger_that_cannot_be_compared_is_reported(
    scene: Scene, change: str, reason: ConsistencyReason
) -> None:
    await scene.books.execute(change.encode())
    found = await scene.compare()
    assert (found.agrees, found.reason) == (None, reason), found


async def test_an_ambiguous_ledger_proof_is_reported(scene: Scene) -> None:
    """A second function of the name once hid the first, and the ledger was taken for one without any."""
    await scene.books.execute("CREATE FUNCTION ledger_proof(a text, b text) RETURNS int LANGUAGE sql RETURN 1")
    found = await scene.check_if_due()
    assert found is not None
    assert (found.agrees, found.reason) == (None, ConsistencyReason.COMPARISON_FAILED)
    assert "2 functions named ledger_proof" in found.message
    assert "ledger_proof(text,text)" in found.message


async def test_a_ledger_that_cannot_be_reached_is_no_violation(scene: Scene) -> None:
    away = replace(scene.sides, ledger=Address("postgresql://ledger_writer@/ledger?host=/nowhere", "tickets"))
    found = await scene.consistencies.check_now(away)
    assert (found.agrees, found.reason) == (None, ConsistencyReason.COMPARISON_FAILED)


async def test_a_comparison_with_a_frozen_db1_ends(scene: Scene) -> None:
    scene.consistencies = ConsistencyChecks(lambda: scene.now, scene.reads, timeout=0.5)
    async with scene.database.transaction():
        await scene.database.execute("LOCK TABLE pgmq.a_intake_queue IN ACCESS EXCLUSIVE MODE")
        found = await scene.consistencies.check_now(scene.sides)
    assert (found.agrees, found.reason) == (None, ConsistencyReason.COMPARISON_FAILED)
    assert "no answer in time" in found.message


async def test_a_webhook_has_nothing_to_compare(scene: Scene) -> None:
    found = await scene.consistencies.check_now(replace(scene.sides, ledger=None))
    assert (found.agrees, found.reason) == (None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED)


async def test_claimed_slots_that_are_being_rebuilt_are_not_taken_for_lost_claims(scene: Scene) -> None:
    await scene.database.execute("DELETE FROM intake.pools")
    await scene.database.execute("DELETE FROM intake.claimed_slots")
    found = await scene.compare()
    assert (found.agrees, found.reason) == (None, ConsistencyReason.COMPARISON_FAILED)
    with pytest.raises(psycopg.Error) as caught:
        await scene.database.execute("SELECT intake.claims_at(%s, '{}')", (POOL,))
    assert caught.value.sqlstate == "IE007"
