"""What answers bring beside their outcomes, how it is kept, and how many bytes one call carries."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_bridge.adapters.database import whole_seats
from intake_bridge.adapters.webhook import parse
from intake_bridge.batch import LeasedBatch
from intake_bridge.domain.answers import MAX_RECEIPT_BYTES, TRUNCATED, Addition, data_of, receipt_of
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.portions import MOST_BYTES, in_portions
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import HttpReply, NoTracing, Queue
from unserved_webhook import CONFIGURATION, message

MARKER = "Zoë Smït"

# --- what is kept ---


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ({"payment_id": "p-1", "name": MARKER}, None),
        ({}, None),
        ({"a": "back\\u0000slash", "b": "\\\\u0000"}, None),
        ([MARKER], "it is a list, and must be an object"),
        (MARKER, "it is a str, and must be an object"),
        (0, "it is a int, and must be an object"),
        (False, "it is a bool, and must be an object"),
        ({"a": f"{MARKER}\0"}, "it has a NUL character"),
        ({f"{MARKER}\\\0": 1}, "it has a NUL character"),
        ({"a": f"{MARKER}\ud800"}, "that no jsonb can hold"),
        ({"a": math.inf, "b": MARKER}, "that no jsonb can hold"),
        ({"a": math.nan}, "that no jsonb can hold"),
    ],
    ids=repr,
)
def test_data_of_an_approval_is_an_object_that_a_jsonb_can_hold(value: object, flaw: str | None) -> None:
    kept = data_of(value)
    if flaw is None:
        assert (json.loads(kept.text), kept.flaw) == (value, None)
    else:
        assert kept.text == TRUNCATED
        assert flaw in (kept.flaw or "")
        assert MARKER not in str(kept)


def test_data_that_is_nested_too_deep_is_not_kept() -> None:
    value: object = MARKER
    for _ in range(100_000):
        value = [value]
    kept = data_of({"a": value})
    assert kept.text == TRUNCATED
    assert "nesting" in (kept.flaw or "")


@pytest.mark.parametrize(
    "value",
    ["7" * 5000, "-" + "7" * 5000, "[" * 100_000 + "]" * 100_000, '{"]\\"": ' * 20_000 + '"}"' + "}" * 20_000],
    ids=["digits", "negative", "arrays", "objects"],
)
def test_what_cannot_be_kept_costs_an_answer_neither_its_word_nor_those_of_other_claims(value: str) -> None:
    body = f'{{"items": [{{"decision": "approved", "data": {{"a": {value}, "b": 1}}}}, {{"decision": "declined"}}]}}'
    first, second = parse(HttpReply(200, body.encode(), {}))["items"]
    assert (first["decision"], first["data"]["b"], second) == ("approved", 1, {"decision": "declined"})
    assert data_of(first["data"]).text == TRUNCATED
    assert receipt_of(first["data"]["a"]).text == TRUNCATED


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a": ' * 100_000 + '"\\', '{"a": 1', "]" * 9, "[" * 20_000 + "}" * 20_000]
)
def test_a_body_that_is_no_json_is_empty(body: str) -> None:
    assert parse(HttpReply(200, body.encode(), {})) == {}


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [
        ("order 7", True),
        (7, True),
        (False, True),
        ([], True),
        ("x" * (MAX_RECEIPT_BYTES - 2), True),
        ("x" * (MAX_RECEIPT_BYTES - 1), False),
        ("ë" * (MAX_RECEIPT_BYTES // 2), False),
        ("nul \0", False),
    ],
)
def test_a_receipt_is_any_json_of_at_most_2048_bytes(value: object, is_kept: bool) -> None:
    kept = receipt_of(value)
    assert kept.text == (json.dumps(value, ensure_ascii=False) if is_kept else TRUNCATED)
    assert (kept.flaw is None) == is_kept


class Marks:
    """The port Queue: writes what is marked as a jsonb does."""

    def __init__(self, written: str) -> None:
        self.written = written
        self.sent: list[str | None] = []

    async def mark_validated(self, messages: Messages, data: Sequence[str | None]) -> dict[int, str | None]:
        self.sent += data
        return {
            each.msg_id: text if text in {None, TRUNCATED} else self.written
            for each, text in zip(messages, data, strict=True)
        }


def leased(queue: Marks, most: int, *messages: Message) -> LeasedBatch:
    """A batch of them; data may have so many bytes."""
    configuration = CONFIGURATION.model_copy(update={"max_payload_bytes": most})
    port: Queue = queue  # type: ignore[assignment] # it has what is called here
    return LeasedBatch(port, Metrics("one", NoTracing()), Lease(lambda: 0.0, 0.0, 1e9), configuration, messages)


async def test_both_deliveries_send_the_same_body_whatever_the_validator_has_written() -> None:
    """The first sends what DB1 has made of it, as a redelivery will: a webhook has one body for each key."""
    queue = Marks('{"a": 100, "bb": 1.50}')
    batch = leased(queue, 1000, message(1), message(2))
    first, second = await batch.mark_validated([message(1), message(2)], {1: Addition('{"bb":1.50, "a":1e2}')})
    assert queue.sent == ['{"bb":1.50, "a":1e2}', None]
    assert (first.validation, second.validation) == ('{"a": 100, "bb": 1.50}', None)


@pytest.mark.parametrize(
    ("sent", "written"), [("x" * 100, "x" * 100), ("1e99", "1" + "0" * 99)], ids=["here", "in DB1"]
)
async def test_data_that_is_too_large_undoes_no_approval_and_a_warning_says_why(
    caplog: pytest.LogCaptureFixture, sent: str, written: str
) -> None:
    """Also where it is too large only as a jsonb writes it: DB1 cuts it by the same rule."""
    batch = leased(Marks(written), 50, message(1))
    with caplog.at_level(logging.WARNING):
        (marked,) = await batch.mark_validated([message(1)], {1: Addition(sent)})
    assert marked.validation == TRUNCATED
    (record,) = caplog.records
    assert record.getMessage() == (
        f"approved, but the validator's data is kept as {TRUNCATED}: it has 100 bytes, and at most 50 are kept"
    )
    assert record.__dict__["claim_id"] == str(UUID(int=1))


# --- seats, as DB1 has them and as the contract has them ---

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ATTRIBUTES = st.none() | st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3)


def as_jsonb(value: object) -> str:
    """As a jsonb writes it: shorter keys first, and then by their bytes."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {as_jsonb(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_jsonb, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(st.lists(st.tuples(st.integers(1, 2**40), st.none() | st.uuids(), st.none() | TEXTS, ATTRIBUTES), min_size=1))
