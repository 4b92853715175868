"""Unfinished deliveries: a message that stops its bridges is read alone, and then becomes a dead letter."""

from typing import Any

import pytest

from tests.sql.intake import POOL, Intake


@pytest.fixture
def queue(intake: Intake) -> Intake:
    """Ten slots, five claims."""
    intake.open(10)
    for n in range(1, 6):
        intake.claim(f"u{n}", f"r{n}")
    return intake


def die(queue: Intake, times: int) -> None:
    """Bridges read all there is, and are heard of no more."""
    for _ in range(times):
        queue.read()
        queue.read_releases()
        queue.expire_leases()


def quarantine_messages(queue: Intake) -> None:
    """Have everything read alone from now on."""
    die(queue, 3)
    assert queue.read() == queue.read_releases() == []


def letters(queue: Intake) -> list[dict[str, Any]]:
    """The dead letters."""
    return queue.dicts("SELECT * FROM intake.dead_letters(%s)", POOL)


def die_alone(queue: Intake, user: str, times: int) -> None:
    """Bridges read this one alone, the first of all, and die of it."""
    for _ in range(times):
        assert [m["user_id"] for m in queue.read_quarantined()] == [user]
        queue.expire_leases()


def test_i2_after_three_unfinished_deliveries_a_message_is_read_alone(queue: Intake) -> None:
    for n in range(3):
        assert [m["headers"].get("unfinished", 0) for m in queue.read()] == [n] * 5
        assert queue.read_quarantined() == []
        queue.expire_leases()
    queue.claim("innocent")
    assert [m["user_id"] for m in queue.read()] == ["innocent"]
    alone = [message for _ in range(6) for message in queue.read_quarantined()]
    assert [m["user_id"] for m in alone] == ["u1", "u2", "u3", "u4", "u5"], "each by itself, and each once"
    assert letters(queue) == []
    assert len(queue.acknowledge(alone, "committed")) == 5
    assert queue.rows("SELECT * FROM intake.quarantine") == queue.reconcile() == []


def test_i2_only_deliveries_alone_make_a_message_a_dead_letter(queue: Intake) -> None:
    quarantine_messages(queue)
    die_alone(queue, "u1", 2)
    assert [m["user_id"] for m in queue.read_quarantined()] == ["u1"], "its third chance"
    assert letters(queue) == []
    queue.expire_leases()
    assert [m["user_id"] for m in queue.read_quarantined()] == ["u2"]
    (letter,) = letters(queue)
    assert letter["user_id"] == "u1"
    assert letter["reason"].startswith("it was read alone 3 times, and each time its bridge stopped before the end")
    assert letter["reason"].endswith("then replay")
    assert queue.inventory() == (5, 5, 0), "it keeps its slot"
    assert queue.reconcile() == []


def test_the_dead_letter_of_a_message_that_may_be_committed_says_so(queue: Intake) -> None:
    quarantine_messages(queue)
    queue.change("mark_committing", queue.read_quarantined())
    queue.expire_leases()
    die_alone(queue, "u1", 2)
    assert [m["user_id"] for m in queue.read_quarantined()] == ["u2"]
    (letter,) = letters(queue)
    assert letter["state"] == "committing"
    assert letter["reason"].endswith("It may be committed: ask the ledger")
    assert queue.reconcile() == []


@pytest.mark.parametrize("alone", [False, True])
def test_deliveries_of_a_message_that_was_given_back_are_counted_from_zero(queue: Intake, alone: bool) -> None:
    if alone:
        quarantine_messages(queue)
        for _ in range(2):
            queue.expire_leases()
            messages = [message for _ in range(5) for message in queue.read_quarantined()]
    else:
        die(queue, 2)
        messages = queue.read()
    assert len(queue.change("give_back", messages, [0.0] * 5, [None] * 5)) == 5
    assert queue.rows("SELECT * FROM intake.quarantine") == []
    die(queue, 2)
    assert len(queue.read()) == 5, "the third delivery"
    assert queue.read_quarantined() == []


def test_i9_a_worker_whose_message_was_quarantined_changes_nothing(queue: Intake) -> None:
    die(queue, 2)
    stale = queue.read()
    queue.expire_leases()
    assert queue.read() == []
    assert queue.acknowledge(stale, "committed") == queue.change("extend", stale) == []
    assert len(queue.read_quarantined()) == 1


def test_a_release_is_the_end_of_a_delivery(queue: Intake) -> None:
    """A released claim does not count as an unfinished delivery."""
    die(queue, 2)
    for message in queue.read():
        assert queue.release(message["claim_id"]) == "releasing"
    assert [m["headers"]["unfinished"] for m in queue.read_releases()] == [2] * 5
    assert queue.read_quarantined() == []


def test_a_release_with_unfinished_deliveries_becomes_a_dead_letter_too(queue: Intake) -> None:
    for message in queue.read():
        queue.release(message["claim_id"])
    quarantine_messages(queue)
    assert [m["release"] for m in queue.read_quarantined()] == [True]
    queue.expire_leases()
    die_alone(queue, "u1", 2)
    assert [m["user_id"] for m in queue.read_quarantined()] == ["u2"]
    assert [letter["user_id"] for letter in letters(queue)] == ["u1"]
    assert queue.rows("SELECT count(*) FROM intake.releases") == [(4,)]
    assert queue.reconcile() == []


def test_a_replayed_message_has_no_unfinished_deliveries(queue: Intake) -> None:
    quarantine_messages(queue)
    die_alone(queue, "u1", 3)
    while queue.read_quarantined():
        pass
    (letter,) = letters(queue)
    queue.rows("SELECT intake.replay(%s, %s, 'ops', 'mended')", POOL, [letter["msg_id"]])
    assert [(m["user_id"], m["headers"]) for m in queue.read()] == [("u1", {"worker": "worker"})]


def test_nothing_is_read_alone_while_the_pool_is_paused_or_for_another_pool(queue: Intake) -> None:
    quarantine_messages(queue)
    queue.configure(10, paused=True)
    assert queue.read_quarantined() == []
    queue.configure(10, paused=False)
    queue.connection.execute("UPDATE intake.quarantine SET pool_no = pool_no + 1")
    assert queue.read_quarantined() == []


def test_quarantine_survives_a_rebuild(queue: Intake) -> None:
    quarantine_messages(queue)
    queue.seed()
    assert len([message for _ in range(6) for message in queue.read_quarantined()]) == 5
    assert queue.reconcile() == []
