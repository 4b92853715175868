"""One claim at a time: every outcome, and what it leaves behind."""

import json
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg
import pytest

from tests.sql.intake import POOL, Answer, Intake, lose_unlogged, window


def refused(outcome: str) -> Answer:
    return Answer(outcome, None, None, None)


def test_a_claim_takes_the_next_slot_and_queues_its_intent(intake: Intake) -> None:
    answer = intake.open(10).claim("ann", "r1", {"e-mail": "ann@example.org"})
    assert (answer.outcome, answer.slot_no) == ("claimed", 1)
    (message,) = intake.column("SELECT message FROM pgmq.q_intake_queue")
    claimed_at = message.pop("claimed_at")
    assert message == {
        "claim_id": str(answer.claim_id),
        "pool_id": POOL,
        "user_id": "ann",
        "request_id": "r1",
        "seats": [{"slot_no": 1, "resource_id": str(answer.resource_id)}],
        "payload": {"e-mail": "ann@example.org"},
        "state": "queued",
        "failures": 0,
    }
    allocation = intake.dicts("SELECT * FROM intake.allocations WHERE status <> 'AVAILABLE'")
    assert len(allocation) == 1
    assert allocation[0]["resource_id"] == answer.resource_id
    assert (allocation[0]["status"], allocation[0]["locked_by"]) == ("RESERVED", "ann")
    assert allocation[0]["locked_at"] == datetime.fromisoformat(claimed_at)
    assert intake.inventory() == (9, 1, 0)


def test_claim_ids_are_version_7_and_resource_ids_version_8(intake: Intake) -> None:
    answer = intake.open(10).claim("ann")
    assert answer.claim_id is not None
    assert answer.resource_id is not None
    assert (answer.claim_id.version, answer.resource_id.version) == (7, 8)


def test_i7_a_retry_gets_the_first_answer_whatever_has_happened_since(intake: Intake) -> None:
    intake.open(1, claimsPerUser=1)
    first = intake.claim("ann", "r1")
    again = Answer("replayed", first.claim_id, first.resource_id, first.slot_no)
    assert intake.claim("ann", "r1") == again
    assert intake.claim("bob", "r1") == refused("sold_out"), "a request id is its user's own"
    assert intake.claim("ann", "r1") == again, "sold out"
    intake.configure(1, claimsPerUser=1, paused=True)
    assert intake.claim("ann", "r1") == again, "paused"
    intake.configure(1, **window(closes=timedelta(minutes=-1)))
    assert intake.claim("ann", "r1") == again, "closed"
    intake.acknowledge(intake.read(), "committed")
    intake.value("SELECT intake.seal(%s, 'test')", POOL)
    assert intake.claim("ann", "r1") == again, "committed and sealed"


@pytest.mark.parametrize("limit", [None, 1])
def test_i7_a_retry_of_a_voided_claim_does_not_claim_again(intake: Intake, limit: int | None) -> None:
    intake.open(2, claimsPerUser=limit)
    first = intake.claim("ann", "r1")
    intake.acknowledge(intake.read(), "voided")
    assert intake.claim("ann", "r1") == Answer("replayed", first.claim_id, first.resource_id, 1)
    assert intake.inventory() == (2, 0, 0)
    assert intake.claim("ann", "r2").outcome == "claimed", "a new request is a new claim"


def test_a_retry_burns_no_number_and_writes_nothing(intake: Intake) -> None:
    intake.open(10)
    intake.claim("ann", "r1")
    # The first retry of a database reads a page of the catalog that PostgreSQL then prunes, which is a WAL record.
    assert intake.claim("ann", "r1").outcome == "replayed"
    before = intake.value("SELECT pg_current_wal_insert_lsn()")
    assert intake.claim("ann", "r1").outcome == "replayed"
    assert intake.value("SELECT pg_current_wal_insert_lsn()") == before
    assert intake.claim("bob").slot_no == 2


