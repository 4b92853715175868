"""kill -9 under load, several times in one sale: what was acknowledged is there, what was not is sold once."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.postgres import PostgresServer, install_intake
from tests.sql.intake import POOL, Answer, Asked, Intake, crowd, outcomes

if TYPE_CHECKING:
    from uuid import UUID

INVENTORY = 2000
CLAIMS_PER_ROUND = 500


@pytest.fixture
def doomed() -> Iterator[PostgresServer]:
    """A server of its own: the others' would not survive this."""
    with PostgresServer() as server:
        install_intake(server.create_database("intake"))
        yield server


def work(uri: str, rounds: int) -> None:
    """A bridge: most claims are committed, some voided, a few die; until the server does."""
    try:
        with Intake(uri) as bridge:
            for n in range(rounds):
                messages = bridge.read(20)
                bridge.change("mark_validated", messages)
                bridge.acknowledge(messages[:14], "committed")
                bridge.acknowledge(messages[14:17], "voided")
                bridge.change("dead_letter", messages[17:18], ["poison"] * len(messages[17:18]))
                if n % 5 == 0:
                    bridge.housekeep()
    except psycopg.OperationalError:
        return


async def sell_until_killed(server: PostgresServer, round_no: int) -> list[Asked]:
    """Claims and acknowledgements at full speed; SIGKILL as soon as enough fans have their answer."""
    answered = 0
    killed: asyncio.Future[None] | None = None

    async def count(_: Asked) -> None:
        nonlocal answered, killed
        answered += 1
        if answered == CLAIMS_PER_ROUND:
            killed = asyncio.ensure_future(asyncio.to_thread(server.kill))

    calls = ((f"u{round_no}-{n // 2 % 200}", f"r{round_no}-{n // 2}") for n in range(INVENTORY))
    bridge = asyncio.create_task(asyncio.to_thread(work, server.uri("intake", "postgres"), 10_000))
    history = await crowd(server.uri("intake", "claimer"), 24, calls, count)
    assert killed is not None, "the crowd was not large enough"
    await killed
    await bridge
    return history


def check(intake: Intake, history: list[Asked]) -> None:
    """The whole history against what DB1 has."""
    promised = {a.answer.claim_id: a for a in history if a.answer and a.answer.claim_id}
    places: dict[UUID, str] = {}
    slots: dict[UUID, tuple[str, int]] = {}
    for claim_id, place, user, slot_no in intake.rows(
        "SELECT (message ->> 'claim_id')::uuid, place, message ->> 'user_id', (message ->> 'slot_no')::int"
        " FROM intake.intents"
    ):
        assert claim_id not in places, f"I2: claim {claim_id} is in two places"
        places[claim_id], slots[claim_id] = place, (user, slot_no)
    lost = promised.keys() - places.keys()
    assert not lost, f"I2: acknowledged and lost: {lost}"
    for claim_id, asked in promised.items():
        assert claim_id is not None
        assert asked.answer is not None
        assert slots[claim_id] == (asked.user, asked.answer.slot_no)
    held = [slots[claim_id][1] for claim_id, place in places.items() if place != "voided"]
    assert len(held) == len(set(held)), "I1: one slot, two claims"
    available, reserved, consumed = intake.inventory()
    assert available + reserved + consumed == INVENTORY, "I6"
    assert reserved + consumed == len(held), "I6"
    assert intake.reconcile() == []


async def test_i1_i2_i6_i7_survive_kill_9_under_load(doomed: PostgresServer) -> None:
    uri = doomed.uri("intake")
    with Intake(uri) as intake:
        intake.open(INVENTORY, claimsPerUser=8, visibilityTimeoutSeconds=5)
    history: list[Asked] = []
    for round_no in range(3):
        history += await sell_until_killed(doomed, round_no)
        doomed.start()
        with Intake(uri) as intake, Intake(doomed.uri("intake", "bridge")) as bridge:
            assert intake.claim("early bird") == Answer("not_ready", None, None, None)
            bridge.housekeep()
            assert intake.value("SELECT epoch FROM intake.pools") == round_no + 2
            check(intake, history)
            # I7: whoever retries gets the same claim; whose answer was lost, gets one claim and no second.
            for asked in history:
                again = intake.claim(asked.user, asked.request)
                if asked.answer and asked.answer.claim_id:
                    assert (again.outcome, again.claim_id) == ("replayed", asked.answer.claim_id), "I7"
                elif asked.answer is None and again.claim_id:
                    history.append(Asked(asked.user, asked.request, again))

    # And the sale goes on to its end: numbers that the crashes burnt are sold too.
    with Intake(uri) as intake:
        intake.configure(INVENTORY)
        history += await crowd(uri, 24, [(f"late{n}", f"late{n}") for n in range(INVENTORY)])
        assert outcomes(history[-24:])["sold_out"] > 0
        while intake.inventory()[0]:
            history += await crowd(uri, 4, [(f"last{n}", None) for n in range(8)])
        check(intake, history)
        assert intake.claim("nobody").outcome == "sold_out"
        assert intake.value("SELECT claims = committed + voided + queued + dead FROM intake.proof(%s)", POOL) is True


def test_a_clean_stop_keeps_everything(doomed: PostgresServer) -> None:
    with Intake(doomed.uri("intake")) as intake:
        first = intake.open(10).claim("ann", "r1")
    doomed.stop()
    doomed.start()
    with Intake(doomed.uri("intake")) as intake:
        assert intake.claim("ann", "r1").claim_id == first.claim_id
        assert intake.value("SELECT epoch FROM intake.pools") == 1
