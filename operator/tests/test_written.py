"""When a status is written: counts every few seconds, everything else at once."""

from datetime import datetime, timedelta
from typing import Any

import given
import pytest
from given import OPENS
from intake_operator.decide import needs
from intake_operator.decide.status import COUNTS_EVERY, is_due
from intake_operator.reasons import ConditionType

SECOND = timedelta(seconds=1)


def status(queued: int = 3, at: datetime = OPENS, **changes: Any) -> dict[str, Any]:
    """A status with this many queued intents, counted at this time; `message` and `reason` are a condition's."""
    condition = {
        "type": "Drained",
        "status": "False",
        "reason": changes.pop("reason", "QueueDraining"),
        "message": changes.pop("message", f"{queued} intents are not committed yet"),
        "observedGeneration": changes.pop("generation", 1),
        "lastTransitionTime": "x",
    }
    counts = {"queue": {"depth": queued}, "countedAt": at.isoformat(timespec="seconds"), "claimsPerSecond": queued / 7}
    return {"phase": "Open", "conditions": [condition], **counts, **changes}


def test_counts_wait_until_they_may_be_told_again() -> None:
    """In a rush they change with every pass; so do the numbers in the message of a condition."""
    before = status()
    for seconds, due in ((0, False), (4, False), (5, True), (60, True)):
        now = OPENS + seconds * SECOND
        assert is_due(before, status(queued=4, at=now), now) is due


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "Draining"},
        {"reason": "HoldsPending"},
        {"message": "3 claims are held"},
        {"generation": 2},
        {"nextTransitionTime": "2026-12-01T20:00:00+00:00"},
        {"database": {"systemIdentifier": "7251"}},
        {"report": {"verified": True}},
        {"connection": {"host": "h"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_a_count_is_told_at_once(change: dict[str, Any]) -> None:
    now = OPENS + SECOND
    assert is_due(status(), status(queued=4, at=now, **change), now)


def test_what_did_not_change_is_not_written() -> None:
    assert not is_due(status(), status(), OPENS + timedelta(hours=1))


def test_a_clock_that_was_put_back_keeps_no_count_from_being_told() -> None:
    now = OPENS - timedelta(hours=1)
    assert is_due(status(), status(queued=4, at=now), now)


def test_counts_without_a_time_are_told() -> None:
    before, after = ({"phase": "Pending", "bridge": {"ready": ready}} for ready in (0, 1))
    assert is_due(before, after, OPENS)


def test_a_rush_writes_counts_every_five_seconds_and_a_problem_at_once() -> None:
    sale = given.selling()
    sale = sale.after(sale.plan())
    now = OPENS + SECOND
    rush = sale.says(committed=9).at(now)
    assert not is_due(sale.event.status, rush.plan().status, now)
    assert is_due(sale.event.status, rush.at(OPENS + COUNTS_EVERY).plan().status, OPENS + COUNTS_EVERY)
    broken = rush.new_db1(error="away")
    assert is_due(sale.event.status, broken.plan().status, now)


@pytest.mark.parametrize(
    ("ahead", "degraded", "lasts"),
    [
        (timedelta(hours=1), False, needs.WHILE_FAR),
        (timedelta(hours=1), True, needs.WHILE_GOOD),
        (timedelta(minutes=1), False, needs.WHILE_GOOD),
        (-timedelta(minutes=1), False, needs.WHILE_GOOD),
        (-timedelta(minutes=1), True, needs.WHILE_BAD),
    ],
)
def test_a_secret_is_read_seldom_long_before_the_window_and_soon_where_something_is_wrong(
    ahead: timedelta, degraded: bool, lasts: timedelta
) -> None:
    conditions = [{"type": ConditionType.DEGRADED.value, "status": "True" if degraded else "False"}]
    event = given.selling(status={"conditions": conditions}).event
    assert needs.secrets_last(event, OPENS - ahead) == lasts


def test_the_secrets_of_a_pass_are_those_of_the_event_and_those_that_its_spec_names() -> None:
    event = given.selling().event
    assert set(needs.secrets(event)) == {
        "taylor-drop-superuser",
        "taylor-drop-app",
        "taylor-drop-bridge",
        "core-ledger",
    }
    assert len(needs.secrets(given.invalid().event)) == 3
