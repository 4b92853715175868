"""What the validator added and what the ledger answered: kept with the claim, bounded, and written by nobody stale."""

from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.intake import POOL, Intake, as_jsonb, lose_unlogged

VALIDATED: dict[str, Any] = {"validation": {"url": "http://validator", "timeoutSeconds": 5, "batch": False}}
TRUNCATED = {"truncated": True}


@pytest.fixture
def queue(intake: Intake) -> Intake:
    """Three claims of two slots, a validator to be asked, and a limit of 100 bytes."""
    intake.open(10, **VALIDATED, maxPayloadBytes=100, visibilityTimeoutSeconds=3600)
    for n in range(3):
        intake.claim_several(f"u{n}", 2, f"r{n}", {"order": n})
    return intake


def validations(queue: Intake) -> list[object]:
    """What the next reader gets."""
    queue.expire_leases()
    return [message["validation"] for message in queue.read()]


def receipts(queue: Intake) -> list[object]:
    """What the status of each claim has as receipt: the same in the row of each slot."""
    found: list[object] = []
    for n in range(3):
        first, second = queue.request_status(f"u{n}", f"r{n}")
        assert first["receipt"] == second["receipt"]
        found.append(first["receipt"])
    return found


def test_i5_validation_data_stays_with_its_message(queue: Intake) -> None:
    messages = queue.read()
    assert [message["validation"] for message in messages] == [None] * 3
    queue.change("mark_validated", messages, [Jsonb({"payment": "p-1"}), None, Jsonb({})])
    assert validations(queue) == [{"payment": "p-1"}, None, {}]
    messages = queue.read()
    queue.expire_leases()
    messages = queue.read()
    queue.change("give_back", messages, [0.0] * 3, ["why"] * 3)
    messages = queue.read()
    assert [(message["state"], message["validation"]) for message in messages] == [
        ("validated", {"payment": "p-1"}),
        ("validated", None),
        ("validated", {}),
    ]
    queue.change("dead_letter", messages, ["why"] * 3)
    ids = queue.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    queue.rows("SELECT intake.replay(%s, %s, 'ops', 'mended')", POOL, ids)
    assert [message["validation"] for message in queue.read()] == [{"payment": "p-1"}, None, {}]


@pytest.mark.parametrize("again", [{"payment": "p-2"}, {}])
def test_i5_the_first_approval_counts(queue: Intake, again: object) -> None:
    """Its data may have been sent to the ledger. The second call is one whose first reply was lost."""
    messages = queue.read()
    ids = [message["msg_id"] for message in messages]
    assert queue.change("mark_validated", messages, [Jsonb({"payment": "p-1"}), None, None]) == ids
    assert queue.change("mark_validated", messages, [as_jsonb(again)] * 3) == ids
    assert queue.change("mark_validated", messages) == ids
    assert validations(queue) == [{"payment": "p-1"}, None, None]


def test_validation_data_that_is_too_large_is_truncated_and_the_approval_stands(queue: Intake) -> None:
    """The limit is that of the payload, in bytes of UTF-8."""
    messages = queue.read()
    data = [{"text": "x" * 88}, {"text": "x" * 89}, {"text": "é" * 45}]
    queue.change("mark_validated", messages, [Jsonb(each) for each in data])
    assert validations(queue) == [data[0], TRUNCATED, TRUNCATED]
    assert {message["state"] for message in messages} == {"queued"}
    assert queue.column("SELECT message ->> 'state' FROM pgmq.q_intake_queue") == ["validated"] * 3


@pytest.mark.parametrize("data", [[1], "yes", 7, True])
def test_validation_data_that_is_no_object_is_truncated_and_the_approval_stands(queue: Intake, data: object) -> None:
    queue.change("mark_validated", queue.read(), [None, Jsonb(data), None])
    assert validations(queue) == [None, TRUNCATED, None]
    assert queue.column("SELECT message ->> 'state' FROM pgmq.q_intake_queue") == ["validated"] * 3