def test_a_user_has_no_more_than_claims_per_user(intake: Intake) -> None:
    intake.open(10, claimsPerUser=2)
    assert [intake.claim("ann", f"r{n}").outcome for n in range(4)] == ["claimed"] * 2 + ["limit_reached"] * 2
    assert intake.claim("ann") == refused("limit_reached")
    assert intake.claim("bob").outcome == "claimed"


def test_a_user_whose_claim_was_voided_may_claim_again(intake: Intake) -> None:
    intake.open(10, claimsPerUser=2)
    first, second = intake.claim("ann", "r1"), intake.claim("ann", "r2")
    voided = [m for m in intake.read() if m["claim_id"] == first.claim_id]
    intake.acknowledge(voided, "voided")
    assert intake.claim("ann", "r3").outcome == "claimed"
    assert intake.claim("ann", "r4") == refused("limit_reached")
    assert second.claim_id in intake.column("SELECT claim_id FROM intake.claimed_slots")


def test_a_limit_that_comes_later_counts_what_came_before(intake: Intake) -> None:
    intake.open(10)
    assert [intake.claim("ann").outcome for _ in range(2)] == ["claimed"] * 2
    intake.configure(10, claimsPerUser=3)
    assert [intake.claim("ann").outcome for _ in range(2)] == ["claimed", "limit_reached"]
    intake.configure(10, claimsPerUser=2)
    assert intake.claim("ann") == refused("limit_reached")


def test_sold_out_only_after_the_last_slot_and_open_again_when_one_returns(intake: Intake) -> None:
    intake.open(3)
    assert [intake.claim(f"u{n}").outcome for n in range(4)] == ["claimed"] * 3 + ["sold_out"]
    message = intake.read(1)
    intake.acknowledge(message, "voided")
    answer = intake.claim("late")
    assert (answer.outcome, answer.slot_no) == ("claimed", message[0]["seats"][0]["slot_no"])
    assert intake.claim("later") == refused("sold_out")


def test_sold_out_is_answered_without_writing_anything(intake: Intake) -> None:
    intake.open(1, claimsPerUser=1)
    assert [intake.claim(f"u{n}").outcome for n in range(2)] == ["claimed", "sold_out"]
    before = intake.value("SELECT pg_current_wal_insert_lsn()"), intake.value("SELECT last_value FROM intake.numbers_1")
    assert intake.claim("late", "r1") == refused("sold_out")
    after = intake.value("SELECT pg_current_wal_insert_lsn()"), intake.value("SELECT last_value FROM intake.numbers_1")
    assert after == before


def test_the_window_and_the_pause(intake: Intake) -> None:
    intake.open(10, **window(opens=timedelta(minutes=1)))
    assert intake.claim("ann") == refused("not_open")
    intake.configure(10, **window(closes=timedelta(minutes=-1)))
    assert intake.claim("ann") == refused("closed")
    intake.configure(10, paused=True)
    assert intake.claim("ann") == refused("paused")
    intake.configure(10)
    assert intake.claim("ann").slot_no == 1


def test_the_window_closes_on_transactions_that_began_before_it(intake: Intake) -> None:
    intake.open(10)
    with Intake(intake.uri) as buyer, buyer.connection.transaction():
        buyer.value("SELECT now()")
        close = intake.value("SELECT clock_timestamp()")
        intake.configure(10, closesAt=close.isoformat())
        assert buyer.claim("ann") == refused("closed")


def test_not_ready_until_seeded_and_after_the_hot_row_is_gone(intake: Intake) -> None:
    intake.configure(10)
    assert intake.claim("ann") == refused("not_ready")
    intake.seed()
    assert intake.claim("ann", "r1").outcome == "claimed"
    intake.connection.execute(
        "TRUNCATE intake.pools, intake.claimed_slots, intake.slots, intake.free_numbers, intake.number_progress"
    )
    assert intake.claim("ann", "r1") == refused("not_ready")
    assert intake.status()["ready"] is False
    intake.seed()
    assert intake.claim("ann", "r1").outcome == "replayed"