def test_every_seat_has_label_and_attributes(seats: list[tuple[int, UUID | None, str | None, Any]]) -> None:
    stored, whole = [], []
    for slot_no, resource, label, attributes in seats:
        bare = {"slot_no": slot_no, "resource_id": resource and str(resource)}
        whole.append(bare | {"label": label, "attributes": attributes})
        stored.append(bare if label is None and attributes is None else whole[-1])
    assert json.loads(whole_seats(as_jsonb(stored))) == whole
    assert whole_seats(as_jsonb(whole)) == as_jsonb(whole)


def test_what_looks_like_a_seat_in_a_text_stays_as_it_is() -> None:
    inside = f'{{"slot_no": 1, "resource_id": "{UUID(int=1)}"}}'
    seat = {"slot_no": 1, "resource_id": None, "label": inside, "attributes": {"note": inside}}
    assert whole_seats(as_jsonb([seat])) == as_jsonb([seat])


# --- how many bytes one call carries ---


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(5, 20))
def test_portions_keep_all_claims_in_their_order_and_are_small(sizes: list[int], most: int) -> None:
    claims = [(message(number), "ë" * (size // 2) + "x" * (size % 2)) for number, size in enumerate(sizes)]
    portions = list(in_portions(claims, most))
    assert [claim for portion in portions for claim in portion] == claims
    for portion in portions:
        assert portion
        assert len(portion) == 1 or sum(len(text.encode()) for _, text in portion) <= most
    # No more calls than it takes: two neighbours do not fit into one.
    for one, other in pairwise(portions):
        assert sum(len(text.encode()) for _, text in [*one, other[0]]) > most


def test_claims_without_payloads_go_in_one_call_and_the_largest_go_alone_at_most() -> None:
    plain = [(message(1), replace(message(1), seats='[{"slot_no": 1}]').as_text())] * 4000
    assert len(list(in_portions(plain))) == 1
    assert [len(each) for each in in_portions([(message(1), "x" * (MOST_BYTES + 1))] * 3)] == [1, 1, 1]