def test_a_receipt_is_kept_with_its_claim_and_in_its_status(queue: Intake) -> None:
    assert receipts(queue) == [None] * 3
    messages = queue.read()
    queue.change("acknowledge", messages, ["committed"] * 3, [Jsonb({"order_no": 1}), None, Jsonb("A-7")])
    assert receipts(queue) == [{"order_no": 1}, None, "A-7"]
    assert queue.change("acknowledge", messages, ["committed"] * 3, [Jsonb({"order_no": 9})] * 3) == []
    assert receipts(queue) == [{"order_no": 1}, None, "A-7"], "the first acknowledgement has ended the lease"
    lose_unlogged(queue.connection)
    queue.housekeep()
    assert receipts(queue) == [{"order_no": 1}, None, "A-7"]


@pytest.mark.parametrize("receipt", [None, False, 0, [], {}, "x", {"order_no": 1}])
def test_a_receipt_is_any_json_value_and_null_is_none(queue: Intake, receipt: object) -> None:
    queue.change("acknowledge", queue.read(), ["committed"] * 3, [Jsonb(receipt)] * 3)
    assert receipts(queue) == [receipt] * 3
    kept = queue.column("SELECT message ? 'receipt' FROM pgmq.a_intake_queue")
    assert kept == [receipt is not None] * 3


def test_a_receipt_that_is_too_large_is_truncated_and_the_sale_stands(queue: Intake) -> None:
    """2048 bytes of the text in UTF-8, quotes included."""
    texts = ["x" * 2046, "x" * 2047, "é" * 1024]
    queue.change("acknowledge", queue.read(), ["committed"] * 3, [Jsonb(text) for text in texts])
    assert receipts(queue) == [texts[0], TRUNCATED, TRUNCATED]
    assert queue.inventory() == (4, 0, 6)
    assert queue.reconcile() == []


def test_a_voided_claim_has_no_receipt(queue: Intake) -> None:
    queue.change("acknowledge", queue.read(), ["voided"] * 3, [Jsonb({"order_no": 1})] * 3)
    assert receipts(queue) == [None] * 3


def test_i9_a_stale_worker_changes_neither_validation_nor_receipt(queue: Intake) -> None:
    stale = queue.read()
    queue.expire_leases()
    owner = queue.read()
    assert queue.change("mark_validated", stale, [Jsonb({"by": "stale"})] * 3) == []
    assert queue.change("acknowledge", stale, ["committed"] * 3, [Jsonb({"by": "stale"})] * 3) == []
    assert queue.column("SELECT message ? 'validation' FROM pgmq.q_intake_queue") == [False] * 3
    assert receipts(queue) == [None] * 3
    queue.change("acknowledge", owner, ["committed"] * 3, [Jsonb({"by": "owner"})] * 3)
    assert receipts(queue) == [{"by": "owner"}] * 3
    assert queue.change("acknowledge", stale, ["committed"] * 3, [Jsonb({"by": "stale"})] * 3) == []
    assert receipts(queue) == [{"by": "owner"}] * 3


