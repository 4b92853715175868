"""The reference ledger: a claim has one fate, with one receipt, and all of its seats or none."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.intake import wait_until_blocked
from tests.sql.ledger import POOL, Claim, Ledger, sale, seat


def test_i3_the_first_outcome_of_a_claim_is_final(ledger: Ledger) -> None:
    calls = [ledger.commit, ledger.commit, ledger.void]
    assert [call(sale(1, 1, 2)) for call in calls] == ["committed", "duplicate", "committed"]
    calls = [ledger.void, ledger.void, ledger.commit]
    assert [call(sale(2, 3, 4)) for call in calls] == ["voided", "voided", "voided"]
    assert ledger.sold() == {"u1": [1, 2], "u2": []}


def test_a_claim_is_kept_with_what_was_sent_along(ledger: Ledger, ledger_owner: psycopg.Connection) -> None:
    claim = sale(1, 7, 8, request_id="r1", payload={"email": "ann@example.com"}, validation={"payment_id": "p1"})
    _, receipt = ledger.commit_with_receipt(claim)
    assert ledger.void(sale(2, payload={"email": "bob@example.com"}, validation={"payment_id": "p2"})) == "voided"
    assert ledger.commit(sale(3)) == "committed"
    kept = ledger_owner.execute("SELECT user_id, payload, validation, receipt FROM ledger.claims ORDER BY 1").fetchall()
    assert kept[:2] == [
        ("u1", {"email": "ann@example.com"}, {"payment_id": "p1"}, receipt),
        ("u2", None, None, None),  # nothing was sold: what was sent along stays with nobody
    ]
    assert kept[2][:3] == ("u3", None, None)
    assert receipt != kept[2][3] is not None
    slots = ledger_owner.execute("SELECT pool_id, slot_no, resource_id, label FROM ledger.sold_slots WHERE slot_no > 3")
    assert slots.fetchall() == [(POOL, n, UUID(seat(n)["resource_id"]), f"A-{n}") for n in (7, 8)]


class TestReceipts:
    """The same claim gets the same receipt, whichever call answers it, and nobody else gets it."""

    def test_each_claim_has_an_order_number_of_its_own(self, ledger: Ledger) -> None:
        told = [ledger.commit_with_receipt(sale(1, 1, 2)), *ledger.commit_all_with_receipts(sale(3), sale(4, 4, 5))]
        assert {outcome for outcome, _ in told} == {"committed"}
        numbers = [receipt["order_no"] for _, receipt in told]
        assert len(set(numbers)) == 3, numbers
        assert all(set(receipt) == {"order_no"} and receipt["order_no"] > 0 for _, receipt in told)

    def test_a_redelivery_gets_the_receipt_of_the_first_call(self, ledger: Ledger) -> None:
        _, one = ledger.commit_with_receipt(sale(1, 1, 2))
        ((_, other),) = ledger.commit_all_with_receipts(sale(3))
        assert ledger.commit_with_receipt(sale(1, 2, 1)) == ("duplicate", one), "the order of the seats is no matter"
        assert ledger.commit_with_receipt(sale(3)) == ("duplicate", other)
        assert ledger.commit_all_with_receipts(sale(3), sale(1, 1, 2)) == [("duplicate", other), ("duplicate", one)]
        again = ledger.commit_all_with_receipts(sale(4), sale(3), sale(5))
        assert [outcome for outcome, _ in again] == ["committed", "duplicate", "committed"]
        assert again[1][1] == other
        assert [ledger.commit_with_receipt(sale(n))[1] for n in (4, 5)] == [again[0][1], again[2][1]]

    def test_only_a_sale_has_one(self, ledger: Ledger) -> None:
        ledger.void(sale(1))
        ledger.commit(sale(2))
        refused = [sale(1), sale(2, user_id="thief"), sale(2, 2, 3), sale(4, 2)]
        told = [ledger.commit_with_receipt(claim) for claim in refused]
        assert told == [("voided", None), ("conflict", None), ("conflict", None), ("conflict", None)]
        assert [ledger.commit_all_with_receipts(claim)[0] for claim in refused] == told


class TestAllSeatsOrNone:
    """One conflicting seat: nothing of that claim is sold, and the other claims of the call are."""

    def test_a_claim_with_a_sold_seat_leaves_nothing_behind(self, ledger: Ledger) -> None:
        assert ledger.commit_all(sale(1, 10, 11), sale(2)) == ["committed"] * 2
        for slots in ((11, 12), (12, 11), (9, 10, 12)):
            assert ledger.commit(sale(3, *slots)) == "conflict"
            assert ledger.commit_all(sale(3, *slots)) == ["conflict"]
        assert ledger.commit_all(sale(4, 20, 21), sale(5, 22, 2, 23), sale(6, 24)) == [
            "committed",
            "conflict",
            "committed",
        ]
        assert ledger.sold() == {"u1": [10, 11], "u2": [2], "u4": [20, 21], "u6": [24]}
        assert ledger.counts() == (4, 0, 6)

    def test_its_fate_is_open(self, ledger: Ledger) -> None:
        """It may be voided, or committed with other seats: nothing of it was ever sold."""
        ledger.commit(sale(1, 1, 2))
        assert ledger.commit(sale(3, 2, 3)) == "conflict"
        assert [ledger.void(sale(3, 2, 3)), ledger.commit(sale(3, 2, 3))] == ["voided", "voided"]
        assert ledger.commit(sale(4, 2, 4)) == "conflict"
        assert ledger.commit(sale(4, 4)) == "committed"
        assert ledger.commit(sale(5, 3)) == "committed", "the seat of a voided claim"
        assert ledger.sold() == {"u1": [1, 2], "u3": [], "u4": [4], "u5": [3]}

    def test_a_claim_that_was_never_sold_is_voided_whoever_has_its_seats(self, ledger: Ledger) -> None:
        ledger.commit(sale(1, 1, 2))
        assert ledger.void(sale(2, 2, 3)) == "voided"
        assert ledger.sold() == {"u1": [1, 2], "u2": []}

    def test_a_refused_claim_stands_in_the_way_of_no_other(self, ledger: Ledger) -> None:
        """Claim 2 wants seats of both 1 and 3, and loses to 1: then 3 has its seats. As if each came alone."""
        chain = [sale(1, 1, 2), sale(2, 2, 3), sale(3, 3, 4), sale(4, 4, 5), sale(5, 5, 6), sale(6, 9)]
        expected = ["committed", "conflict"] * 2 + ["committed"] * 2
        told = ledger.commit_all_with_receipts(*chain)
        assert [outcome for outcome, _ in told] == expected
        assert ledger.sold() == {"u1": [1, 2], "u3": [3, 4], "u5": [5, 6], "u6": [9]}
        again = [(o.replace("committed", "duplicate"), receipt) for o, receipt in told]
        assert ledger.commit_all_with_receipts(*chain[::-1]) == again[::-1]

    def test_a_thousand_slots_of_many_claims_are_counted_by_slot_and_by_claim(self, ledger: Ledger) -> None:
        claims = [sale(n, *range(4 * n, 4 * n + 4)) for n in range(250)]
        assert set(ledger.commit_all(*claims)) == {"committed"}
        assert ledger.counts() == (250, 0, 1000)


def test_i1_the_ledger_itself_refuses_a_slot_twice(ledger: Ledger) -> None:
    assert ledger.commit(sale(1)) == "committed"
    assert ledger.commit(sale(2, 1)) == "conflict"
    assert ledger.commit(sale(3, 1, pool_id="other")) == "committed"
    assert ledger.void(sale(4, 5)) == "voided"
    assert ledger.commit(sale(5)) == "committed", "a voided claim leaves its slot to the next"


@pytest.mark.parametrize(
    "other",
    [
        {"pool_id": "x"},
        {"user_id": "x"},
        {"seats": [seat(99), seat(2)]},
        {"seats": [seat(1, resource_id=str(uuid4())), seat(2)]},
        {"seats": [seat(1, resource_id=seat(2)["resource_id"]), seat(2, resource_id=seat(1)["resource_id"])]},
        {"seats": [seat(1), seat(2), seat(3)]},
        {"seats": [seat(1), seat(1)]},
        {"seats": [seat(1), seat(2), seat(2)]},
    ],
    ids=["pool", "user", "slot", "resource", "swapped", "more", "twice", "more twice"],
)
def test_i4_a_known_claim_with_another_content_is_a_conflict(ledger: Ledger, other: Claim) -> None:
    ledger.commit(sale(1, 1, 2))
    claim = sale(1) | other
    told = [ledger.commit(claim), *ledger.commit_all(claim), ledger.void(claim), ledger.commit_all(claim, sale(5))[0]]
    assert told == ["conflict"] * 4
    assert ledger.sold() == {"u1": [1, 2], "u5": [5]}
    assert ledger.commit(sale(1, 2, 1)) == "duplicate"


def test_i4_a_known_claim_with_fewer_seats_is_a_conflict(ledger: Ledger) -> None:
    ledger.commit(sale(1, 1, 2))
    for slot in (1, 2):
        assert [ledger.commit(sale(1, slot)), ledger.void(sale(1, slot))] == ["conflict"] * 2
    assert ledger.commit_all(sale(1, 1), sale(2, 3)) == ["conflict", "committed"]
    assert ledger.sold() == {"u1": [1, 2], "u2": [3]}


def test_what_was_sent_along_makes_no_other_claim(ledger: Ledger) -> None:
    """It is the claim that is committed once. DB1 sees to it that its payload stays the same."""
    ledger.commit(sale(1, payload={"a": 1}))
    again = sale(1, payload=None, validation={"payment_id": "p"}, seats=[seat(1, label=None, attributes=None)])
    assert ledger.commit(again) == "duplicate"


def test_a_set_has_one_outcome_for_each_claim(ledger: Ledger) -> None:
    ledger.commit(sale(1))
    ledger.void(sale(2))
    told = ledger.commit_all(sale(1), sale(2), sale(3, 3, 30), sale(4, 3), sale(5, 6), sale(3, 3, 30))
    assert told == ["duplicate", "voided", "committed", "conflict", "committed", "committed"]
    assert ledger.commit_all() == []


@contextmanager
def unfinished(uri: str, *claims: Claim) -> Iterator[Ledger]:
    """Claims whose transaction has not ended; it commits at the end."""
    with Ledger(uri) as other, other.connection.transaction():
        assert set(other.commit_all(*claims)) == {"committed"}
        yield other


class TestCallsThatMeet:
    """Every call locks claims in the order of their ids, then slots in theirs: it holds nothing that comes later."""

    def test_claims_are_locked_in_their_order(self, ledger_uri: str) -> None:
        self.waits_without(ledger_uri, sale(1, 91), [sale(2), sale(1, 91)], sale(2))

    def test_slots_are_locked_in_their_order(self, ledger_uri: str) -> None:
        self.waits_without(ledger_uri, sale(9, 1), [sale(2, 7, 1)], sale(8, 7))

    def test_slots_of_all_claims_are_locked_in_their_order(self, ledger_uri: str) -> None:
        self.waits_without(ledger_uri, sale(9, 1), [sale(2, 7), sale(3, 1)], sale(8, 7))

    def test_no_claim_that_is_tried_beside_a_bad_one_keeps_a_lock(self, ledger_uri: str) -> None:
        self.waits_without(ledger_uri, sale(5, 50), [sale(2, 7), sale(5, 50), sale(6, claimed_at="never")], sale(8, 7))

    @staticmethod
    def waits_without(uri: str, first: Claim, waiting: list[Claim], free: Claim) -> None:
        """While a call waits for the first one, a third gets what the second will want later."""
        with ThreadPoolExecutor(2) as pool, Ledger(uri) as second, Ledger(uri) as third:
            with unfinished(uri, first) as open_call:
                waits = pool.submit(second.commit_all, *waiting)
                wait_until_blocked(open_call, waits)
                passes = pool.submit(third.commit, free)
                wait_until_blocked(open_call, waits, passes)
                passed, waited = passes.done(), not waits.done()
            assert (passed, waited, passes.result()) == (True, True, "committed")
            waits.result()

    def test_i1_two_calls_for_the_same_seats_in_other_orders(self, ledger: Ledger, ledger_uri: str) -> None:
        """Two bridges with the same claims, in opposite orders, and rivals that want the same seats in other fours."""
        claims = [sale(n, *range(4 * n, 4 * n + 4)) for n in range(100)]
        rivals = [sale(1000 - n, *range(4 * n + 5, 4 * n + 1, -1), user_id=f"rival {n}") for n in range(100)]
        calls = [claims, claims[::-1], rivals, rivals[::-1]]

        def commit(call: list[Claim]) -> list[tuple[str, Any]]:
            with Ledger(ledger_uri) as other:
                return other.commit_all_with_receipts(*call)

        with ThreadPoolExecutor(len(calls)) as pool:
            told = list(pool.map(commit, calls))
        answers = Counter(
            (claim["claim_id"], outcome)
            for call, answer in zip(calls, told, strict=True)
            for claim, (outcome, _) in zip(call, answer, strict=True)
        )
        assert {outcome for _, outcome in answers} <= {"committed", "duplicate", "conflict"}
        for claim in claims + rivals:
            outcomes = sorted(outcome for claim_id, outcome in answers.elements() if claim_id == claim["claim_id"])
            assert outcomes in (["committed", "duplicate"], ["conflict", "conflict"]), "both calls were told the same"
        self.check(ledger, claims + rivals, {r["order_no"] for answer in told for _, r in answer if r})

    @pytest.mark.parametrize("seed", range(12))
    def test_i1_any_claims_of_many_bridges(self, ledger: Ledger, ledger_uri: str, seed: int) -> None:
        """Claims of one to four of thirty seats, each sent twice, in calls of any size; some are voided meanwhile.

        Every third call has a bad claim, so that its claims are tried one by one.
        """
        random = Random(seed)
        claims = [sale(n, *random.sample(range(1, 31), random.randint(1, 4))) for n in range(60)]
        bridges = [random.sample(claims, len(claims)) for _ in range(2)]
        voided = random.sample(claims, 8)

        def sell(call: list[Claim]) -> list[tuple[str, Any]]:
            size = len(call) // 7
            told = []
            with Ledger(ledger_uri) as other:
                for start in range(0, len(call), size):
                    bad = [sale(999, claimed_at="never")] * (start // size % 3 == 1)
                    answers = other.commit_all_with_receipts(*bad, *call[start : start + size])
                    assert answers[: len(bad)] == [("conflict", None)] * len(bad)
                    told += answers[len(bad) :]
            return told

        def give_up(call: list[Claim]) -> list[str]:
            with Ledger(ledger_uri) as other:
                return [other.void(claim) for claim in call]

        with ThreadPoolExecutor(3) as pool:
            sales = [pool.submit(sell, call) for call in bridges]
            assert set(pool.submit(give_up, voided).result()) <= {"voided", "committed"}
            told = [answer for each in sales for answer in each.result()]
        self.check(ledger, claims, {receipt["order_no"] for _, receipt in told if receipt})

    @staticmethod
    def check(ledger: Ledger, claims: list[Claim], order_numbers: set[int]) -> None:
        """Each claim has all of its seats or none, no seat is sold twice, and whoever has none has lost one."""
        sold = ledger.sold()
        wanted = {claim["user_id"]: sorted(each["slot_no"] for each in claim["seats"]) for claim in claims}
        taken = [slot for slots in sold.values() for slot in slots]
        assert len(taken) == len(set(taken)), "a seat was sold twice"
        for user, slots in wanted.items():
            assert sold.get(user, []) in ([], slots), f"{user} has a part of a claim"
            assert user in sold or set(slots) & set(taken), f"{user} was refused without a reason"
        assert len(order_numbers) == sum(map(bool, sold.values())), "an order number for each claim"

    def test_i3_a_commit_and_a_void_that_meet_agree(self, ledger: Ledger, ledger_uri: str) -> None:
        with ThreadPoolExecutor(1) as pool, Ledger(ledger_uri) as other:
            with unfinished(ledger_uri, sale(1, 1, 2)) as open_call:
                void = pool.submit(other.void, sale(1, 1, 2))
                wait_until_blocked(open_call, void)
            assert void.result() == "committed"

    def test_a_seat_of_a_call_that_is_rolled_back_is_sold_to_the_one_that_waited(
        self, ledger: Ledger, ledger_uri: str
    ) -> None:
        with ThreadPoolExecutor(1) as pool, Ledger(ledger_uri) as other:
            with ledger.connection.transaction(force_rollback=True):
                assert ledger.commit(sale(1, 1, 2)) == "committed"
                waits = pool.submit(other.commit_all, sale(2, 2, 3), sale(4))
                wait_until_blocked(ledger, waits)
            assert waits.result() == ["committed", "committed"]
        assert ledger.sold() == {"u2": [2, 3], "u4": [4]}
