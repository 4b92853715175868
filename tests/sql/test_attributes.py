"""Attributes: the user's other columns stay with their slot, are bounded, and cannot change once they are stocked."""

import json
from uuid import UUID

import psycopg
import pytest

from tests.sql.intake import POOL, Intake, lose_unlogged

A, B, C = (UUID(f"0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f000{n}") for n in "abc")
IDS = [A, B, C]


@pytest.fixture
def hall(intake: Intake) -> Intake:
    """A pool for three seats of its own, none of them stocked."""
    intake.configure(3, ownResources=True)
    return intake


def stock(hall: Intake, *attributes: str | None, first: int = 1) -> int:
    """Stock as many of the three seats, without labels."""
    ids = IDS[first - 1 : first - 1 + len(attributes)]
    return int(
        hall.value("SELECT intake.stock(%s, %s, %s, attributes => %s::jsonb[])", POOL, first, ids, list(attributes))
    )


def kept(hall: Intake) -> list[str | None]:
    """The attributes of all slots, as text."""
    return [row[0] for row in hall.rows("SELECT attributes::text FROM intake.inventory ORDER BY slot_no")]


def refused(hall: Intake, *attributes: str | None, first: int = 1) -> tuple[str | None, str]:
    """The SQLSTATE and the words with which stock refuses; as the last guard, it says what to do."""
    before = kept(hall)
    refusal: psycopg.Error | None = None
    try:
        with hall.connection.transaction():
            stock(hall, *attributes, first=first)
    except psycopg.Error as error:
        refusal = error
    assert refusal is not None, "it is stocked"
    assert refusal.diag.message_hint
    assert kept(hall) == before
    return refusal.sqlstate, str(refusal.diag.message_primary)


def test_attributes_are_kept_as_they_are(hall: Intake) -> None:
    own = '{"row": 7, "price": 89.50, "section": "Floor \\u00e4", "front": true, "gate": null}'
    assert stock(hall, own, None, "{}") == 3
    assert kept(hall) == ['{"row": 7, "gate": null, "front": true, "price": 89.50, "section": "Floor ä"}', None, "{}"]
    assert hall.seed() == 3


def test_slots_have_them_after_a_crash(hall: Intake) -> None:
    stock(hall, '{"row": 1}', None, '{"row": 3}')
    hall.seed()
    claimed = hall.rows("SELECT slot_no, attributes FROM intake.claim_resource(%s, 'ann', 'r')", POOL)
    assert claimed == [(1, {"row": 1})]
    lose_unlogged(hall.connection)
    hall.seed()
    assert hall.rows("SELECT slot_no, attributes FROM intake.slots ORDER BY slot_no") == [
        (1, {"row": 1}),
        (2, None),
        (3, {"row": 3}),
    ]
    replayed = hall.rows("SELECT outcome, attributes FROM intake.claim_resource(%s, 'ann', 'r')", POOL)
    assert replayed == [("replayed", {"row": 1})]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ("[]", "are no JSON object"),
        ("null", "are no JSON object"),
        ('"row"', "are no JSON object"),
        ('{"": 1}', "have a value without a name"),
        ('{"row": 1, "Slot_No": 2}', "have the name 'Slot_No', which a field of the claim has"),
        ('{"attributes": {}}', "have the name 'attributes'"),
        (json.dumps({"x": "y" * 1016}), "have 1025 bytes, and a slot keeps at most 1024"),
        (json.dumps({"x": "ä" * 508}), "have 1025 bytes"),
    ],
)
def test_attributes_that_cannot_be_kept_are_refused_with_their_slot(hall: Intake, attributes: str, told: str) -> None:
    sqlstate, message = refused(hall, None, attributes)
    assert sqlstate == "IE002"
    assert message.startswith(f"the attributes of slot 2 {told}")
    assert "yyy" not in message


def test_attributes_of_the_largest_size_are_kept(hall: Intake) -> None:
    assert stock(hall, json.dumps({"x": "y" * 1015})) == 1


def test_attributes_are_parallel_to_the_resource_ids(hall: Intake) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        hall.value("SELECT intake.stock(%s, 1, %s, NULL, ARRAY['{}'::jsonb])", POOL, IDS)
    assert refusal.value.sqlstate == "IE002"


@pytest.mark.parametrize(
    ("again", "told"),
    [
        ('{"row": 1, "price": 90}', "price"),
        ('{"row": 1}', "price"),
        ('{"row": 1, "price": 89.5, "gate": null}', "gate"),
        (None, "row, price"),
    ],
)
def test_a_slot_keeps_the_attributes_that_it_was_stocked_with(hall: Intake, again: str | None, told: str) -> None:
    stock(hall, "{}", '{"row": 1, "price": 89.50}')
    sqlstate, message = refused(hall, "{}", again, '{"row": 3}')
    assert sqlstate == "IE006"
    assert message == f"slot 2 of pool {POOL} is stocked with other attributes: {told}"


def test_the_same_attributes_in_another_order_are_the_same(hall: Intake) -> None:
    stock(hall, None, '{"row": 1, "price": 89.50}')
    assert stock(hall, "{}", '{"price": 89.5, "row": 1}', '{"row": 3}') == 3
    assert kept(hall)[2] == '{"row": 3}'
