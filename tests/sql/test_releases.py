"""Claims that are released or time out: a slot comes back only when its claim cannot be committed any more."""

import pytest

from tests.sql.intake import POOL, Answer, Intake


@pytest.mark.parametrize("limit", [None, 1])
def test_i7_a_retry_of_a_released_claim_gets_the_first_answer(intake: Intake, limit: int | None) -> None:
    intake.open(1, claimsPerUser=limit)
    first = intake.claim("ann", "r1")
    assert [intake.release(first.claim_id) for _ in range(2)] == ["released"] * 2
    assert intake.claim("ann", "r1") == Answer("replayed", first.claim_id, first.resource_id, 1)
    assert [row["state"] for row in intake.request_status("ann", "r1")] == ["released"]
    assert intake.claim("ann", "r2").slot_no == 1, "the slot is free, and so is its user"
    assert intake.reconcile() == []


def test_i8_a_claim_that_a_bridge_has_read_is_free_when_the_ledger_says_so(intake: Intake) -> None:
    claim = intake.open(1).claim("ann", "r1")
    intake.read()
    assert [intake.release(claim.claim_id) for _ in range(2)] == ["releasing"] * 2
    assert intake.claim("bob").outcome == "sold_out"
    assert intake.claim_status(claim.claim_id)["state"] == "releasing"
    assert intake.read() == [], "not to be committed any more"
    messages = intake.read_releases()
    assert [m["claim_id"] for m in messages] == [claim.claim_id]
    intake.acknowledge(messages, "voided")
    assert intake.claim("bob").outcome == "claimed"
    assert intake.release(claim.claim_id) == "voided"
    assert intake.reconcile() == []


def test_i9_a_release_takes_the_lease_away(intake: Intake) -> None:
    claim = intake.open(1).claim("ann", "r1")
    stale = intake.read()
    intake.release(claim.claim_id)
    assert intake.acknowledge(stale, "committed") == [], "the ledger may have voided it already"
    assert intake.change("mark_validated", stale) == []


def test_i8_a_replayed_dead_letter_is_released_through_the_ledger(intake: Intake) -> None:
    """Its commit may have reached the ledger before it died."""
    claim = intake.open(1).claim("ann", "r1")
    intake.change("dead_letter", intake.read(), ["no answer"])
    assert intake.release(claim.claim_id) == "dead"
    intake.rows("SELECT intake.replay(%s, array(SELECT msg_id FROM intake.dead_letters(%s)), 'me', 'why')", POOL, POOL)
    assert intake.release(claim.claim_id) == "releasing"
    assert intake.claim("bob").outcome == "sold_out"


@pytest.mark.parametrize("state", ["committing", "committed"])
def test_i8_a_release_that_comes_too_late_changes_nothing(intake: Intake, state: str) -> None:
    claim = intake.open(1).claim("ann", "r1")
    messages = intake.read()
    intake.change("mark_committing", messages)
    if state == "committed":
        intake.acknowledge(messages, "committed")
    assert intake.release(claim.claim_id) == state
    assert intake.claim("bob").outcome == "sold_out"


@pytest.mark.parametrize("read", [False, True])
def test_i8_a_slot_is_free_after_the_claim_timeout_when_the_ledger_has_voided(intake: Intake, read: bool) -> None:
    claim = intake.open(1, claimTimeoutSeconds=60).claim("ann", "r1")
    if read:
        intake.read()
    age = "UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour', vt = enqueued_at"
    intake.connection.execute(age)
    intake.housekeep()
    assert intake.claim("bob").outcome == "sold_out", "the clock alone frees nothing"
    assert intake.claim_status(claim.claim_id)["state"] == "releasing"
    assert intake.read() == []
    intake.acknowledge(intake.read_releases(), "voided")
    assert intake.claim("bob").outcome == "claimed"
    assert intake.reconcile() == []


def test_a_claim_that_a_bridge_has_leased_does_not_time_out(intake: Intake) -> None:
    intake.open(2, claimTimeoutSeconds=60, visibilityTimeoutSeconds=3600)
    intake.claim("ann")
    leased = intake.read()
    intake.claim("bob")
    intake.connection.execute("UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour'")
    intake.housekeep()
    assert [m["user_id"] for m in intake.read_releases()] == ["bob"]
    assert intake.acknowledge(leased, "committed") == [leased[0]["msg_id"]]


def test_a_claim_that_waits_for_its_next_attempt_times_out(intake: Intake) -> None:
    """Alone in the queue while the validator is down, it is tried again the moment it may be read."""
    claim = intake.open(1, claimTimeoutSeconds=60).claim("ann")
    intake.change("give_back", intake.read(), [3600.0], [None])
    intake.connection.execute("UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour'")
    intake.housekeep()
    assert [m["claim_id"] for m in intake.read_releases()] == [claim.claim_id]


def test_a_dead_letter_of_a_released_claim_is_voided_after_its_replay(intake: Intake) -> None:
    claim = intake.open(1).claim("ann", "r1")
    intake.read()
    intake.release(claim.claim_id)
    intake.change("dead_letter", intake.read_releases(), ["ledger away"])
    assert intake.read_releases() == []
    intake.rows("SELECT intake.replay(%s, array(SELECT msg_id FROM intake.dead_letters(%s)), 'me', 'why')", POOL, POOL)
    assert intake.read() == []
    assert [m["claim_id"] for m in intake.read_releases()] == [claim.claim_id]
