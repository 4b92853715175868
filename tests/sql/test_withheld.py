"""Withheld slots: nobody claims them, they are counted, they survive a crash, and they come back."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest

from tests.sql.intake import POOL, Answer, Intake, Request, connections, lose_unlogged, wait_until_blocked

WHY = ("ops@example.com", "house seats")


def withhold(intake: Intake, slots: Iterable[int | None]) -> dict[int, str]:
    """What became of each slot."""
    return dict(
        intake.rows("SELECT * FROM intake.withhold_slots(%s, %s::bigint[], %s, %s)", intake.pool, list(slots), *WHY)
    )


def give_back(intake: Intake, slots: Iterable[int]) -> dict[int, str]:
    """What became of each slot."""
    return dict(
        intake.rows("SELECT * FROM intake.return_slots(%s, %s::bigint[], %s, %s)", intake.pool, list(slots), *WHY)
    )


def withheld(intake: Intake) -> list[int]:
    """The slots that are withheld."""
    return [row[0] for row in intake.rows("SELECT * FROM intake.withheld_slots(%s)", intake.pool)]


def sell(intake: Intake, most: int = 1000) -> list[int]:
    """The slots of claims until one is not answered with a slot; it has to be sold out."""
    sold: list[int] = []
    for n in range(most):
        answer = intake.claim(f"buyer {n}")
        if answer.outcome != "claimed":
            assert answer.outcome == "sold_out"
            break
        assert answer.slot_no is not None
        sold.append(answer.slot_no)
    return sorted(sold)


def counts(intake: Intake) -> dict[str, int]:
    """engine_status, the part that counts slots."""
    found: dict[str, int] = intake.status()["inventory"]
    return found


def seat(n: int) -> tuple[UUID, str]:
    return UUID(int=n), f"A-{n}"


@pytest.fixture
def hall(intake: Intake) -> Intake:
    """Ten seats of one's own on sale, labelled A-1 to A-10."""
    intake.configure(10, ownResources=True)
    intake.stock(1, [seat(n) for n in range(1, 11)])
    intake.seed()
    return intake


def test_each_slot_has_its_outcome(intake: Intake) -> None:
    intake.open(5)
    intake.claim("ann")
    assert withhold(intake, [2, 3]) == {2: "withheld", 3: "withheld"}
    assert withhold(intake, [4, 3, 1, 0, 6, -1, 4]) == {
        -1: "unknown",
        0: "unknown",
        1: "claimed",
        3: "already",
        4: "withheld",
        6: "unknown",
    }
    assert give_back(intake, [4, 1, 5, 6, 4]) == {1: "not_withheld", 4: "returned", 5: "not_withheld", 6: "unknown"}
    assert withheld(intake) == [2, 3]
    assert intake.reconcile() == []


def test_i6_free_and_held_and_reserved_and_consumed_and_withheld_are_the_inventory(hall: Intake) -> None:
    hall.claim("ann")
    hall.claim("bob")
    hall.acknowledge(hall.read(1), "committed")
    withhold(hall, [5, 6, 7])
    assert counts(hall) == {"size": 10, "available": 5, "held": 0, "withheld": 3, "reserved": 1, "consumed": 1}
    status, (proof,) = hall.status(), hall.dicts("SELECT * FROM intake.proof(%s)", POOL)
    assert (status["claims"], proof["claims"], proof["slots"]) == (2, 2, 1)
    assert hall.reconcile() == []
    hall.connection.execute("DELETE FROM intake.withheld WHERE slot_no = 5")
    assert [invariant for invariant, _ in hall.reconcile()] == ["I6"]


def test_a_withheld_slot_is_sold_to_nobody_and_the_rest_is(intake: Intake) -> None:
    """Before the sequence reaches them, behind it, at both ends, and some given back on the free list."""
    intake.open(12)
    first = [intake.claim(f"early {n}") for n in range(4)]
    intake.release(first[1].claim_id)
    assert withhold(intake, [2, 6, 7, 12]) == dict.fromkeys([2, 6, 7, 12], "withheld")
    assert sell(intake) == [5, 8, 9, 10, 11]
    assert intake.claim_several("two", 2)[0].outcome == "sold_out"
    assert intake.claim_batch([("eve", None), ("fay", None)]) == [Answer("sold_out", None, None, None)] * 2
    assert counts(intake)["available"] == 0
    assert intake.reconcile() == []


