"""Claims that the reference ledger cannot write: a typed error, or a conflict among others, and nothing half-taken."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.ledger import Claim, Ledger, sale, seat

BAD_SEATS: dict[str, Any] = {
    "no array": {"slot_no": 7},
    "a number": 7,
    "a text": "A-7",
    "empty": [],
    "null": None,
    "numbers": [7, 8],
    "nulls": [None],
    "arrays": [[7]],
    "no slot_no": [seat(7), {"resource_id": seat(8)["resource_id"]}],
    "no resource_id": [seat(7), {"slot_no": 8}],
    "slot_no is null": [seat(7), seat(8, slot_no=None)],
    "slot_no is a word": [seat(7), seat(8, slot_no="A-8")],
    "slot_no is a fraction": [seat(7), seat(8, slot_no=8.5)],
    "slot_no is beyond bigint": [seat(7), seat(8, slot_no=2**63)],
    "slot_no is an object": [seat(7), seat(8, slot_no={"a": 1})],
    "resource_id is no uuid": [seat(7), seat(8, resource_id="x")],
    "resource_id is null": [seat(7), seat(8, resource_id=None)],
}
BAD_FIELDS = {
    "no claim_id": {"claim_id": None},
    "claim_id is no uuid": {"claim_id": "x"},
    "no pool_id": {"pool_id": None},
    "no user_id": {"user_id": None},
    "claimed_at is no time": {"claimed_at": "never"},
}
BAD = {name: {"seats": seats} for name, seats in BAD_SEATS.items()} | BAD_FIELDS
EACH = pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
# What the bridge counts against the claim: it tells the classes 22 and 23 from a ledger that is down.
TYPED = (psycopg.DataError, psycopg.IntegrityError)


@EACH
def test_a_bad_claim_alone_is_a_typed_error(ledger: Ledger, bad: Claim) -> None:
    for query in (
        "SELECT finalize_transaction(%s)",
        "SELECT * FROM finalize_transactions(jsonb_build_array(%s::jsonb))",
    ):
        with pytest.raises(TYPED):
            ledger.rows(query, Jsonb(sale(2) | bad))
    assert ledger.counts() == (0, 0, 0)


@EACH
def test_a_bad_claim_fails_alone_and_takes_nothing(ledger: Ledger, bad: Claim) -> None:
    rows = ledger.rows("SELECT * FROM finalize_transactions(%s)", Jsonb([sale(1, 1, 10), sale(2) | bad, sale(3, 7, 8)]))
    outcomes = {str(claim_id)[-1]: (outcome, receipt is not None) for claim_id, outcome, receipt in rows}
    conflict = {} if "claim_id" in bad else {"2": ("conflict", False)}  # without a claim_id there is nothing to answer
    assert outcomes == {"1": ("committed", True), "3": ("committed", True)} | conflict
    assert ledger.sold() == {"u1": [1, 10], "u3": [7, 8]}, "its good seat is free"


def test_a_claim_without_seats_sells_nothing_and_takes_nothing(ledger: Ledger) -> None:
    assert ledger.commit_all(sale(1), sale(2, seats=[])) == ["committed", "conflict"]
    assert ledger.counts() == (1, 0, 1)
    assert ledger.commit(sale(2)) == "committed"


@pytest.mark.parametrize("together", [False, True])
def test_a_seat_twice_in_one_claim_is_a_conflict(ledger: Ledger, together: bool) -> None:
    for seats in ([seat(7), seat(7)], [seat(8), seat(7), seat(7, resource_id=seat(9)["resource_id"])]):
        claims = [sale(1), sale(2, seats=seats), sale(3)] if together else [sale(2, seats=seats)]
        assert ledger.commit_all(*claims)[together] == "conflict"
        assert ledger.commit(sale(2, seats=seats)) == "conflict"
    assert ledger.commit(sale(4, 7, 8)) == "committed"


@pytest.mark.parametrize("known", [False, True])
def test_a_claim_twice_in_a_set_is_one_claim(ledger: Ledger, known: bool) -> None:
    outcome = ledger.commit(sale(1)).replace("committed", "duplicate") if known else "committed"
    assert ledger.commit_all(sale(1), sale(2), sale(1)) == [outcome, "committed", outcome]
    assert ledger.commit_all(sale(3), sale(3, 30, 31), sale(3, 3)) == ["committed"] * 3
    sold = ledger.sold()
    assert sold.pop("u3") in ([3], [30, 31])
    assert sold == {"u1": [1], "u2": [2]}


@pytest.mark.parametrize("field", ["pool_id", "user_id"])
def test_an_object_for_a_text_is_its_text(ledger: Ledger, field: str) -> None:
    assert ledger.commit_all(sale(1), sale(2, **{field: {"a": 1}})) == ["committed", "committed"]


@pytest.mark.parametrize("rubbish", [None, 7, "x", [], [[]], {}])
def test_what_is_no_claim_is_refused_with_a_typed_error(ledger: Ledger, rubbish: object) -> None:
    with pytest.raises(TYPED):
        ledger.value("SELECT finalize_transaction(%s)", Jsonb(rubbish))
    if rubbish != []:
        with pytest.raises(TYPED):
            ledger.rows("SELECT * FROM finalize_transactions(%s)", Jsonb(rubbish))
    rows = ledger.rows("SELECT outcome FROM finalize_transactions(%s)", Jsonb([sale(1), rubbish, sale(2)]))
    assert rows == [("committed",)] * 2


@pytest.mark.parametrize("rubbish", [{}, sale(1, claim_id=None), sale(1, pool_id=None), sale(1, claimed_at="never")])
def test_a_void_that_cannot_be_written_is_a_typed_error(ledger: Ledger, rubbish: Claim) -> None:
    with pytest.raises(TYPED):
        ledger.void(rubbish)
    assert ledger.counts() == (0, 0, 0)


@pytest.mark.parametrize("sales", [1, 3])
def test_where_no_claim_can_be_written_the_error_says_why(
    ledger: Ledger, ledger_owner: psycopg.Connection, sales: int
) -> None:
    ledger_owner.execute("ALTER TABLE ledger.claims ADD CONSTRAINT closed CHECK (user_id = 'u9') NOT VALID")
    try:
        with pytest.raises(psycopg.errors.CheckViolation, match='"closed"'):
            ledger.commit_all(*map(sale, range(1, sales + 1)))
        # If one can be written, the others are conflicts.
        assert ledger.commit_all(sale(1), sale(9)) == ["conflict", "committed"]
    finally:
        ledger_owner.execute("ALTER TABLE ledger.claims DROP CONSTRAINT closed")
