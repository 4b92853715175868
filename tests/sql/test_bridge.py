"""What bridges do to messages: leases, fences, outcomes, dead letters."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.sql.intake import POOL, Intake, slots

VALIDATED: dict[str, Any] = {"validation": {"url": "http://validator", "timeoutSeconds": 5, "batch": False}}


@pytest.fixture
def queue(intake: Intake) -> Intake:
    """Ten slots, five claims, a validator to be asked."""
    intake.open(10, **VALIDATED, visibilityTimeoutSeconds=3600)
    for n in range(1, 6):
        intake.claim(f"u{n}", f"r{n}")
    return intake


def test_a_batch_is_leased_oldest_first_for_the_visibility_timeout(queue: Intake) -> None:
    messages = queue.read(3)
    assert [(slots(m), m["user_id"], m["request_id"], m["read_ct"]) for m in messages] == [
        ([n], f"u{n}", f"r{n}", 1) for n in (1, 2, 3)
    ]
    assert {m["state"] for m in messages} == {"queued"}
    lease = queue.value("SELECT max(vt) - clock_timestamp() FROM pgmq.q_intake_queue")
    assert timedelta(minutes=50) < lease <= timedelta(hours=1)
    assert slots(*queue.read()) == [4, 5]
    assert queue.read() == []
    assert queue.status()["queue"]["inFlight"] == 5


def test_a_lease_that_expired_is_given_to_the_next_reader(queue: Intake) -> None:
    queue.read(worker="one")
    queue.expire_leases()
    assert [(m["read_ct"], m["headers"]) for m in queue.read(worker="two")] == [
        (2, {"worker": "two", "unfinished": 1})
    ] * 5


def test_a_message_that_was_given_back_is_ordered_by_its_due_time(queue: Intake) -> None:
    queue.change("give_back", queue.read(2), [0.0, 60.0], ["busy", "busy"])
    assert slots(*queue.read(3)) == [3, 4, 5], "what has waited longer goes first"
    assert slots(*queue.read(3)) == [1]


def test_a_paused_pool_is_not_read_and_a_sealed_one_is(queue: Intake) -> None:
    queue.configure(10, paused=True)
    assert queue.read() == []
    queue.configure(10)
    queue.value("SELECT intake.seal(%s, 'drain')", POOL)
    assert len(queue.read()) == 5


def test_a_message_that_is_committed_late_is_not_skipped(intake: Intake, uri: str) -> None:
    intake.open(10)
    with Intake(uri) as slow:
        with slow.connection.transaction():
            late = slow.claim("slow")
            quick = intake.claim("quick")
            first = intake.read()
            assert [m["claim_id"] for m in first] == [quick.claim_id]
            intake.acknowledge(first, "committed")
        second = intake.read()
    assert [m["claim_id"] for m in second] == [late.claim_id]
    assert second[0]["msg_id"] < first[0]["msg_id"]


def test_two_readers_never_get_the_same_message(queue: Intake, uri: str) -> None:
    with Intake(uri) as other, other.connection.transaction():
        assert slots(*other.read(2)) == [1, 2]
        assert slots(*queue.read(2)) == [3, 4], "locked rows are skipped, not waited for"


CHANGES: list[tuple[str, list[Any]]] = [
    ("mark_validated", []),
    ("mark_committing", []),
    ("extend", []),
    ("acknowledge", ["committed"]),
    ("acknowledge", ["voided"]),
    ("give_back", [0.0, "error"]),
    ("dead_letter", ["reason"]),
]


@pytest.mark.parametrize(("function", "arguments"), CHANGES)
def test_i9_a_stale_worker_changes_nothing(queue: Intake, function: str, arguments: list[Any]) -> None:
    stale = queue.read()
    queue.expire_leases()
    owner = queue.read(2)
    everything = """SELECT (SELECT array_agg(q ORDER BY msg_id)::text FROM pgmq.q_intake_queue q),
        (SELECT array_agg(a ORDER BY msg_id)::text FROM pgmq.a_intake_queue a),
        (SELECT array_agg(h ORDER BY slot_no)::text FROM intake.claimed_slots h),
        (SELECT count(*) FROM pgmq.q_intake_dlq)"""
    before = queue.rows(everything)
    assert queue.change(function, stale[:2], *([argument] * 2 for argument in arguments)) == []
    assert queue.rows(everything) == before
    # The same call with valid leases works, and messages that were not read again still belong to the first worker.
    assert queue.change(function, owner, *([argument] * 2 for argument in arguments)) == [m["msg_id"] for m in owner]
    assert queue.change(function, stale[2:], *([argument] * 3 for argument in arguments)) == [
        m["msg_id"] for m in stale[2:]
    ]
    assert queue.reconcile() == []


def test_i8_validated_is_remembered_by_the_next_reader_and_never_taken_back(queue: Intake) -> None:
    messages = queue.read()
    queue.change("mark_validated", messages[:2])
    queue.change("mark_committing", messages[:1])
    assert queue.change("mark_validated", messages[:2]) == [messages[1]["msg_id"]], "committing stays committing"
    queue.expire_leases()
    assert [m["state"] for m in queue.read()] == ["committing", "validated", "queued", "queued", "queued"]


def test_i8_without_a_validator_a_lease_marks_a_message_validated(queue: Intake) -> None:
    first = queue.read(1)
    queue.configure(10)
    second = queue.read(1)
    assert [m["state"] for m in first + second] == ["queued", "validated"]
    stored = "SELECT message ->> 'state' FROM pgmq.q_intake_queue WHERE msg_id = %s"
    assert queue.value(stored, second[0]["msg_id"]) == "validated", "as durable as the lease itself"
    queue.change("mark_committing", second)
    queue.expire_leases()
    assert {m["state"] for m in queue.read() if m["msg_id"] == second[0]["msg_id"]} == {"committing"}


def test_i8_an_acknowledged_claim_is_archived_and_its_slot_consumed_or_freed(queue: Intake) -> None:
    messages = queue.read()
    queue.change("acknowledge", messages[:3], ["committed", "voided", "committed"])
    assert queue.rows(
        "SELECT (message #>> '{seats,0,slot_no}')::int, message ->> 'outcome' FROM pgmq.a_intake_queue ORDER BY msg_id"
    ) == [(1, "committed"), (2, "voided"), (3, "committed")]
    assert queue.rows("SELECT slot_no, status FROM intake.allocations WHERE slot_no <= 5 ORDER BY slot_no") == [
        (1, "CONSUMED"),
        (2, "AVAILABLE"),
        (3, "CONSUMED"),
        (4, "RESERVED"),
        (5, "RESERVED"),
    ]
    assert queue.column("SELECT slot_no FROM intake.free_numbers") == [2]
    assert queue.inventory() == (6, 2, 2)
    assert queue.acknowledge(messages[:3], "committed") == [], "once is enough"


def test_failures_are_counted_only_where_there_was_an_error(queue: Intake) -> None:
    messages = queue.read(2)
    queue.change("give_back", messages, [0.0, 60.0], ["timeout", None])
    (again,) = (m for m in queue.read() if m["read_ct"] > 1)
    assert (again["msg_id"], again["failures"], again["read_ct"]) == (messages[0]["msg_id"], 1, 2)
    assert queue.rows(
        "SELECT message ->> 'failures', message ->> 'last_error' FROM pgmq.q_intake_queue ORDER BY msg_id"
    )[:2] == [("1", "timeout"), ("0", None)]
    assert messages[1]["msg_id"] not in [m["msg_id"] for m in queue.read()], "not before its delay"


def test_a_failure_that_is_reported_twice_is_counted_once(queue: Intake) -> None:
    messages = queue.read(1)
    assert queue.change("give_back", messages, [0.0], ["timeout"]) == [messages[0]["msg_id"]]
    assert queue.change("give_back", messages, [0.0], ["timeout"]) == [], "the first answer was lost, not its effect"
    assert queue.change("extend", messages) == []
    assert queue.acknowledge(messages, "committed") == []
    assert [m["failures"] for m in queue.read() if m["read_ct"] == 2] == [1]


def test_a_dead_letter_keeps_its_slot_and_its_state_until_it_is_replayed_once(queue: Intake) -> None:
    messages = queue.read(2)
    queue.change("mark_validated", messages)
    queue.change("give_back", messages, [0.0, 0.0], ["boom", "boom"])
    messages = queue.read()[:2]
    assert queue.change("dead_letter", messages, ["gave up", "gave up"]) == [m["msg_id"] for m in messages]
    assert queue.inventory() == (5, 5, 0)
    letters = queue.dicts("SELECT * FROM intake.dead_letters(%s)", POOL)
    assert letters == queue.dicts("SELECT * FROM intake.dead_letters(%s)", POOL), "looking changes nothing"
    assert [(slots(x), x["state"], x["failures"], x["reason"], x["last_error"]) for x in letters] == [
        ([1], "validated", 1, "gave up", "boom"),
        ([2], "validated", 1, "gave up", "boom"),
    ]
    wanted = [x["msg_id"] for x in letters] + [999]
    replay = "SELECT * FROM intake.replay(%s, %s, 'ops', 'validator mended')"
    assert queue.column(replay, POOL, wanted) == wanted[:2], "of those asked for, the ones that were there"
    assert queue.column(replay, POOL, wanted) == []
    replayed = [m for m in queue.read() if slots(m) in ([1], [2])]
    assert [(m["claim_id"], m["state"], m["failures"]) for m in replayed] == [
        (m["claim_id"], "validated", 0) for m in messages
    ]
    assert queue.rows("SELECT action, actor, detail -> 'moved' FROM intake.audit ORDER BY id") == [
        ("replay", "ops", wanted[:2]),
        ("replay", "ops", []),
    ]
    assert queue.reconcile() == []


def test_dead_letters_come_in_pages_and_by_id(queue: Intake) -> None:
    queue.change("dead_letter", queue.read(5), ["poison"] * 5)
    every = queue.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    assert queue.column("SELECT msg_id FROM intake.dead_letters(%s, 2)", POOL) == every[:2]
    assert queue.column("SELECT msg_id FROM intake.dead_letters(%s, 2, %s)", POOL, every[1]) == every[2:4]
    asked = [every[3], 999, every[0]]
    assert queue.column("SELECT msg_id FROM intake.dead_letters(%s, 9, 0, %s)", POOL, asked) == [every[0], every[3]]


def test_a_dead_letter_has_the_label_of_its_slot(intake: Intake) -> None:
    intake.configure(2, ownResources=True)
    intake.stock(1, [(UUID(int=1), "Row 1, seat 1"), (UUID(int=2), None)])
    intake.seed()
    for user in ("ann", "bob"):
        intake.claim(user)
    intake.change("dead_letter", intake.read(2), ["poison"] * 2)
    seats = [seat for (seats,) in intake.rows("SELECT seats FROM intake.dead_letters(%s)", POOL) for seat in seats]
    assert [(seat["slot_no"], seat.get("label")) for seat in seats] == [(1, "Row 1, seat 1"), (2, None)]


def test_the_audit_says_who_did_what_and_by_what_evidence_the_latest_first(queue: Intake) -> None:
    queue.change("dead_letter", queue.read(2), ["poison"] * 2)
    first, second = queue.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    queue.column("SELECT * FROM intake.discard(%s, %s, 'ann', 'a bot')", POOL, [first])
    queue.column("SELECT * FROM intake.discard(%s, %s, 'bob', 'not there', 'looked by hand')", POOL, [second])
    entries = queue.dicts("SELECT * FROM intake.audit_log(%s)", POOL)
    assert [(e["actor"], e["reason"], e["detail"]["discarded"], e["detail"]["evidence"]) for e in entries] == [
        ("bob", "not there", [second], "looked by hand"),
        ("ann", "a bot", [first], "none was given"),
    ]
    assert queue.dicts("SELECT * FROM intake.audit_log(%s, 1)", POOL) == entries[:1]
    assert queue.dicts("SELECT * FROM intake.audit_log(%s, 9, %s)", POOL, entries[0]["id"]) == entries[1:]


def test_a_discarded_dead_letter_frees_its_slot(queue: Intake) -> None:
    queue.change("dead_letter", queue.read(1), ["poison"])
    (letter,) = queue.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    discard = "SELECT * FROM intake.discard(%s, %s, 'ops', 'ledger voided it')"
    assert queue.column(discard, POOL, [letter]) == [letter]
    assert queue.column(discard, POOL, [letter]) == []
    assert queue.inventory() == (6, 4, 0)
    (proof,) = queue.dicts("SELECT * FROM intake.proof(%s)", POOL)
    assert {name: count for name, count in proof.items() if count and name != "digest"} == {
        "claims": 5, "voided": 1, "queued": 4,
    }  # fmt: skip
    assert queue.reconcile() == []