def test_the_data_follows_its_message_and_not_its_place_in_the_array(queue: Intake) -> None:
    """Some leases are lost, and the others come in another order."""
    messages = queue.read()
    mine = [messages[2], messages[0]]
    queue.connection.execute("UPDATE pgmq.q_intake_queue SET read_ct = 9 WHERE msg_id = %s", (messages[1]["msg_id"],))
    asked = [messages[2], messages[1], messages[0]]
    queue.change("mark_validated", asked, [Jsonb({"of": 2}), Jsonb({"of": 1}), Jsonb({"of": 0})])
    stored = "SELECT message -> 'validation' FROM pgmq.q_intake_queue ORDER BY msg_id"
    assert [row[0] for row in queue.rows(stored)] == [{"of": 0}, None, {"of": 2}]
    queue.change("acknowledge", asked, ["committed", "committed", "voided"], [Jsonb(n) for n in (2, 1, 0)])
    assert receipts(queue) == [None, None, 2]
    assert len(mine) == queue.value("SELECT count(*) FROM pgmq.a_intake_queue")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("mark_validated", [[None] * 2]),
        ("mark_validated", [[None] * 4]),
        ("mark_validated", [[]]),
        ("acknowledge", [["committed"] * 3, [None] * 2]),
        ("acknowledge", [["committed"] * 3, [None] * 4]),
        ("acknowledge", [["committed"] * 2, [None] * 3]),
        ("acknowledge", [["committed", "committed", None], [None] * 3]),
        ("acknowledge", [["committed", "committed", "duplicate"], [None] * 3]),
    ],
)
def test_arrays_that_are_not_parallel_change_nothing(
    queue: Intake, function: LiteralString, arguments: list[Any]
) -> None:
    messages = queue.read()
    with pytest.raises(psycopg.Error) as caught:
        queue.change(function, messages, *arguments)
    assert caught.value.sqlstate == "IE002"
    assert caught.value.diag.message_hint
    assert queue.column("SELECT message ->> 'state' FROM pgmq.q_intake_queue") == ["queued"] * 3


@pytest.mark.parametrize(
    "given", ["NULL", "ARRAY[NULL, NULL, NULL]::jsonb[]", "ARRAY['null', 'null', 'null']::jsonb[]"]
)
def test_without_data_there_is_none(queue: Intake, given: str) -> None:
    ids = [message["msg_id"] for message in queue.read()]
    call = f"(%s, %s, ARRAY[1, 1, 1], {given})"
    assert queue.column(f"SELECT intake.mark_validated{call}", POOL, ids) == ids
    call = f"(%s, %s, ARRAY[1, 1, 1], array_fill('committed'::text, ARRAY[3]), {given})"
    assert queue.column(f"SELECT intake.acknowledge{call}", POOL, ids) == ids
    assert receipts(queue) == [None] * 3
    assert queue.column("SELECT message ? 'receipt' OR message ? 'validation' FROM pgmq.a_intake_queue") == [False] * 3


def test_payloads_of_dead_letters_are_shown_to_the_owner_and_recorded(queue: Intake) -> None:
    messages = queue.read()
    queue.change("mark_validated", messages, [Jsonb({"payment": "p-1"}), None, None])
    queue.change("dead_letter", messages, ["why"] * 3)
    listed = queue.dicts("SELECT * FROM intake.dead_letters(%s)", POOL)
    assert "payment" not in str(listed)
    assert "order'" not in str(listed)
    ids = [letter["msg_id"] for letter in listed]
    show = "SELECT * FROM intake.dead_letter_payloads(%s, %s, %s, %s)"
    assert queue.rows(show, POOL, [*ids[:2], 999], "ann", "a refund") == [
        (ids[0], {"order": 0}, {"payment": "p-1"}),
        (ids[1], {"order": 1}, None),
    ]
    assert queue.rows("SELECT action, actor, reason, detail FROM intake.audit_log(%s)", POOL) == [
        ("show payloads", "ann", "a refund", {"asked": [*ids[:2], 999]})
    ]
    for pool, actor, reason, code in [
        ("other", "a", "b", "IE001"),
        (POOL, "", "b", "IE002"),
        (POOL, "a", None, "IE002"),
    ]:
        with pytest.raises(psycopg.Error) as caught:
            queue.rows(show, pool, ids, actor, reason)
        assert caught.value.sqlstate == code
    with Intake(queue.uri, "other") as other:
        other.open(1)
        assert other.rows(show, "other", ids, "ann", "curious") == [], "another pool's"


@pytest.mark.parametrize("role", ["claimer", "bridge", "monitor"])
def test_no_role_reads_payloads_of_dead_letters(queue: Intake, role: str) -> None:
    queue.connection.execute(f"SET ROLE {role}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue.rows("SELECT * FROM intake.dead_letter_payloads(%s, ARRAY[1]::bigint[], 'a', 'b')", POOL)
