"""The form in which ledgers and webhooks get a claim."""

import json
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from intake_shared.claims import Claim, Seat

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
OBJECTS = st.none() | st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS))
SEATS = st.builds(
    Seat, slot_no=st.integers(1), resource_id=st.none() | st.uuids(), label=st.none() | TEXTS, attributes=OBJECTS
)
CLAIMS = st.builds(
    Claim,
    claim_id=st.uuids(),
    pool_id=TEXTS,
    user_id=TEXTS,
    request_id=st.none() | TEXTS,
    claimed_at=st.datetimes(timezones=st.just(UTC)),
    seats=st.lists(SEATS, min_size=1, max_size=4).map(tuple),
    payload=OBJECTS,
    validation=OBJECTS,
)


def test_a_claim_has_these_fields_and_no_others() -> None:
    seat = Seat(slot_no=17, resource_id=UUID(int=1), label="Row 12, seat 7", attributes={"price": "12.50"})
    claim = Claim(
        claim_id=UUID(int=2),
        pool_id="drop",
        user_id="ann",
        request_id=None,
        claimed_at=datetime(2026, 12, 1, 18, tzinfo=UTC),
        seats=(seat, Seat(slot_no=18, resource_id=None)),
        payload={"token": "t"},
    )
    assert claim.as_json() == {
        "claim_id": "00000000-0000-0000-0000-000000000002",
        "pool_id": "drop",
        "user_id": "ann",
        "request_id": None,
        "claimed_at": "2026-12-01T18:00:00+00:00",
        "seats": [
            {
                "slot_no": 17,
                "resource_id": "00000000-0000-0000-0000-000000000001",
                "label": "Row 12, seat 7",
                "attributes": {"price": "12.50"},
            },
            {"slot_no": 18, "resource_id": None, "label": None, "attributes": None},
        ],
        "payload": {"token": "t"},
        "validation": None,
    }
    assert "token" not in repr(claim), "a payload may be about a person"


@given(CLAIMS)
def test_whatever_is_in_a_claim_is_in_its_json_and_a_letter_is_no_escape(claim: Claim) -> None:
    found = claim.as_json()
    assert (found["user_id"], found["request_id"]) == (claim.user_id, claim.request_id)
    assert (found["payload"], found["validation"]) == (claim.payload, claim.validation)
    assert tuple(Seat.read(seat) for seat in found["seats"]) == claim.seats
    text = claim.text_with("[]", None, None)
    assert json.loads(text) == found | {"seats": [], "payload": None, "validation": None}
    if claim.user_id.isprintable():
        assert claim.user_id.replace("\\", "\\\\").replace('"', '\\"') in text