def test_after_a_return_it_is_not_sold_out(intake: Intake) -> None:
    intake.open(6)
    withhold(intake, [1, 2, 6])
    assert sell(intake) == [3, 4, 5]
    assert intake.claim("late").outcome == "sold_out"
    give_back(intake, [2, 6])
    assert intake.claim_several("two", 2)[0].outcome == "claimed"
    assert intake.claim("late").outcome == "sold_out"
    give_back(intake, [1])
    assert intake.claim("late").slot_no == 1
    assert counts(intake) == {"size": 6, "available": 0, "held": 0, "withheld": 0, "reserved": 6, "consumed": 0}
    assert intake.reconcile() == []


def test_a_slot_that_is_returned_is_sold_once_wherever_the_sequence_is(intake: Intake) -> None:
    intake.open(8)
    withhold(intake, [1, 2, 5, 6])
    assert intake.claim("ann").slot_no == 3
    give_back(intake, [1, 5])  # the sequence has passed the first, and comes to the other
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [1]
    assert sell(intake) == [1, 4, 5, 7, 8]
    assert intake.reconcile() == []


def test_a_number_that_was_burnt_before_it_was_withheld_comes_back_once(intake: Intake, uri: str) -> None:
    intake.open(4)
    with Intake(uri) as other, other.connection.transaction(force_rollback=True):
        assert other.claim("ann").slot_no == 1
        intake.housekeep()  # sees that 1 is drawn, and cannot tell whether it is burnt
    assert withhold(intake, [1]) == {1: "withheld"}
    intake.housekeep()
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == []
    give_back(intake, [1])
    intake.housekeep()
    assert sell(intake) == [1, 2, 3, 4]
    assert intake.reconcile() == []


def test_a_withheld_seat_is_taken_for_a_claim_by_name(hall: Intake) -> None:
    withhold(hall, [3])
    taken = hall.claim_seats("ann", ["A-2", "A-3"], "r")
    assert [(one.outcome, one.slot_no, one.label) for one in taken] == [("taken", 3, "A-3")]
    give_back(hall, [3])
    assert [one.outcome for one in hall.claim_seats("ann", ["A-2", "A-3"], "r")] == ["claimed"] * 2
    assert withhold(hall, [3]) == {3: "claimed"}
    assert hall.reconcile() == []


def test_a_slot_given_back_before_the_sequence_reached_it_can_be_withheld_and_returned(hall: Intake) -> None:
    claimed = hall.claim_seats("ann", ["A-5"])[0]
    hall.release(claimed.claim_id)
    assert hall.column("SELECT slot_no FROM intake.free_numbers") == [5]
    withhold(hall, [5])
    assert hall.column("SELECT slot_no FROM intake.free_numbers") == []
    give_back(hall, [5])
    assert sell(hall) == list(range(1, 11))
    assert hall.reconcile() == []


def test_withheld_slots_survive_a_crash(hall: Intake) -> None:
    hall.claim("ann", "r")
    withhold(hall, [2, 9, 10])
    before = hall.rows("SELECT slot_no, status, locked_by, locked_at FROM intake.allocations ORDER BY slot_no")
    lose_unlogged(hall.connection)
    with pytest.raises(psycopg.Error) as refusal:
        withhold(hall, [3])
    assert (refusal.value.sqlstate, bool(refusal.value.diag.message_hint)) == ("IE007", True)
    hall.housekeep()
    after = hall.rows("SELECT slot_no, status, locked_by, locked_at FROM intake.allocations ORDER BY slot_no")
    assert after == before
    assert [row[1] for row in after] == ["RESERVED", "WITHHELD", *["AVAILABLE"] * 6, "WITHHELD", "WITHHELD"]
    assert withhold(hall, [2]) == {2: "already"}
    give_back(hall, [2])
    assert sell(hall) == list(range(2, 9))
    assert hall.reconcile() == []


def test_the_inventory_grows_around_withheld_slots(intake: Intake) -> None:
    intake.open(4)
    withhold(intake, [3, 4])
    assert sell(intake) == [1, 2]
    assert withhold(intake, [5]) == {5: "unknown"}
    intake.configure(8)
    intake.seed()
    assert withhold(intake, [8]) == {8: "withheld"}
    assert sell(intake) == [5, 6, 7]
    give_back(intake, [3, 8])
    assert sell(intake) == [3, 8]
    assert intake.reconcile() == []


