"""kill -9 under load, many times in one sale: what was acknowledged is there, the rest is there once or not at all."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from tests.postgres import PostgresServer, install_intake, install_ledger
from tests.sql.intake import POOL, Answer, Intake, connections
from tests.sql.rush import (
    Bridge,
    Call,
    Got,
    Wanted,
    ask_for,
    check_history,
    outcomes_of,
    retry_until_answered,
    rush,
    singly,
)

ROUNDS = 10
INVENTORY = 3000
ANSWERS_PER_ROUND = 250
BUYERS, BRIDGES, RELEASERS = 16, 2, 2

type Released = dict[UUID, set[str]]
"""By claim, what release_claim has answered."""


@pytest.fixture
def doomed() -> Iterator[PostgresServer]:
    """A server of its own, because this kills it."""
    with PostgresServer() as server:
        install_intake(server.create_database("intake"))
        install_ledger(server.create_database("ledger"))
        yield server


def calls_of(round_no: int) -> Iterator[Call]:
    """Single claims, several slots, named seats, batches and retries; the same for the same round."""
    dice = random.Random(round_no)
    made: list[Wanted] = []
    for n in range(100_000):
        user, request = f"u{round_no}-{dice.randrange(400)}", f"r{round_no}-{n}"
        kind = dice.randrange(12)
        if kind < 5:
            call: Call = (Wanted(user, request),)
        elif kind < 7:
            call = (Wanted(user, request, quantity=dice.randint(2, 4)),)
        elif kind < 8:
            seats = dice.sample(range(1, INVENTORY + 1), dice.randint(1, 3))
            call = (Wanted(user, request, seats=tuple(f"seat {seat}" for seat in seats)),)
        elif kind < 10:
            call = tuple(Wanted(f"{user}-{k}", request, quantity=1 + k % 3, payload=f"order {k}") for k in range(8))
        elif made:
            call = (dice.choice(made[-40:]),)
        else:
            call = (Wanted(user),)
        made += [wanted for wanted in call if wanted.request]
        yield call


def work(server: PostgresServer) -> None:
    """A bridge, until the server dies."""
    try:
        bridge = Bridge(server.uri("intake", "bridge"), server.uri("ledger", "ledger_writer"))
        for n in range(100_000):
            bridge.round()
            if n % 5 == 0:
                bridge.intake.housekeep()
    except psycopg.OperationalError:
        return


async def release_some(connection: psycopg.AsyncConnection, history: list[Got], released: Released) -> None:
    """Now and then a buyer releases a claim, until the server dies."""
    looked = 0
    cursor = connection.cursor(row_factory=tuple_row)
    try:
        while True:
            fresh, looked = history[looked:], len(history)
            for got in fresh[::7]:
                if got.outcome == "claimed" and (claim_id := got.answers[0].claim_id):
                    await cursor.execute("SELECT intake.release_claim(%s, %s, 'no')", (POOL, claim_id))
                    released.setdefault(claim_id, set()).add((await cursor.fetchall())[0][0])
            await cursor.execute("SELECT")
    except psycopg.OperationalError:
        return


async def sell_until_killed(server: PostgresServer, round_no: int, released: Released) -> list[Got]:
    """Everything at full speed; SIGKILL as soon as enough buyers have their answers."""
    history: list[Got] = []
    killed: asyncio.Future[None] | None = None
    calls = calls_of(round_no)

    async def buyer(connection: psycopg.AsyncConnection) -> None:
        nonlocal killed
        for call in calls:
            try:
                history.extend(await ask_for(connection, call))
            except psycopg.OperationalError:
                history.extend(Got(wanted) for wanted in call)
                return
            if len(history) >= ANSWERS_PER_ROUND and killed is None:
                killed = asyncio.ensure_future(asyncio.to_thread(server.kill))

    async with connections(server.uri("intake", "claimer"), BUYERS + RELEASERS) as made:
        await asyncio.gather(
            *(asyncio.to_thread(work, server) for _ in range(BRIDGES)),
            *(release_some(connection, history, released) for connection in made[:RELEASERS]),
            *(buyer(connection) for connection in made[RELEASERS:]),
        )
    assert killed is not None
    await killed
    return history


def nothing_is_answered_before_the_rebuild(intake: Intake) -> None:
    """Every kind of claim says not_ready."""
    not_ready = Answer("not_ready", None, None, None)
    assert intake.claim("early bird") == not_ready
    assert intake.claim_several("early bird", 2) == [not_ready]
    assert intake.claim_named("early bird", "seat 1") == not_ready
    assert intake.claim_batch([("early bird", None), ("another", None)]) == [not_ready] * 2


async def retry(server: PostgresServer, history: list[Got]) -> list[Got]:
    """I7: all buyers ask again. Those with an answer get the same one; those without may get one now."""
    wanted_calls = {(got.wanted.user, got.wanted.request): got.wanted for got in history if got.wanted.request}
    return await rush(server.uri("intake", "claimer"), 4, singly(wanted_calls.values()))


def check_releases(places: dict[UUID, str], released: Released) -> None:
    """What release_claim has answered is what happened."""
    for claim_id, answers in released.items():
        place = places[claim_id]
        if "released" in answers:
            assert place == "released"
        if "releasing" in answers:
            assert place in {"queued", "dead", "voided", "committed"}
        if "committed" in answers:
            assert place == "committed"


async def test_i1_i2_i6_i7_survive_kill_9_under_load_again_and_again(doomed: PostgresServer) -> None:
    uri = doomed.uri("intake")
    with Intake(uri) as intake:
        intake.configure(INVENTORY, ownResources=True, claimsPerUser=8, visibilityTimeoutSeconds=2)
        rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, %s) n", INVENTORY)
        intake.stock(1, [(resource, label) for resource, label in rows])
        intake.seed()
    history: list[Got] = []
    released: Released = {}
    for round_no in range(ROUNDS):
        sold = await sell_until_killed(doomed, round_no, released)
        doomed.start()
        with Intake(doomed.uri("intake", "claimer")) as buyer:
            nothing_is_answered_before_the_rebuild(buyer)
        with Intake(doomed.uri("intake", "bridge")) as bridge, Intake(uri) as intake:
            bridge.housekeep()
            assert intake.value("SELECT epoch FROM intake.pools") == round_no + 2
            history += sold
            check_releases(check_history(intake, history), released)
            history += await retry(doomed, sold)
            check_history(intake, history)

    # And the sale goes on to its end: numbers that the crashes burnt are sold too, and the ledger agrees.
    with Intake(uri) as intake:
        history += await retry_until_answered(uri, 16, singly(Wanted(f"late{n}", f"late{n}") for n in range(INVENTORY)))
        assert outcomes_of(history[-16:]).keys() == {"sold_out"}
        assert intake.inventory()[0] == 0
        check_history(intake, history)
        last = Bridge(uri, doomed.uri("ledger", "ledger_writer"))
        last.drain()
        check_releases(check_history(intake, history), released)
        (proof,) = intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
        assert proof["claims"] == proof["committed"] + proof["voided"] + proof["released"]
        assert proof["slots"] > proof["committed"], "some claims have several slots"
        ledger = last.ledger.execute("SELECT * FROM ledger_proof(%s)", [POOL]).fetchone()
        assert ledger == (proof["committed"], proof["voided"], proof["slots"], proof["digest"])
        last.close()


def test_a_clean_stop_keeps_everything(doomed: PostgresServer) -> None:
    with Intake(doomed.uri("intake")) as intake:
        first = intake.open(10).claim("ann", "r1")
    doomed.stop()
    doomed.start()
    with Intake(doomed.uri("intake")) as intake:
        assert intake.claim("ann", "r1").claim_id == first.claim_id
        assert intake.value("SELECT epoch FROM intake.pools") == 1


def forget(server: PostgresServer, user: str) -> Answer:
    """Claim, and set synchronous_commit off before COMMIT."""
    with Intake(server.uri("intake", "claimer")) as buyer, buyer.connection.transaction():
        answer = buyer.claim(user, "r1")
        buyer.connection.execute("SET LOCAL synchronous_commit = off")
    return answer


def test_i1_i2_i7_a_commit_that_its_own_client_did_not_wait_for_is_lost_alone(doomed: PostgresServer) -> None:
    """What sql/README.md says: the last claims of such clients are lost as a whole, and no others."""
    inventory = 40
    with Intake(doomed.uri("intake")) as intake:
        intake.open(inventory, claimsPerUser=1)
        kept = [intake.claim(f"kept{n}", "r1") for n in range(10)]
        # Not waited for by their clients, but by those that committed after them.
        kept += [forget(doomed, f"early{n}") for n in range(3)]
        kept += [intake.claim(f"late{n}", "r1") for n in range(10)]
        # No later commit writes their WAL: the WAL writer does it five times a second.
        (writer,) = intake.column("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        os.kill(writer, signal.SIGSTOP)
        lost = [forget(doomed, f"lost{n}") for n in range(5)]
    assert {answer.outcome for answer in [*kept, *lost]} == {"claimed"}
    doomed.kill()
    doomed.start()

    with Intake(doomed.uri("intake")) as intake:
        intake.seed()
        places = intake.column("SELECT (message ->> 'claim_id')::uuid FROM intake.intents")
        assert places == sorted(answer.claim_id for answer in kept if answer.claim_id), "no half of any claim"
        assert intake.reconcile() == []
        assert intake.inventory() == (inventory - len(kept), len(kept), 0)
        for n, answer in enumerate(lost):
            assert intake.request_status(f"lost{n}", "r1") == [], "it is not reported as claimed"
            assert intake.claim_status(answer.claim_id)["state"] == "unknown"
        users = [f"kept{n}" for n in range(10)] + [f"early{n}" for n in range(3)] + [f"late{n}" for n in range(10)]
        again = [intake.claim(user, "r1") for user in users]
        assert again == [replace(answer, outcome="replayed") for answer in kept]
        # A client that lost a claim and asks again claims anew.
        more = [intake.claim(f"lost{n}", "r1") for n in range(5)]
        more += [intake.claim(f"new{n}", "r1") for n in range(inventory)]
        sold = [answer for answer in [*kept, *more] if answer.outcome == "claimed"]
        assert len(sold) == len({answer.slot_no for answer in sold}) == inventory
        assert not {answer.claim_id for answer in lost} & {answer.claim_id for answer in sold}
        assert more[-1].outcome == "sold_out"
        assert intake.reconcile() == []


def test_a_hold_survives_kill_9_until_it_is_confirmed_or_over(doomed: PostgresServer) -> None:
    """Its slots are its own, it can be confirmed and released, and its time goes on."""
    with Intake(doomed.uri("intake")) as intake:
        intake.open(12, holdSeconds=600, extendSeconds=60, claimsPerUser=4)
        holds = [intake.claim_several(f"u{n}", 2, "r", {"order": n}) for n in range(4)]
        assert intake.confirm(holds[0][0].claim_id, "u0", {"paid": True}) == "confirmed"
        assert intake.release(holds[1][0].claim_id) == "released"
        before = intake.status()["holds"]
    doomed.kill()
    doomed.start()
    with Intake(doomed.uri("intake")) as intake:
        assert intake.confirm(holds[2][0].claim_id, "u2") == "not_ready"
        intake.housekeep()
        assert intake.status()["holds"] == before
        assert intake.reconcile() == []
        again = intake.claim_several("u2", 2, "r", {"order": 2})
        assert again == [replace(answer, outcome="replayed") for answer in holds[2]]
        told = [intake.confirm(holds[n][0].claim_id, f"u{n}") for n in range(3)]
        assert told == ["replayed", "released", "confirmed"]
        assert intake.extend_hold(holds[3][0].claim_id, "u3")[0] == "extended"
        intake.expire_holds()
        intake.housekeep()
        assert intake.confirm(holds[3][0].claim_id, "u3") == "expired"
        assert [message["payload"] for message in intake.read()] == [{"paid": True}, {"order": 2}]
        counts = intake.status()["inventory"]
        assert (counts["available"], counts["held"], counts["reserved"]) == (8, 0, 4)
        assert intake.reconcile() == []
