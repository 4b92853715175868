"""kill -9 of the server while people confirm: each hold is still held, or on the queue, or over, as it was answered."""

import asyncio
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer, install_intake
from tests.sql.intake import POOL, Answer, Intake, Request, connections

HOLDS, KILLED_AFTER, BUYERS = 600, 150, 8

type Hold = tuple[Answer, str]


@pytest.fixture
def doomed() -> Iterator[PostgresServer]:
    """A server of its own, because this kills it."""
    with PostgresServer() as server:
        install_intake(server.create_database("intake"))
        yield server


async def confirm_until_killed(server: PostgresServer, holds: list[Hold]) -> tuple[dict[UUID, str], set[UUID]]:
    """What was answered, and the claims whose answer was lost."""
    said: dict[UUID, str] = {}
    lost: set[UUID] = set()
    pending = iter(holds)
    killing: list[asyncio.Future[None]] = []

    async def buyer(connection: psycopg.AsyncConnection) -> None:
        cursor = connection.cursor(row_factory=tuple_row)
        for answer, user in pending:
            assert answer.claim_id is not None
            arguments = (POOL, answer.claim_id, user, Jsonb({"card": user}))
            try:
                await cursor.execute("SELECT intake.confirm_claim(%s, %s, %s, %s)", arguments)
            except psycopg.OperationalError:
                lost.add(answer.claim_id)
                return
            said[answer.claim_id] = (await cursor.fetchall())[0][0]
            if len(said) >= KILLED_AFTER and not killing:
                killing.append(asyncio.ensure_future(asyncio.to_thread(server.kill)))

    async with connections(server.uri("intake", "claimer"), BUYERS) as made:
        await asyncio.gather(*(buyer(connection) for connection in made))
    await killing[0]
    return said, lost


async def test_i2_a_confirmation_is_there_after_kill_9_or_the_claim_is_held(doomed: PostgresServer) -> None:
    with Intake(doomed.uri("intake")) as intake:
        intake.open(HOLDS * 2 + 20, holdSeconds=3600, extendSeconds=60)
        requests = [Request(f"u{n}", "r1", 2, {"n": n}) for n in range(HOLDS)]
        holds = [(each[0], r.user or "") for each, r in zip(intake.claim_requests(requests), requests, strict=True)]
        given, extended = intake.claim("ann", "r1"), intake.claim("bob", "r1")
        assert intake.release(given.claim_id) == "released"
        ends = intake.extend_hold(extended.claim_id, "bob")[1]
    said, lost = await confirm_until_killed(doomed, holds)
    assert set(said.values()) == {"confirmed"}
    doomed.start()
    with Intake(doomed.uri("intake")) as intake:
        assert intake.confirm(holds[-1][0].claim_id, holds[-1][1]) == "not_ready"
        intake.housekeep()
        assert intake.reconcile() == []
        for answer, _ in holds:
            rows = intake.claim_slots(answer.claim_id)
            assert len(rows) == 2
            assert answer.claim_id is not None
            allowed = (
                {"queued"} if answer.claim_id in said else {"held", "queued"} if answer.claim_id in lost else {"held"}
            )
            assert {row["state"] for row in rows} <= allowed
            if rows[0]["state"] == "held":
                assert rows[0]["expires_at"] == answer.expires_at
        assert intake.claim_status(given.claim_id)["state"] == "released"
        assert intake.extend_hold(extended.claim_id, "bob") == ("replayed", ends)
        # Everybody asks again, also those who have an answer.
        for answer, user in holds:
            expected = {"replayed"} if answer.claim_id in said else {"confirmed"}
            expected |= {"replayed"} if answer.claim_id in lost else set()
            assert intake.confirm(answer.claim_id, user, {"card": user}) in expected

    # Between the confirmation and the read.
    doomed.kill()
    doomed.start()
    with Intake(doomed.uri("intake")) as intake:
        intake.housekeep()
        messages = intake.read(HOLDS)
        assert {m["claim_id"] for m in messages} == {answer.claim_id for answer, _ in holds}
        assert all(m["payload"] == {"card": m["user_id"]} for m in messages), "that of the confirmation"
        intake.acknowledge(messages, "committed")
        assert intake.inventory() == (18 + 1, 0, 2 * HOLDS)
        again = intake.claim_requests(requests[:5])
        assert {a.outcome for each in again for a in each} == {"replayed"}, "by the payload of the claim"
        assert intake.reconcile() == []