def test_a_change_of_the_limit_leaves_withheld_slots_alone(intake: Intake) -> None:
    intake.open(6)
    withhold(intake, [1, 2, 3])
    intake.claim("ann", "r")
    intake.configure(6, claimsPerUser=1)
    assert intake.claim("ann").outcome == "limit_reached"
    intake.configure(6)
    assert sell(intake) == [5, 6]
    assert intake.reconcile() == []


def test_withholding_waits_for_a_running_claim_and_claims_wait_for_it(intake: Intake, uri: str) -> None:
    intake.open(3)

    def withhold_first() -> dict[int, str]:
        with Intake(uri) as one:
            return withhold(one, [1, 2])

    def claim() -> str:
        with Intake(uri) as one:
            return one.claim("bob").outcome

    with ThreadPoolExecutor() as threads, Intake(uri) as claimer:
        with claimer.connection.transaction():
            assert claimer.claim("ann").slot_no == 1
            withholding = threads.submit(withhold_first)
            wait_until_blocked(intake, withholding)
        assert withholding.result() == {1: "claimed", 2: "withheld"}
        with claimer.connection.transaction():
            assert withhold(claimer, [3]) == {3: "withheld"}
            asked = threads.submit(claim)
            wait_until_blocked(intake, asked)
        assert asked.result() == "sold_out"
    assert intake.reconcile() == []


def test_the_sequence_does_not_pass_a_slot_that_is_being_returned(intake: Intake, uri: str) -> None:
    """It would be lost: neither on the free list, nor drawn again."""
    intake.configure(6, ownResources=True, claimsPerUser=3)
    intake.stock(1, [seat(n) for n in range(1, 7)])
    intake.seed()
    withhold(intake, [1])
    # A user's first claim would try slot 1 and wait for its return, also without the barrier. The second skips it.
    assert intake.claim_named("ann", "A-6").outcome == "claimed"

    def claim() -> list[int | None]:
        with Intake(uri) as other:
            return [one.slot_no for one in other.claim_several("ann", 2)]

    def housekeep() -> int:
        with Intake(uri) as bridge:
            return bridge.housekeep()

    with ThreadPoolExecutor() as threads, Intake(uri) as admin:
        with admin.connection.transaction():
            give_back(admin, [1])
            claiming = threads.submit(claim)
            wait_until_blocked(intake, claiming)
            keeping = threads.submit(housekeep)
            wait_until_blocked(intake, keeping)
        claimed = claiming.result()
        keeping.result()
    assert sorted([*sell(intake), *filter(None, claimed)]) == [1, 2, 3, 4, 5]
    assert intake.reconcile() == []


SIZE = 1_200


async def race(uri: str, calls: Sequence[str]) -> Counter[str]:
    """Withhold and return slots while buyers claim by number, by name, several and in batches, and give back."""
    outcomes: Counter[str] = Counter()

    async def buyer(connection: psycopg.AsyncConnection, n: int) -> None:
        async def ask(query: LiteralString, *arguments: object) -> list[tuple[object, ...]]:
            rows = await (await connection.execute(query, (POOL, *arguments))).fetchall()
            outcomes.update(str(row[0]) for row in rows)
            return rows

        for k, call in enumerate(calls):
            user = f"u{n}-{k}"
            match call:
                case "one":
                    await ask("SELECT outcome FROM intake.claim_resource(%s, %s)", user)
                case "several":
                    rows = await ask("SELECT * FROM intake.claim_resources(%s, %s, 3)", user)
                    if rows[0][1]:
                        await ask("SELECT intake.release_claim(%s, %s, 'no')", rows[0][1])
                case "named":
                    seats = [f"A-{(n * 97 + k * 13 + step) % SIZE + 1}" for step in (2, 0, 1)]
                    await ask("SELECT outcome FROM intake.claim_seats(%s, %s, %s::text[])", user, seats)
                case _:
                    users = [f"{user}-{m}" for m in range(20)]
                    await ask("SELECT outcome FROM intake.claim_batch(%s, %s::text[])", users)

    async def keeper(connection: psycopg.AsyncConnection, n: int) -> None:
        for k in range(20):
            first = (n * 31 + k * 53) % (SIZE - 40) + 1
            for function, slots in (
                (b"withhold", range(first, first + 40)),
                (b"return", range(first + 10, first + 25)),
            ):
                found = await connection.execute(
                    b"SELECT outcome FROM intake." + function + b"_slots(%s, %s::bigint[], 'ops', 'race')",
                    (POOL, list(slots)),
                )
                outcomes.update(row[0] for row in await found.fetchall())

    async with connections(uri, 12) as made:
        await asyncio.gather(
            *(buyer(one, n) for n, one in enumerate(made[:10])), *(keeper(one, n) for n, one in enumerate(made[10:]))
        )
    return outcomes