def test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back(intake: Intake) -> None:
    intake.open(3)
    with Intake(intake.uri) as buyer, buyer.connection.transaction(force_rollback=True):
        assert buyer.claim("ann").slot_no == 1
    assert [intake.claim(f"u{n}").slot_no for n in range(3)] == [2, 3, 1]
    assert intake.claim("late") == refused("sold_out")
    assert intake.reconcile() == []


def test_housekeeping_brings_burnt_numbers_back(intake: Intake) -> None:
    intake.open(5)
    with Intake(intake.uri) as buyer:
        for _ in range(3):
            with buyer.connection.transaction(force_rollback=True):
                buyer.claim("ann")
    assert intake.housekeep() == 3
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [1, 2, 3]
    assert intake.housekeep() == 0


def test_busy_and_not_sold_out_while_the_last_slot_may_still_return(intake: Intake) -> None:
    intake.open(2)
    assert intake.claim("ann").outcome == "claimed"
    with Intake(intake.uri) as buyer:
        with buyer.connection.transaction(force_rollback=True):
            assert buyer.claim("bob").outcome == "claimed"
            assert intake.claim("cid") == refused("busy"), "the last number is in a running transaction"
        assert intake.claim("cid").outcome == "claimed", "which gave it back"
        intake.acknowledge(intake.read(1), "voided")
        with buyer.connection.transaction(force_rollback=True):
            assert buyer.claim("bob").outcome == "claimed"
            assert intake.claim("dan") == refused("busy"), "the returned slot is locked, not sold"
        assert intake.claim("dan").outcome == "claimed"
    assert intake.claim("eve") == refused("sold_out")


def test_inventory_grows_in_the_middle_of_the_sale(intake: Intake) -> None:
    intake.open(2)
    assert [intake.claim(f"u{n}").outcome for n in range(4)] == ["claimed"] * 2 + ["sold_out"] * 2
    intake.configure(5)
    assert intake.claim("u") == refused("sold_out"), "the new slots do not exist yet"
    assert intake.seed() == 3
    taken = [intake.claim(f"v{n}") for n in range(4)]
    assert [answer.outcome for answer in taken] == ["claimed"] * 3 + ["sold_out"]
    assert {answer.slot_no for answer in taken} == {3, 4, 5, None}, "numbers that the sequence had passed come back too"
    assert intake.reconcile() == []


def test_pools_of_one_database_do_not_meet(intake: Intake) -> None:
    intake.open(1)
    with Intake(intake.uri, "other") as other:
        other.open(1)
        mine, theirs = intake.claim("ann", "r1"), other.claim("ann", "r1")
        assert mine.resource_id != theirs.resource_id
        assert [m["claim_id"] for m in other.read()] == [theirs.claim_id]
        assert intake.inventory() == other.inventory() == (0, 1, 0)


def test_claim_status_follows_a_claim(intake: Intake) -> None:
    claim = intake.open(10).claim("ann")

    def state() -> str:
        return str(intake.value("SELECT state FROM intake.claim_status(%s, %s)", POOL, claim.claim_id))

    seen = [state()]
    message = intake.read()
    for mark in ("mark_validated", "mark_committing"):
        intake.change(mark, message)
        seen.append(state())
    intake.change("dead_letter", message, ["why"])
    seen.append(state())
    intake.rows("SELECT intake.replay(%s, array(SELECT msg_id FROM intake.dead_letters(%s)), 'me', 'why')", POOL, POOL)
    intake.acknowledge(intake.read(), "committed")
    seen.append(state())
    assert seen == ["queued", "validated", "committing", "dead", "committed"]
    assert intake.value("SELECT state FROM intake.claim_status(%s, uuidv7())", POOL) == "unknown"


