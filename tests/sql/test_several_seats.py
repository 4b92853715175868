"""Several seats, named seats, batches: the rules of each, one caller after the other or two in a fixed order."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.sql.intake import POOL, Answer, Intake, lose_unlogged, wait_until_blocked


def test_several_seats_are_all_or_nothing(intake: Intake) -> None:
    intake.open(5)
    party = intake.claim_several("ann", 3, "r1")
    assert [(answer.outcome, answer.slot_no) for answer in party] == [("claimed", 1), ("claimed", 2), ("claimed", 3)]
    assert intake.claim_several("bob", 3, "r1") == [Answer("too_few", None, None, None)]
    assert intake.inventory() == (2, 3, 0)
    assert [answer.outcome for answer in intake.claim_several("bob", 2, "r2")] == ["claimed"] * 2
    assert intake.claim_several("cid", 2) == [Answer("sold_out", None, None, None)]
    assert len({answer.claim_id for answer in party}) == 1, "one claim"
    again = intake.claim_several("ann", 3, "r1")
    assert again == [Answer("replayed", a.claim_id, a.resource_id, a.slot_no) for a in party]
    assert intake.reconcile() == []


@pytest.mark.parametrize("limit", [None, 3])
def test_i7_a_batch_answers_a_request_as_it_did_before(intake: Intake, limit: int | None) -> None:
    intake.open(9, claimsPerUser=limit)
    callers = [("ann", "r1"), ("bob", "r1"), ("ann", "r1"), ("ann", "r2"), ("cid", None)]
    first = intake.claim_batch(callers)
    assert [answer.outcome for answer in first] == ["claimed", "claimed", "replayed", "claimed", "claimed"]
    assert first[2].claim_id == first[0].claim_id
    again = intake.claim_batch(callers[:4])
    assert [answer.outcome for answer in again] == ["replayed"] * 4
    assert [answer.claim_id for answer in again] == [answer.claim_id for answer in first[:4]]
    assert intake.inventory() == (5, 4, 0)
    assert intake.reconcile() == []


def test_a_batch_skips_numbers_that_are_claimed_already(intake: Intake) -> None:
    """A sequence that starts over, as after a restore of an older one."""
    intake.open(5)
    first = intake.claim_batch([(f"u{n}", None) for n in range(3)])
    intake.value("SELECT setval('intake.numbers_1', 1, false)")
    second = intake.claim_batch([(f"v{n}", None) for n in range(3)])
    assert sorted(answer.outcome for answer in second) == ["claimed", "claimed", "sold_out"]
    assert {answer.claim_id for answer in first} < set(intake.column("SELECT claim_id FROM intake.claimed_slots"))
    assert intake.reconcile() == []


def test_a_named_seat_leaves_the_free_list(intake: Intake) -> None:
    intake.open(2)
    first = intake.claim("ann")
    intake.release(first.claim_id)
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [1]
    assert intake.claim_named("bob", str(first.resource_id)).slot_no == 1
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == []
    assert [intake.claim(f"u{n}").slot_no for n in range(2)] == [2, None]
    assert intake.reconcile() == []


def test_i6_a_seat_given_back_before_the_sequence_reached_it_is_free_once(intake: Intake) -> None:
    intake.open(9)
    for slot_no in (2, 5, 8):
        seat = intake.value("SELECT resource_id::text FROM intake.slots WHERE slot_no = %s", slot_no)
        intake.release(intake.claim_named("ann", seat).claim_id)
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [2, 5, 8]
    assert [intake.claim(f"u{n}").slot_no for n in range(2)] == [1, 2]
    assert intake.reconcile() == []
    assert [answer.slot_no for answer in intake.claim_several("bob", 3)] == [3, 4, 5]
    assert intake.reconcile() == []
    assert [answer.slot_no for answer in intake.claim_batch([(f"v{n}", None) for n in range(4)])] == [6, 7, 8, 9]
    assert intake.reconcile() == []
    assert intake.claim("late").outcome == "sold_out"


def test_i6_housekeeping_drops_claimed_numbers_from_the_free_list(intake: Intake) -> None:
    intake.open(2).claim("ann")
    # What is left when a claim that had locked the number is rolled back just as another takes it.
    intake.connection.execute("INSERT INTO intake.free_numbers SELECT pool_no, slot_no FROM intake.claimed_slots")
    intake.value("SELECT intake.housekeep(%s)", POOL)
    assert intake.reconcile() == []


def test_a_named_seat_in_a_running_claim_is_waited_for(intake: Intake, uri: str) -> None:
    intake.open(2)
    seat = str(intake.value("SELECT resource_id FROM intake.slots WHERE slot_no = 2"))
    with Intake(uri) as one, Intake(uri) as other, ThreadPoolExecutor() as threads:
        with one.connection.transaction(force_rollback=True):
            assert one.claim_named("ann", seat).outcome == "claimed"
            second = threads.submit(other.claim_named, "bob", seat)
            wait_until_blocked(intake, second)
        assert second.result().outcome == "claimed", "the first was rolled back"
        intake.release(second.result().claim_id)
        with one.connection.transaction():
            assert one.claim_named("ann", seat).outcome == "claimed"
            second = threads.submit(other.claim_named, "bob", seat)
            wait_until_blocked(intake, second)
        assert second.result().outcome == "taken"
    assert intake.inventory() == (1, 1, 0)
    assert intake.reconcile() == []


def test_a_rebuild_gives_seats_of_ones_own_their_ids_and_labels(intake: Intake) -> None:
    intake.configure(4, ownResources=True)
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, 6) n")
    assert intake.stock(1, [(resource, label) for resource, label in rows]) == 6
    intake.seed()
    claim = intake.claim_named("ann", "seat 3", "r1")
    assert (claim.slot_no, claim.resource_id) == (3, rows[2][0])
    lose_unlogged(intake.connection)
    intake.seed()
    assert intake.rows("SELECT resource_id, label FROM intake.allocations ORDER BY slot_no") == rows[:4]
    assert intake.claim_named("ann", "seat 3", "r1") == replace(claim, outcome="replayed")
    intake.configure(6, ownResources=True)
    intake.seed()
    assert intake.claim_named("bob", "seat 6").resource_id == rows[5][0]
    assert intake.reconcile() == []


def test_seats_are_locked_in_one_order_however_they_are_named(intake: Intake, uri: str) -> None:
    """A claim that waits for its first seat keeps no other: so claims of the same seats do not deadlock."""
    intake.open(9)
    last, two, one = intake.rows(
        "SELECT resource_id::text FROM intake.slots WHERE slot_no IN (1, 2, 9) ORDER BY slot_no DESC"
    )
    intake.claim_named("eve", last[0])  # the first named seat of a counted pool is noted in its hot row
    with Intake(uri) as ann, Intake(uri) as bob, Intake(uri) as cid, ThreadPoolExecutor() as threads:
        with ann.connection.transaction():
            assert ann.claim_named("ann", one[0]).outcome == "claimed"
            bobs = threads.submit(bob.claim_seats, "bob", [two[0], one[0]])
            wait_until_blocked(intake, bobs)
            cids = threads.submit(cid.claim_named, "cid", two[0])
            wait_until_blocked(intake, bobs, cids)
            waits = not cids.done()
        assert (waits, cids.result().outcome) == (False, "claimed")
        assert [(each.outcome, each.slot_no) for each in bobs.result()] == [("taken", 1), ("taken", 2)]
    assert intake.reconcile() == []


def test_the_keys_of_a_user_have_the_order_of_the_slots(intake: Intake) -> None:
    """Two claims of one user insert their keys in one order, whatever they name: so they do not deadlock."""
    intake.open(9, claimsPerUser=9)
    seats = [str(row[0]) for row in intake.rows("SELECT resource_id FROM intake.slots ORDER BY slot_no")]
    intake.claim_seats("ann", [seats[6], seats[1], seats[4]])
    intake.claim_several("ann", 2)
    keys = "SELECT unique_key::int, slot_no::int, part_no::int FROM intake.claimed_slots ORDER BY 1"
    assert intake.rows(keys) == [(1, 2, 2), (2, 5, 3), (3, 7, 1), (4, 1, 1), (5, 3, 2)]