@pytest.mark.parametrize("own", [True, False], ids=["seats", "counted"])
async def test_i1_slots_that_are_withheld_in_a_rush_are_claimed_or_withheld_and_never_both(
    intake: Intake, uri: str, own: bool
) -> None:
    """Nobody deadlocks either."""
    intake.configure(SIZE, ownResources=own)
    if own:
        intake.stock(1, [seat(n) for n in range(1, SIZE + 1)])
    intake.seed()
    calls = ["one", "several", "batch", "one", *(["named", "named"] if own else ["one"]), "several", "one"] * 4
    outcomes = await race(uri, calls)
    assert outcomes["claimed"] > 0
    assert outcomes["withheld"] > 0
    assert outcomes["returned"] > 0
    for _ in range(3):
        intake.housekeep()
    assert intake.reconcile() == []
    give_back(intake, withheld(intake))
    intake.housekeep()
    sell(intake, 2 * SIZE)
    found = counts(intake)
    assert (found["available"], found["withheld"], found["reserved"]) == (0, 0, SIZE)
    assert intake.reconcile() == []


def lookups_of_claim(intake: Intake, expected: int) -> int:
    """How often a claim that gets this slot looks into the claimed slots."""

    def lookups() -> int:
        # Of this session, with some transactions before.
        return int(intake.value("SELECT idx_scan FROM pg_stat_xact_all_tables WHERE relname = 'claimed_slots'"))

    with intake.connection.transaction():
        before = lookups()
        assert intake.claim(f"buyer of {expected}").slot_no == expected
        return lookups() - before


def test_a_claim_passes_ten_thousand_withheld_slots_in_one_step(intake: Intake) -> None:
    intake.open(30_000)
    plain = lookups_of_claim(intake, 1)
    assert set(withhold(intake, range(2, 10_002)).values()) == {"withheld"}
    withhold(intake, range(10_003, 20_003))
    lookups = [lookups_of_claim(intake, n) for n in (10_002, 20_003)]
    assert max(lookups) < plain + 50
    assert intake.claim("next").slot_no == 20_004
    intake.housekeep()
    assert intake.reconcile() == []


def test_a_run_of_withheld_slots_up_to_the_last_is_sold_out_at_once(intake: Intake) -> None:
    intake.open(20_000)
    withhold(intake, range(3, 10_003))
    withhold(intake, range(10_003, 20_001))
    assert [one.slot_no for one in intake.claim_several("ann", 2)] == [1, 2]
    assert intake.claim("bob").outcome == "sold_out"
    assert intake.claim_batch([("cid", "r")])[0].outcome == "sold_out"


