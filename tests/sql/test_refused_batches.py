"""Batches that come too early, too late or after the last slot: one query for all, and a true answer for each."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from tests.postgres import PostgresServer
from tests.sql.intake import POOL, Answer, Intake, connections, lose_unlogged, wait_until_blocked, window
from tests.sql.rush import Wanted, ask_for, check_history, rush

if TYPE_CHECKING:
    from uuid import UUID

CROWD = [(f"new{n}", f"r{n % 7}" if n % 3 else None) for n in range(500)]


def refused(outcome: str) -> Answer:
    return Answer(outcome, None, None, None)


def sold_out(intake: Intake, inventory: int = 3, **settings: object) -> list[Answer]:
    """Sell everything, and let the pool notice."""
    intake.open(inventory, **settings)
    claims = [intake.claim(f"u{n}", "r1") for n in range(inventory)]
    assert intake.claim("late") == refused("sold_out")
    return claims


def one_by_one(intake: Intake, callers: list[tuple[str, str | None]]) -> tuple[list[Answer], int, bool]:
    """The answers to a batch, how many of its callers were looked at one by one, and whether anything was written."""
    with intake.connection.transaction():
        intake.connection.execute("SET LOCAL track_functions = 'pl'")
        answers = intake.claim_batch([*callers])
        ((calls, wrote),) = intake.rows(
            "SELECT coalesce(sum(calls), 0)::int, pg_current_xact_id_if_assigned() IS NOT NULL"
            " FROM pg_stat_xact_user_functions WHERE funcname = 'claim_slots'"
        )
        return answers, calls, wrote


def closed(intake: Intake) -> None:
    intake.configure(3, **window(closes=timedelta(minutes=-1)))


REFUSED: dict[str, Callable[[Intake], Any]] = {
    "sold_out": lambda intake: None,
    "closed": closed,
    "not_open": lambda intake: intake.configure(3, **window(opens=timedelta(minutes=1))),
    "paused": lambda intake: intake.configure(3, paused=True),
    "not_ready": lambda intake: lose_unlogged(intake.connection),
}


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("outcome", REFUSED)
def test_a_refused_batch_of_new_users_is_answered_by_one_query(intake: Intake, outcome: str, limit: int | None) -> None:
    sold_out(intake, claimsPerUser=limit)
    REFUSED[outcome](intake)
    assert one_by_one(intake, CROWD) == ([refused(outcome)] * len(CROWD), 0, False)


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("outcome", [each for each in REFUSED if each != "not_ready"])
def test_i7_a_caller_with_a_claim_gets_it_again_in_a_sold_out_batch(
    intake: Intake, outcome: str, limit: int | None
) -> None:
    first, second, third = sold_out(intake, claimsPerUser=limit)
    intake.acknowledge(intake.read(1), "committed")
    REFUSED[outcome](intake)
    callers = [("ann", "r1"), ("u0", "r1"), ("u1", "r1"), ("u1", "other"), ("u2", None), ("u2", "r1"), ("u1", "r1")]
    replayed = {
        place: Answer("replayed", claim.claim_id, claim.resource_id, claim.slot_no)
        for place, claim in ((1, first), (2, second), (5, third), (6, second))
    }
    assert intake.claim_batch(callers) == [replayed.get(place, refused(outcome)) for place in range(len(callers))]


def test_a_batch_after_the_last_slot_gets_what_has_come_back(intake: Intake) -> None:
    claims = sold_out(intake)
    assert intake.release(claims[1].claim_id) == "released"
    answers = intake.claim_batch([("ann", "r1"), ("bob", None), ("cid", "r1")])
    assert sorted(answer.outcome for answer in answers) == ["claimed", "sold_out", "sold_out"]
    assert {answer.slot_no for answer in answers} == {2, None}
    # Bob's retry, when the slot belongs to another claim and when it has come back again.
    again = Answer("replayed", claims[1].claim_id, claims[1].resource_id, claims[1].slot_no)
    assert intake.claim_batch([("u1", "r1"), ("dan", "r1")]) == [again, refused("sold_out")]


def test_the_last_slot_and_its_new_owner_are_seen_at_one_instant(intake: Intake) -> None:
    """Bob's claim takes the last number while a batch with Bob's retry reads."""
    (claim,) = sold_out(intake, 1)
    intake.release(claim.claim_id)
    with (
        Intake(intake.uri) as bob,
        Intake(intake.uri) as between,
        Intake(intake.uri) as batch,
        ThreadPoolExecutor() as threads,
    ):
        with bob.connection.transaction():
            got = bob.claim("bob", "r1")
            between.connection.execute("BEGIN")
            # Waits for Bob, and lets no session read the free list before Bob's claim is done.
            lock = threads.submit(between.connection.execute, "LOCK TABLE intake.free_numbers IN ACCESS EXCLUSIVE MODE")
            wait_until_blocked(intake, lock)
            answers = threads.submit(batch.claim_batch, [("bob", "r1"), ("cid", "r1")])
            wait_until_blocked(intake, lock, answers)
        lock.result()
        between.connection.execute("ROLLBACK")
        replayed = Answer("replayed", got.claim_id, got.resource_id, 1)
        assert answers.result() == [replayed, refused("sold_out")]


async def test_sold_out_is_answered_to_a_batch_only_while_nothing_is_free(
    intake: Intake, server: PostgresServer, migrated: str
) -> None:
    """Slots come back all the time. One that was free from before a call until after it is not sold out."""
    inventory, batches, size = 12, 200, 10
    sold_out(intake, inventory)
    begun: dict[UUID, tuple[int, float]] = {}
    given_back: dict[UUID, float] = {}
    turned_away: list[tuple[float, float]] = []
    history = await rush(server.uri(migrated, "claimer"), 1, [(Wanted(f"u{n}", "r1"),) for n in range(inventory)])
    held = [answer for got in history for answer in got.answers]
    begun |= {answer.claim_id: (answer.slot_no or 0, -inf) for answer in held if answer.claim_id}
    over = asyncio.Event()

    async def claim(connection: Any, buyer: int) -> None:  # noqa: ANN401 - a connection of whatever rows
        for n in range(batches):
            call = tuple(Wanted(f"f{buyer}-{n}-{k}", "r1") for k in range(size))
            invoked = time.monotonic()
            got = await ask_for(connection, call)
            returned = time.monotonic()
            history.extend(got)
            for answer in (answer for each in got for answer in each.answers):
                if answer.claim_id:
                    begun[answer.claim_id] = answer.slot_no or 0, invoked
                    held.append(answer)
                elif answer.outcome == "sold_out":
                    turned_away.append((invoked, returned))

    def release() -> None:
        with Intake(intake.uri) as buyer:
            while not over.is_set():
                if held:
                    claim_id = held.pop(0).claim_id
                    assert claim_id
                    assert buyer.release(claim_id) == "released"
                    given_back[claim_id] = time.monotonic()

    async def claim_all() -> None:
        async with connections(server.uri(migrated, "claimer"), 4) as buyers:
            await asyncio.gather(*(claim(connection, buyer) for buyer, connection in enumerate(buyers)))
        over.set()

    await asyncio.gather(asyncio.to_thread(release), claim_all())
    check_history(intake, history)
    assert len(given_back) > inventory
    assert turned_away
    # A version 7 id has the order in which the claims of one slot were made.
    owners: dict[int, list[UUID]] = defaultdict(list)
    for claim_id, (slot_no, _) in sorted(begun.items(), key=lambda item: str(item[0])):
        owners[slot_no].append(claim_id)
    for claims in owners.values():
        for one, following in zip(claims, [*claims[1:], None], strict=True):
            free_until = begun[following][1] if following else inf
            free_from = given_back.get(one, inf)
            lies = [each for each in turned_away if free_from < each[0] and each[1] < free_until]
            assert not lies, f"a slot was free all the time, and {len(lies)} were answered that {POOL} is sold out"
