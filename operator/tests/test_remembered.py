"""When a remembered answer counts, and when it is time to ask again; the clock is turned by the test."""

from datetime import timedelta

import pytest
from given import Clock
from intake_operator.remembered import Remembered

MINUTE = timedelta(minutes=1)


@pytest.fixture
def remembered(clock: Clock) -> Remembered[str, str]:
    return Remembered(clock)


def test_before_the_first_answer_it_is_time_to_ask(remembered: Remembered[str, str]) -> None:
    assert remembered.is_due("a", "host")
    assert remembered.fresh("a", "host") is None
    assert remembered.latest("a") is None


def test_an_answer_counts_for_as_long_as_was_said_and_no_longer(remembered: Remembered[str, str], clock: Clock) -> None:
    assert remembered.keep("a", "host", "up", MINUTE) == "up"
    clock.now += 59.9
    assert remembered.fresh("a", "host") == "up"
    clock.now += 0.1
    assert remembered.is_due("a", "host")
    assert remembered.fresh("a", "host") is None
    assert remembered.latest("a") == "up"


def test_a_bad_answer_may_count_for_less_time_than_a_good_one(remembered: Remembered[str, str], clock: Clock) -> None:
    remembered.keep("a", "host", "up", MINUTE)
    remembered.keep("b", "host", "down", timedelta(seconds=3))
    clock.now += 3
    assert (remembered.fresh("a", "host"), remembered.fresh("b", "host")) == ("up", None)


def test_another_question_is_asked_at_once(remembered: Remembered[str, str]) -> None:
    remembered.keep("a", "host", "up", MINUTE)
    assert remembered.fresh("a", "other") is None
    assert remembered.latest("a") == "up"


def test_an_answer_that_counts_for_no_time_is_asked_for_again_and_known_meanwhile(
    remembered: Remembered[str, str],
) -> None:
    remembered.keep("a", "host", "up", timedelta())
    assert remembered.is_due("a", "host")
    assert remembered.latest("a") == "up"


def test_none_is_an_answer_too(clock: Clock) -> None:
    remembered: Remembered[str, str | None] = Remembered(clock)
    remembered.keep("a", "host", None, MINUTE)
    assert not remembered.is_due("a", "host")


def test_a_revised_answer_is_to_the_same_question_and_counts_from_now(
    remembered: Remembered[str, str], clock: Clock
) -> None:
    remembered.keep("a", "host", "up", MINUTE)
    clock.now += 50
    remembered.revise("a", "refused", timedelta(seconds=20))
    clock.now += 19
    assert remembered.fresh("a", "host") == "refused"
    assert remembered.is_due("a", "other")
    clock.now += 1
    assert remembered.is_due("a", "host")


def test_without_a_question_there_is_nothing_to_revise(remembered: Remembered[str, str]) -> None:
    remembered.revise("a", "refused", MINUTE)
    assert remembered.latest("a") is None


def test_an_event_that_is_forgotten_is_asked_about_anew_and_no_other(remembered: Remembered[str, str]) -> None:
    for uid in ("a", "b"):
        remembered.keep(uid, "host", "up", MINUTE)
    remembered.forget("a")
    remembered.forget("never seen")
    assert (remembered.latest("a"), remembered.is_due("a", "host")) == (None, True)
    assert remembered.fresh("b", "host") == "up"