def waiting(intake: Intake) -> int:
    """How many sessions wait for a lock."""
    return int(
        intake.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


async def test_many_claims_meet_a_run_at_once_and_lose_no_number(intake: Intake, uri: str) -> None:
    """Each gets a slot, and the sequence is not drawn far past the run."""
    size, run, buyers = 40_000, 30_000, 40
    intake.open(size)

    async def buy(connection: psycopg.AsyncConnection, n: int) -> list[str]:
        answers = []
        for k in range(10):
            found = await connection.execute("SELECT outcome FROM intake.claim_resource(%s, %s)", (POOL, f"{n}-{k}"))
            answers += [row[0] for row in await found.fetchall()]
        return answers

    async with connections(uri, buyers) as made:
        with Intake(uri) as admin, admin.connection.transaction():
            for first in range(1, run, 10_000):
                withhold(admin, range(first, first + 10_000))
            buying = [asyncio.create_task(buy(one, n)) for n, one in enumerate(made)]
            while waiting(intake) < buyers:  # noqa: ASYNC110 - the server's state is the event
                await asyncio.sleep(0)
        answers = await asyncio.gather(*buying)
    assert Counter(each for some in answers for each in some) == {"claimed": 10 * buyers}
    drawn = intake.value("SELECT pg_sequence_last_value(number_seq) FROM intake.pools")
    assert drawn < run + 10 * buyers + 100 * buyers
    for _ in range(3):
        intake.housekeep()
    assert counts(intake)["available"] == size - run - 10 * buyers
    assert intake.reconcile() == []
    free = intake.value("SELECT count(*) FROM intake.free_numbers")
    assert drawn - run - 10 * buyers == free, "what was drawn and not claimed is on the free list"


def test_numbers_that_are_claimed_by_name_in_a_row_are_passed_too(hall: Intake) -> None:
    hall.configure(2_200, ownResources=True)
    hall.stock(11, [seat(n) for n in range(11, 2_201)])
    hall.seed()
    for first in range(11, 2_111, 100):
        assert hall.claim_seats("tour", [f"A-{n}" for n in range(first, first + 100)])[0].outcome == "claimed"
    assert [hall.claim(f"u{n}").slot_no for n in range(11)] == [*range(1, 11), 2_111]


def test_who_withheld_what_and_why_is_listed_page_by_page_and_kept_in_the_audit(hall: Intake) -> None:
    withhold(hall, [7, 2, 3])
    listed = hall.dicts("SELECT * FROM intake.withheld_slots(%s, 2, 1)", POOL)
    assert [(row["slot_no"], row["resource_id"], row["label"], row["actor"], row["reason"]) for row in listed] == [
        (3, UUID(int=3), "A-3", *WHY)
    ]
    assert withheld(hall) == [2, 3, 7]
    give_back(hall, [2, 4])
    log = hall.rows("SELECT action, actor, reason, detail FROM intake.audit_log(%s)", POOL)
    assert log == [
        ("return", *WHY, {"returned": "2"}),
        ("withhold", *WHY, {"withheld": "2-3, 7"}),
    ]


def test_seats_are_found_by_label_and_resource_id(hall: Intake) -> None:
    asked = ["A-3", str(UUID(int=4)).upper(), "A-11", str(UUID(int=12)), "A-3"]
    found = hall.rows("SELECT * FROM intake.find_slots(%s, %s)", POOL, asked)
    assert found == list(zip(asked, [3, 4, None, None, 3], strict=True))


@pytest.mark.parametrize("function", ["withhold_slots", "return_slots"])
@pytest.mark.parametrize(
    ("pool", "slots", "actor", "reason", "sqlstate"),
    [
        (POOL, [], "ops", "why", "IE002"),
        (POOL, None, "ops", "why", "IE002"),
        (POOL, [1, None], "ops", "why", "IE002"),
        (POOL, list(range(1, 10_002)), "ops", "why", "IE002"),
        (POOL, [1], "", "why", "IE002"),
        (POOL, [1], "ops", None, "IE002"),
        ("other", [1], "ops", "why", "IE001"),
    ],
)
def test_what_cannot_be_withheld_is_refused(
    hall: Intake, function: str, pool: str, slots: list[int] | None, actor: str, reason: str | None, sqlstate: str
) -> None:
    withhold(hall, [1])
    with pytest.raises(psycopg.Error) as refusal:
        hall.connection.execute(
            f"SELECT * FROM intake.{function}(%s, %s::bigint[], %s, %s)".encode(), (pool, slots, actor, reason)
        )
    assert (refusal.value.sqlstate, bool(refusal.value.diag.message_hint)) == (sqlstate, True)
    assert withheld(hall) == [1]


def dead(hall: Intake, *conflicts: bool | None) -> list[int]:
    """Dead letters of as many claims, of two slots each; for which of them the ledger said conflict."""
    for n in range(len(conflicts)):
        hall.claim_several(f"u{n}", 2, f"r{n}")
    messages = sorted(hall.read(), key=lambda message: int(message["msg_id"]))
    hall.change("dead_letter", messages, ["why"] * len(conflicts), list(conflicts))
    return hall.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)


