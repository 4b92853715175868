"""Many claims at once: nothing oversold, no wrong answer, nothing left over."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.postgres import PostgresServer
from tests.sql.intake import Asked, Intake, claims, crowd, outcomes, wait_until_blocked

BUYERS = 64


def consistent(intake: Intake, history: list[Asked], inventory: int) -> None:
    """I1, I2, I6 and I7, from the buyers' own record and from DB1's."""
    acknowledged = claims(history)
    slots = Counter(answer.slot_no for answer in acknowledged)
    assert max(slots.values(), default=0) <= 1, "I1: a slot was promised twice"
    assert len(acknowledged) <= inventory, "I1"
    queued = intake.column("SELECT (message ->> 'claim_id')::uuid FROM pgmq.q_intake_queue")
    assert queued == sorted(answer.claim_id for answer in acknowledged if answer.claim_id), "I2"
    available, reserved, consumed = intake.inventory()
    assert (available + reserved + consumed, reserved) == (inventory, len(acknowledged)), "I6"
    by_request: dict[tuple[str, str], set[object]] = {}
    for asked in history:
        if asked.request and asked.answer and asked.answer.claim_id:
            by_request.setdefault((asked.user, asked.request), set()).add(asked.answer.claim_id)
    assert all(len(made) == 1 for made in by_request.values()), "I7"
    assert intake.reconcile() == []


@pytest.mark.parametrize("inventory", [1, 7, 50, 200, 400])
async def test_i1_selling_out_sells_every_slot_once(
    intake: Intake, server: PostgresServer, migrated: str, inventory: int
) -> None:
    intake.open(inventory, claimsPerUser=1)
    wanted = [(f"u{n}", f"r{n}") for n in range(inventory + 3 * BUYERS)]
    history = await crowd(server.uri(migrated, "claimer"), BUYERS, wanted)
    # busy is right while the last numbers are in running transactions; those buyers ask once more.
    busy = [(a.user, a.request) for a in history if a.answer and a.answer.outcome == "busy"]
    history += await crowd(intake.uri, 4, busy)
    assert outcomes(history).keys() - {"busy"} == {"claimed", "sold_out"}
    assert len(claims(history)) == inventory
    consistent(intake, history, inventory)


async def test_i1_slots_that_return_during_the_sell_out_are_sold_once_more(intake: Intake, uri: str) -> None:
    inventory, returned = 100, 0
    intake.open(inventory)
    total: list[Asked] = []

    async def void_some() -> None:
        nonlocal returned
        with Intake(uri) as bridge:
            while returned < 60:
                messages = await asyncio.to_thread(bridge.read, 5)
                returned += len(await asyncio.to_thread(bridge.acknowledge, messages, "voided"))

    async def buyers() -> None:
        calls = ((f"u{n}", f"r{n}") for n in range(1_000_000))
        while returned < 60 or not total or outcomes(total[-40:])["sold_out"] < 40:
            batch = [next(calls) for _ in range(60)]
            total.extend(await crowd(uri, 16, batch))

    await asyncio.gather(void_some(), buyers())
    assert intake.inventory() == (0, inventory, 0)
    assert len(claims(total)) == inventory + returned
    voided = intake.column("SELECT (message ->> 'claim_id')::uuid FROM pgmq.a_intake_queue")
    assert len(voided) == returned
    live = intake.column("SELECT (message ->> 'claim_id')::uuid FROM pgmq.q_intake_queue")
    assert sorted(live + voided) == sorted(answer.claim_id for answer in claims(total) if answer.claim_id)
    assert intake.reconcile() == []


async def test_the_limit_per_user_is_kept_under_many_claims_of_one_user(intake: Intake, uri: str) -> None:
    intake.open(500, claimsPerUser=3)
    calls = [(f"u{n % 20}", f"r{n}") for n in range(400)]
    history = await crowd(uri, BUYERS, calls)
    held = Counter(asked.user for asked in history if asked.answer and asked.answer.outcome == "claimed")
    assert held == Counter({f"u{n}": 3 for n in range(20)})
    consistent(intake, history, 500)


async def test_the_limit_is_kept_while_claims_of_the_user_are_voided(intake: Intake, uri: str) -> None:
    intake.open(500, claimsPerUser=2)
    stop = asyncio.Event()
    most = 0

    async def void() -> None:
        with Intake(uri) as bridge:
            while not stop.is_set():
                await asyncio.to_thread(bridge.acknowledge, await asyncio.to_thread(bridge.read, 2), "voided")

    async def watch() -> None:
        nonlocal most
        with Intake(uri) as looker:
            while not stop.is_set():
                held = await asyncio.to_thread(
                    looker.value,
                    "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM intake.claimed_slots"
                    " WHERE status <> 'V' GROUP BY user_id)",
                )
                most = max(most, held)

    async def claim() -> None:
        await crowd(uri, 16, [(f"u{n % 4}", f"r{n}") for n in range(800)])
        stop.set()

    await asyncio.gather(void(), watch(), claim())
    assert most <= 2
    assert intake.reconcile() == []


def test_two_claims_of_a_user_at_once_wait_for_each_other(intake: Intake, uri: str) -> None:
    intake.open(10, claimsPerUser=1)
    with Intake(uri) as one, Intake(uri) as other, ThreadPoolExecutor() as threads:
        with one.connection.transaction():
            assert one.claim("ann", "r1").outcome == "claimed"
            second = threads.submit(other.claim, "ann", "r2")
            wait_until_blocked(intake, second)
        assert second.result().outcome == "limit_reached"
        with one.connection.transaction(force_rollback=True):
            assert one.claim("bob", "r1").outcome == "claimed"
            second = threads.submit(other.claim, "bob", "r2")
            wait_until_blocked(intake, second)
        assert second.result().outcome == "claimed", "the first was rolled back"
    assert intake.reconcile() == []


def test_i7_a_request_sent_twice_at_once_is_one_claim(intake: Intake, uri: str) -> None:
    intake.open(10)
    with Intake(uri) as one, Intake(uri) as other, ThreadPoolExecutor() as threads:
        with one.connection.transaction():
            first = one.claim("ann", "r1")
            second = threads.submit(other.claim, "ann", "r1")
            wait_until_blocked(intake, second)
        assert (second.result().outcome, second.result().claim_id) == ("replayed", first.claim_id)
    assert intake.inventory() == (9, 1, 0)
    assert intake.housekeep() == 0, "the second's number went to the free list by itself"
    assert intake.reconcile() == []


@pytest.mark.parametrize("limit", [None, 1, 5])
async def test_i7_a_request_sent_many_times_at_once_is_one_claim(intake: Intake, uri: str, limit: int | None) -> None:
    intake.open(500, claimsPerUser=limit)
    history = await crowd(uri, BUYERS, [(f"u{n // 16}", f"r{n // 16}") for n in range(320)])
    assert outcomes(history) == {"claimed": 20, "replayed": 300}
    consistent(intake, history, 500)


async def test_numbers_burnt_by_aborted_claims_all_come_back(intake: Intake, uri: str) -> None:
    intake.open(100)

    def abort(number: int) -> None:
        with Intake(uri) as buyer:
            for n in range(5):
                with buyer.connection.transaction(force_rollback=True):
                    buyer.claim(f"a{number}-{n}")

    aborting = [asyncio.create_task(asyncio.to_thread(abort, number)) for number in range(6)]
    history = await crowd(uri, 16, [(f"u{n}", None) for n in range(60)])
    await asyncio.gather(*aborting)
    history += await crowd(uri, 8, [(f"v{n}", None) for n in range(100)])
    while "busy" in outcomes(history[-8:]) or outcomes(history[-8:])["sold_out"] < 8:
        history += await crowd(uri, 8, [(f"w{n}", None) for n in range(8)])
    assert len(claims(history)) == 100
    consistent(intake, history, 100)


def test_a_running_claims_number_is_not_burnt(intake: Intake, uri: str) -> None:
    """recycle_numbers() may run any number of times while a claim has a number that no other can see."""
    intake.open(3)
    with Intake(uri) as slow:
        with slow.connection.transaction():
            assert slow.claim("slow").slot_no == 1
            assert intake.claim("quick").slot_no == 2
            assert [intake.housekeep() for _ in range(3)] == [0, 0, 0]
            assert intake.column("SELECT slot_no FROM intake.free_numbers") == []
        assert intake.housekeep() == 0
    assert intake.reconcile() == []


def test_a_number_that_is_claimed_already_is_never_sold_again(intake: Intake) -> None:
    """A sequence that starts over, as after a restore of an older one, gives claimed numbers, which are skipped."""
    intake.open(5)
    first = [intake.claim(f"u{n}") for n in range(3)]
    intake.value("SELECT setval('intake.numbers_1', 1, false)")
    assert [intake.claim(f"v{n}").slot_no for n in range(3)] == [4, 5, None]
    held = intake.column("SELECT claim_id FROM intake.claimed_slots")
    assert {answer.claim_id for answer in first} < set(held)
    assert intake.reconcile() == []


@pytest.mark.parametrize("limited", [True, False])
def test_i7_a_claim_that_is_voided_while_the_limit_is_switched_answers_its_request(
    intake: Intake, uri: str, *, limited: bool
) -> None:
    """The switch gives every claim a unique key of the new kind, also one whose row moves meanwhile."""
    before, after = (None, 2) if limited else (2, None)
    first = intake.open(10, claimsPerUser=before).claim("ann", "r1")
    with Intake(uri) as bridge, Intake(uri) as operator, ThreadPoolExecutor() as threads:
        with bridge.connection.transaction():
            bridge.acknowledge(bridge.read(), "voided")
            switching = threads.submit(operator.configure, 10, claimsPerUser=after)
            wait_until_blocked(intake, switching)
        switching.result()
    assert intake.claim("ann", "r1") == replace(first, outcome="replayed")
    assert intake.reconcile() == []


def test_a_claim_that_ends_while_its_status_is_asked_is_not_taken_for_dead(intake: Intake) -> None:
    """The bridge acknowledges between two reads of a status: no longer on the queue does not mean dead."""
    claim = intake.open(3).claim("ann", "r1")
    messages = intake.read()
    with (
        Intake(intake.uri) as bridge,
        Intake(intake.uri) as between,
        Intake(intake.uri) as buyer,
        ThreadPoolExecutor() as threads,
    ):
        with bridge.connection.transaction():
            bridge.acknowledge(messages, "committed")
            between.connection.execute("BEGIN")
            # Waits for the bridge, and lets no session read the queue before it is done.
            lock = threads.submit(between.connection.execute, "LOCK TABLE pgmq.q_intake_queue IN ACCESS EXCLUSIVE MODE")
            wait_until_blocked(intake, lock)
            status = threads.submit(buyer.claim_status, claim.claim_id)
            wait_until_blocked(intake, lock, status)
        lock.result()
        between.connection.execute("ROLLBACK")
        assert status.result()["state"] in {"queued", "validated", "committed"}
