"""Hundreds of connections, every kind of claim against every other: nothing oversold, no wrong answer."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import batched, chain, count, zip_longest
from random import Random

import pytest

from tests.postgres import PostgresServer
from tests.sql.intake import POOL, Intake
from tests.sql.rush import (
    Call,
    Got,
    Wanted,
    check_history,
    claimed,
    outcomes_of,
    retry_until_answered,
    rush,
    singly,
)

BUYERS = 300


@pytest.fixture
def buyers(server: PostgresServer, migrated: str) -> str:
    """Where the buyers connect."""
    return server.uri(migrated, "claimer")


def mixed(*kinds: Sequence[Call]) -> list[Call]:
    """Calls of each kind, one after the other."""
    return [call for calls in zip_longest(*kinds) for call in calls if call]


def batches(wanted_calls: Iterable[Wanted], size: int) -> list[Call]:
    """A few calls for many."""
    return list(batched(wanted_calls, size))


def stocked(intake: Intake, inventory: int, **settings: object) -> Intake:
    """A pool on sale whose seats have names."""
    intake.configure(inventory, ownResources=True, **settings)
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, %s) n", inventory)
    intake.stock(1, [(resource, label) for resource, label in rows])
    intake.seed()
    return intake


async def test_i1_several_seats_against_single_ones(intake: Intake, buyers: str) -> None:
    inventory = 400
    intake.open(inventory, claimsPerUser=5)
    several = [(Wanted(f"s{n}", f"r{n}", quantity=2 + n % 4),) for n in range(200)]
    history = await retry_until_answered(
        buyers, BUYERS, mixed(several, singly(Wanted(f"u{n}", f"r{n}") for n in range(300)))
    )
    assert outcomes_of(history).keys() <= {"claimed", "sold_out", "too_few"}
    assert all(len(got.answers) == got.wanted.quantity for got in history if got.outcome == "claimed"), "all or nothing"
    # What was too few for a request for several seats is left for single claims.
    history += await retry_until_answered(buyers, 8, singly(Wanted(f"late{n}", f"r{n}") for n in range(40)))
    assert history[-1].outcome == "sold_out"
    assert len(claimed(history)) == inventory
    check_history(intake, history)


async def test_i7_a_request_for_several_seats_sent_many_times_at_once_is_one_claim(intake: Intake, buyers: str) -> None:
    intake.open(500)
    calls = [(Wanted(f"u{n // 15}", f"r{n // 15}", quantity=4),) for n in range(300)]
    # busy is right: callers that race for one request have drawn all the numbers for a moment.
    history = await retry_until_answered(buyers, BUYERS, calls)
    assert outcomes_of(history) == {"claimed": 20, "replayed": 280}
    assert {len(got.answers) for got in history} == {4}
    check_history(intake, history)


async def test_the_limit_is_kept_for_requests_for_several_seats(intake: Intake, buyers: str) -> None:
    intake.open(500, claimsPerUser=5)
    calls = [(Wanted(f"u{n % 20}", f"r{n}", quantity=1 + n % 3),) for n in range(400)]
    history = await retry_until_answered(buyers, BUYERS, calls)
    held = Counter[str]()
    for got in history:
        held[got.wanted.user] += len(got.answers) if got.outcome == "claimed" else 0
    assert outcomes_of(history).keys() == {"claimed", "limit_reached"}
    # Three slots may be too many where one is still free, but no single claim was refused early.
    assert held == Counter({f"u{n}": 5 for n in range(20)})
    check_history(intake, history)


@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_batches_against_singles_of_the_same_users(intake: Intake, buyers: str, limit: int | None) -> None:
    """Batches in every order of users, each in the way of all the others."""
    inventory, users = 300, 120
    intake.open(inventory, claimsPerUser=limit)
    wanted_calls = [Wanted(f"u{n % users}", f"r{n % 360}") for n in range(720)]
    calls = mixed(
        batches(wanted_calls, 24), batches(wanted_calls[::-1], 24), batches(wanted_calls[::7], 10), singly(wanted_calls)
    )
    history = await retry_until_answered(buyers, BUYERS, calls)
    assert outcomes_of(history).keys() <= {"claimed", "replayed", "limit_reached", "sold_out"}
    assert len(claimed(history)) == min(inventory, users * (limit or users))
    check_history(intake, history)


async def test_a_seat_that_all_users_want_is_sold_once(intake: Intake, buyers: str) -> None:
    stocked(intake, 30)
    ids = {label: str(resource) for label, resource in intake.rows("SELECT label, resource_id FROM intake.slots")}
    labels = [f"seat {n % 10 + 1}" for n in range(600)]
    calls = [(Wanted(f"u{n}", f"r{n}", seats=(seat if n % 2 else ids[seat],)),) for n, seat in enumerate(labels)]
    history = await retry_until_answered(buyers, BUYERS, calls)
    assert outcomes_of(history) == {"claimed": 10, "taken": 590}
    assert sorted(answer.slot_no or 0 for answer in claimed(history)) == list(range(1, 11))
    check_history(intake, history)


async def test_named_seats_against_the_next_one(intake: Intake, buyers: str) -> None:
    inventory = 300
    stocked(intake, inventory)
    named = [(Wanted(f"n{n}", f"r{n}", seats=(f"seat {(n * 37) % inventory + 1}",)),) for n in range(inventory)]
    history = await retry_until_answered(
        buyers, BUYERS, mixed(named, singly(Wanted(f"u{n}", f"r{n}") for n in range(250)))
    )
    assert outcomes_of(history).keys() <= {"claimed", "taken", "sold_out"}
    history += await retry_until_answered(buyers, 16, singly(Wanted(f"late{n}", f"r{n}") for n in range(inventory)))
    assert history[-1].outcome == "sold_out"
    assert len(claimed(history)) == inventory
    check_history(intake, history)


async def test_the_next_slot_is_found_after_any_number_of_named_seats(intake: Intake, buyers: str) -> None:
    stocked(intake, 200)
    history = await rush(buyers, 8, [(Wanted(f"n{n}", seats=(f"seat {n}",)),) for n in range(1, 200)])
    (last,) = await rush(buyers, 1, [(Wanted("ann"),)])
    assert last.answers[0].slot_no == 200, (
        "one slot is free, and no other claim runs: neither busy nor sold out is true"
    )
    check_history(intake, [*history, last])


async def test_i1_releases_and_voids_during_the_sell_out(intake: Intake, uri: str, buyers: str) -> None:
    """Slots come back from buyers and from the ledger while hundreds wait for one: each is sold once more."""
    inventory = 150
    intake.open(inventory)
    history: list[Got] = []
    ended = Counter[str]()
    over = asyncio.Event()

    def void() -> None:
        with Intake(uri) as bridge:
            while not over.is_set():
                ended["voided"] += len(bridge.acknowledge(bridge.read(3), "voided"))
                ended["voided"] += len(bridge.acknowledge(bridge.read_releases(10), "voided"))

    def release() -> None:
        with Intake(uri) as buyer:
            while not over.is_set():
                for claim_id in [answer.claim_id for answer in claimed(history)][-30:]:
                    buyer.release(claim_id)

    async def remember(got: list[Got]) -> None:
        history.extend(got)

    async def claim() -> None:
        wanted_calls = [Wanted(f"u{n % 90}", f"r{n}", quantity=1 + (n % 5 == 0)) for n in range(1500)]
        await rush(buyers, BUYERS, singly(wanted_calls), remember)
        over.set()

    await asyncio.gather(asyncio.to_thread(void), asyncio.to_thread(release), asyncio.to_thread(release), claim())
    places = check_history(intake, history)
    assert Counter(places.values())["voided"] == ended["voided"]
    assert len(claimed(history)) > inventory, "slots that came back were sold again"
    history += await retry_until_answered(buyers, 16, singly(Wanted(f"late{n}", f"r{n}") for n in range(2 * inventory)))
    assert history[-1].outcome == "sold_out"
    check_history(intake, history)
    assert intake.inventory()[0] == 0


async def test_one_claim_released_by_many_frees_one_slot(intake: Intake, uri: str) -> None:
    intake.open(1)
    claim = intake.claim("ann", "r1")

    def release(_: int) -> str:
        with Intake(uri) as buyer:
            return buyer.release(claim.claim_id)

    assert set(await asyncio.gather(*(asyncio.to_thread(release, n) for n in range(24)))) == {"released"}
    assert [intake.claim(f"u{n}").outcome for n in range(2)] == ["claimed", "sold_out"]
    assert intake.reconcile() == []


async def test_inventory_grows_during_the_rush(intake: Intake, uri: str, buyers: str) -> None:
    intake.open(50)

    def grow() -> None:
        with Intake(uri) as operator:
            for size in range(100, 401, 50):
                operator.configure(size)
                operator.seed()

    kinds = (
        singly(Wanted(f"u{n}", f"r{n}") for n in range(300)),
        singly(Wanted(f"p{n}", f"r{n}", quantity=3) for n in range(60)),
        batches([Wanted(f"b{n}", f"r{n}") for n in range(300)], 10),
    )
    history, _ = await asyncio.gather(rush(buyers, BUYERS, mixed(*kinds)), asyncio.to_thread(grow))
    assert "deadlock" not in outcomes_of(history)
    history += await retry_until_answered(buyers, 16, singly(Wanted(f"late{n}", f"r{n}") for n in range(410)))
    assert history[-1].outcome == "sold_out"
    assert len(claimed(history)) == 400
    check_history(intake, history)


async def test_i2_seal_during_the_rush_lets_nothing_pass(intake: Intake, uri: str, buyers: str) -> None:
    intake.open(100_000)
    at_seal: set[object] = set()
    busy, sealed, answers = asyncio.Event(), asyncio.Event(), count(1)

    async def notice(_: list[Got]) -> None:
        busy.set()
        # However late the seal comes, calls are left for after it: each buyer stops after at most one more answer.
        if next(answers) > len(calls) - 2 * BUYERS:
            await sealed.wait()

    async def seal() -> None:
        await busy.wait()
        with Intake(uri) as operator:
            await asyncio.to_thread(operator.value, "SELECT intake.seal(%s, 'window closed')", POOL)
            at_seal.update(operator.column("SELECT (message ->> 'claim_id')::uuid FROM pgmq.q_intake_queue"))
        sealed.set()

    kinds = (
        singly(Wanted(f"u{n}", f"r{n}") for n in range(600)),
        singly(Wanted(f"p{n}", f"r{n}", quantity=3) for n in range(200)),
        batches([Wanted(f"b{n}", f"r{n}") for n in range(2000)], 20),
    )
    calls = mixed(*kinds)
    history, _ = await asyncio.gather(rush(buyers, BUYERS, calls, notice), seal())
    assert outcomes_of(history).keys() == {"claimed", "closed"}
    assert {answer.claim_id for answer in claimed(history)} == at_seal, "seal saw every claim there will ever be"
    check_history(intake, history)


async def test_every_kind_at_once_until_nothing_is_left(intake: Intake, buyers: str) -> None:
    inventory = 600
    stocked(intake, inventory, claimsPerUser=6)
    kinds = (
        singly(Wanted(f"u{n % 200}", f"a{n}") for n in range(300)),
        singly(Wanted(f"u{n % 200}", f"b{n}", quantity=3) for n in range(150)),
        singly(Wanted(f"u{n % 200}", f"c{n}", seats=(f"seat {n * 4 + 1}",)) for n in range(150)),
        batches([Wanted(f"u{(n * 3) % 200}", f"d{n}") for n in range(300)], 12),
    )
    history = await retry_until_answered(buyers, BUYERS, list(chain(mixed(*kinds))))
    history += await retry_until_answered(buyers, 16, singly(Wanted(f"late{n}", f"r{n}") for n in range(inventory)))
    assert history[-1].outcome == "sold_out"
    assert len(claimed(history)) == inventory
    check_history(intake, history)


async def test_i1_seats_named_together_are_sold_together_and_once(intake: Intake, buyers: str) -> None:
    """Groups of seats that overlap, named in any order, by many sessions: no deadlock, and nobody gets a part."""
    inventory, chance = 60, Random(13)
    stocked(intake, inventory, claimsPerUser=8)
    groups = [chance.sample(range(1, inventory + 1), chance.randint(2, 5)) for _ in range(700)]
    calls = [
        (Wanted(f"u{n % 150}", f"r{n % 500}", seats=tuple(f"seat {k}" for k in group), payload=f"{n % 500}"),)
        for n, group in enumerate(groups)
    ]
    history = await rush(buyers, BUYERS, calls)
    assert outcomes_of(history).keys() <= {"claimed", "taken", "limit_reached", "different", "replayed"}, "no deadlock"
    check_history(intake, history)
    sold = {answer.slot_no for answer in claimed(history)}
    for got in history:
        if got.outcome == "taken":
            taken = {answer.label for answer in got.answers}
            assert taken <= set(got.wanted.seats), "those that were asked for"
            assert {answer.slot_no for answer in got.answers} <= sold
    # What nobody got as a part of a group is left, and free.
    (left,) = await retry_until_answered(buyers, 1, [(Wanted("late", quantity=1),)])
    assert left.outcome == ("claimed" if len(sold) < inventory else "sold_out")
    check_history(intake, [*history, left])


async def test_i1_every_kind_of_order_against_every_other(intake: Intake, buyers: str) -> None:
    """Named groups, quantities and batches of quantities, by the same users. A deadlock is answered 40P01."""
    inventory, chance = 500, Random(31)
    stocked(intake, inventory, claimsPerUser=12)
    kinds = (
        [
            (Wanted(f"u{n % 90}", f"s{n}", seats=tuple(f"seat {k}" for k in chance.sample(range(1, 501), 3))),)
            for n in range(150)
        ],
        [(Wanted(f"u{n % 90}", f"q{n % 120}", quantity=1 + n % 120 % 4, payload=f"{n % 120}"),) for n in range(200)],
        batches([Wanted(f"u{n % 90}", f"b{n % 200}", quantity=1 + n % 200 % 3, payload="b") for n in range(400)], 15),
    )
    history = await retry_until_answered(buyers, BUYERS, mixed(*kinds))
    assert outcomes_of(history).keys() <= {"claimed", "replayed", "taken", "too_few", "sold_out", "limit_reached"}
    check_history(intake, history)
    history += await retry_until_answered(buyers, 16, singly(Wanted(f"late{n}", f"r{n}") for n in range(inventory)))
    assert history[-1].outcome == "sold_out"
    assert len(claimed(history)) == inventory
    check_history(intake, history)


async def test_i13_ten_thousand_callers_of_two_seats_in_batches(intake: Intake, buyers: str) -> None:
    """Each request is sent twice, and by some callers with another payload. An odd seat is left over."""
    callers, inventory = 10_000, 15_001
    intake.open(inventory, claimsPerUser=2)
    wanted_calls = [Wanted(f"u{n}", f"r{n}", 2, payload=f"order {n}") for n in range(callers)]
    again = Random(10).sample(wanted_calls, callers)
    other = [replace(wanted, payload="another") for wanted in again[:200]]
    calls = mixed(batches(wanted_calls, 100), batches(again, 100)) + batches(other, 50)
    history = await retry_until_answered(buyers, 40, calls)
    outcomes = outcomes_of(history)
    assert outcomes.keys() <= {"claimed", "replayed", "too_few", "different", "limit_reached"}
    assert (outcomes["claimed"], outcomes["different"] > 0) == (inventory // 2, True)
    places = check_history(intake, history)
    assert set(places.values()) == {"queued"}
    assert len(places) == inventory // 2
    assert intake.value("SELECT count(*) FROM intake.claimed_slots") == 2 * len(places), "no claim with one seat"
    assert intake.status()["inventory"]["available"] == 1
    answers: dict[str, set[object]] = defaultdict(set)
    for got in history:
        if got.outcome in {"claimed", "replayed"}:
            answers[got.wanted.user].add(got.answers[0].claim_id)
    assert {len(made) for made in answers.values()} == {1}, "a repeat is answered with the first claim"
    assert intake.claim("late").outcome == "claimed"
    assert intake.reconcile() == []