def test_a_discarded_conflict_stays_off_sale(hall: Intake) -> None:
    letters = dead(hall, True, False, None)
    assert len(hall.rows("SELECT intake.discard(%s, %s, 'ops', 'another sale')", POOL, letters)) == 3
    assert withheld(hall) == [1, 2]
    assert hall.column("SELECT slot_no FROM intake.free_numbers") == [3, 4, 5, 6]
    assert hall.rows("SELECT detail -> 'withheld' FROM intake.audit_log(%s) WHERE action = 'discard'", POOL) == [
        ("1-2",)
    ]
    assert hall.claim_seats("eve", ["A-1"])[0].outcome == "taken"
    assert counts(hall) == {"size": 10, "available": 8, "held": 0, "withheld": 2, "reserved": 0, "consumed": 0}
    assert hall.reconcile() == []
    lose_unlogged(hall.connection)
    hall.seed()
    assert withheld(hall) == [1, 2]
    assert sell(hall) == list(range(3, 11))
    assert hall.reconcile() == []


def test_a_discarded_conflict_goes_on_sale_if_that_is_asked_for(hall: Intake) -> None:
    letters = dead(hall, True)
    hall.rows("SELECT intake.discard(%s, %s, 'ops', 'theirs is cancelled', return_conflicts => true)", POOL, letters)
    assert withheld(hall) == []
    assert sell(hall) == list(range(1, 11))


def test_a_replayed_conflict_is_none_any_more(hall: Intake) -> None:
    letters = dead(hall, True)
    hall.rows("SELECT intake.replay(%s, %s, 'ops', 'corrected')", POOL, letters)
    hall.change("dead_letter", hall.read(), ["too often"])
    letters = hall.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    hall.rows("SELECT intake.discard(%s, %s, 'ops', 'gave up')", POOL, letters)
    assert withheld(hall) == []


def test_a_conflict_that_is_discarded_while_others_claim_its_seats_is_theirs_never(hall: Intake, uri: str) -> None:
    letters = dead(hall, True)

    def claim() -> str:
        with Intake(uri) as other:
            return other.claim_seats("eve", ["A-2"])[0].outcome

    with ThreadPoolExecutor() as threads, Intake(uri) as admin:
        with admin.connection.transaction():
            admin.rows("SELECT intake.discard(%s, %s, 'ops', 'another sale')", POOL, letters)
            asked = threads.submit(claim)
            # It sees the claim that is being voided, or waits for it.
            wait_until_blocked(hall, asked)
        assert asked.result() == "taken"
    assert hall.reconcile() == []


def test_a_batch_passes_a_run_too(intake: Intake) -> None:
    intake.open(6_000)
    withhold(intake, range(11, 5_011))
    answers = intake.claim_requests([Request(f"u{n}", f"r{n}", 2) for n in range(200)])
    sold = sorted(one.slot_no for some in answers for one in some if one.slot_no)
    assert len(sold) == len(set(sold)) == 400
    assert not set(sold) & set(range(11, 5_011))
    intake.housekeep()
    assert intake.reconcile() == []


def test_withholding_and_the_end_of_holds_wait_for_each_other_and_do_not_deadlock(intake: Intake, uri: str) -> None:
    intake.open(5, holdSeconds=60)
    slot = intake.claim("ann").slot_no
    intake.expire_holds()

    def housekeep() -> int:
        with Intake(uri) as bridge:
            return bridge.housekeep()

    def keep_off_sale() -> dict[int, str]:
        with Intake(uri) as admin:
            return withhold(admin, [slot])

    with ThreadPoolExecutor() as threads, Intake(uri) as other:
        with other.connection.transaction(force_rollback=True):
            # The end of the hold waits at this key, when its slot has been freed and not everything is done yet.
            pool_no = other.value("SELECT pool_no FROM intake.engine_config")
            other.connection.execute(
                "INSERT INTO intake.free_numbers (pool_no, slot_no) VALUES (%s, %s)", (pool_no, slot)
            )
            keeping = threads.submit(housekeep)
            wait_until_blocked(intake, keeping)
            withholding = threads.submit(keep_off_sale)
            wait_until_blocked(intake, keeping, withholding)
        assert withholding.exception() is None
        assert keeping.exception() is None
    assert withholding.result() == {slot: "withheld"}
    assert intake.reconcile() == []