def test_claim_status_works_in_a_transaction_that_only_reads(intake: Intake) -> None:
    claim = intake.open(10).claim("ann", "r1")
    intake.connection.execute("SET default_transaction_read_only = on")
    assert intake.claim_status(claim.claim_id)["state"] == "queued"
    assert [row["claim_id"] for row in intake.request_status("ann", "r1")] == [claim.claim_id]


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        (("nowhere", "ann", None), "IE001"),
        ((None, "ann", None), "IE001"),
        ((POOL, None, None), "IE002"),
        ((POOL, "", None), "IE002"),
        ((POOL, "x" * 201, None), "IE002"),
        ((POOL, "ann", ""), "IE002"),
        ((POOL, "ann", "x" * 201), "IE002"),
    ],
)
def test_bad_arguments_take_nothing_and_say_what_to_do(
    intake: Intake, arguments: tuple[str | None, ...], sqlstate: str
) -> None:
    intake.open(10)
    with pytest.raises(psycopg.Error) as caught:
        intake.rows("SELECT * FROM intake.claim_resource(%s, %s, %s)", *arguments)
    assert caught.value.sqlstate == sqlstate
    assert caught.value.diag.message_hint
    assert intake.inventory() == (10, 0, 0)


def test_a_claim_refuses_an_isolation_level_that_cannot_see_the_present(intake: Intake) -> None:
    intake.open(10)
    intake.connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(psycopg.Error, match="READ COMMITTED"), intake.connection.transaction():
        intake.claim("ann")


def test_the_static_insert_writes_what_pgmq_send_writes(intake: Intake) -> None:
    intake.open(10).claim("ann", "r1")
    (message,) = intake.column("SELECT message FROM pgmq.q_intake_queue")
    intake.rows("SELECT pgmq.send('intake_queue', %s)", json.dumps(message))
    ours, theirs = intake.dicts("SELECT * FROM pgmq.q_intake_queue ORDER BY msg_id")
    assert theirs["msg_id"] == ours["msg_id"] + 1
    for row in (ours, theirs):
        now = intake.value("SELECT clock_timestamp()")
        for moment in ("enqueued_at", "vt"):
            assert timedelta(0) <= now - row.pop(moment) < timedelta(minutes=10)
        row.pop("msg_id")
    assert ours == theirs


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "call",
    [
        "claim_resource(%s, 'ann', traceparent => %s)",
        "claim_resources(%s, 'ann', 1, traceparent => %s)",
        "claim_batch(%s, '{ann}', traceparents => ARRAY[%s])",
        "claim_seats(%s, 'ann', ARRAY(SELECT min(s.resource_id::text) FROM intake.allocations s"
        " WHERE s.status = 'AVAILABLE'), traceparent => %s)",
    ],
)
def test_a_trace_travels_with_its_claim_and_a_malformed_one_is_ignored(intake: Intake, call: LiteralString) -> None:
    intake.open(10)
    for trace in (TRACE, "", "-- not a trace --", None):
        assert "claimed" in intake.dicts("SELECT * FROM intake." + call, POOL, trace)[0].values()
    headers = [row[0] for row in intake.rows("SELECT headers FROM pgmq.q_intake_queue ORDER BY msg_id")]
    assert headers == [{"traceparent": TRACE}, None, None, None]


def test_a_request_is_not_said_to_have_made_nothing_while_the_pool_is_rebuilt(intake: Intake) -> None:
    """No row means that nothing was claimed, which cannot be known while the claimed slots are lost."""
    claim = intake.open(10).claim("ann", "r1")
    lose_unlogged(intake.connection)
    (unready,) = intake.request_status("ann", "r1")
    assert {name for name, value in unready.items() if value is not None} == {"state"}
    assert unready["state"] == "not_ready"
    intake.seed()
    assert [row["claim_id"] for row in intake.request_status("ann", "r1")] == [claim.claim_id]
    assert intake.request_status("ann", "r2") == []
