"""Who pays for what is refused: tables of answers, and a clock that the test turns."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.message import Message, State
from intake_bridge.domain.outcomes import Outcome, Result, Transport
from intake_bridge.domain.trial import ALIKE, ENOUGH, Trial, refuses, serves

OK = table.LEDGER_WORDS["committed"]
NULLS = table.of_sqlstate("23502", "null value")
CHECKS = table.of_sqlstate("23514", "check")


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def claim(number: int, failures: int = 0) -> Message:
    """A message."""
    return Message(
        pool_id="drop",
        msg_id=number,
        read_ct=1,
        claim_id=UUID(int=number),
        user_id=f"user-{number}",
        slot_no=number,
        resource_id=None,
        request_id=None,
        claimed_at=datetime(2026, 12, 1, tzinfo=UTC),
        state=State.QUEUED,
        failures=failures,
    )


def trial(clock: Clock | None = None) -> Trial:
    """One that always waits as long as its back-off may."""
    return Trial(clock or Clock(), lambda _, high: high, BreakerTuning(first_probe_seconds=1))


def hear(judge: Trial, outcome: Outcome, *messages: Message) -> set[int]:
    """One call that answers all of them so; who is asked once more."""
    return {each.int for each in judge.hear((message, outcome) for message in messages)}


def pays(judge: Trial, outcome: Outcome, message: Message) -> bool:
    """Whether a call with this claim alone is held against it."""
    again = hear(judge, outcome, message)
    return message.claim_id.int not in again and not judge.breaker.excuses(message.failures)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (table.DECISIONS["approved"], "serves"),
        (table.DECISIONS["declined"], "serves"),
        (table.of_status(422, "declined", table.DECISIONS, table.VALIDATE_STATUS), "serves"),
        (table.of_status(422, None, table.DECISIONS, table.VALIDATE_STATUS), "refuses"),
        (table.of_status(402, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "refuses"),
        (table.of_status(400, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "refuses"),
        (table.of_status(409, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "refuses"),
        (table.of_status(429, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "neither"),
        (table.of_status(401, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "neither"),
        (table.of_transport(Transport.TIMEOUT, "no answer"), "refuses"),
        (table.of_transport(Transport.UNREACHABLE, "refused"), "neither"),
        (OK, "serves"),
        (table.VOID_WORDS["voided"], "serves"),
        (table.LEDGER_WORDS["conflict"], "refuses"),
        (table.COMMIT_WORDS["voided"], "refuses"),
        (Outcome(Result.DEAD, kind=table.OURS), "neither"),
        (NULLS, "refuses"),
        (table.of_sqlstate("40001", "busy"), "neither"),
        (table.of_sqlstate(None, "gone"), "neither"),
    ],
)
def test_an_answer_speaks_for_the_target_or_against_it_or_not_at_all(outcome: Outcome, what: str) -> None:
    assert (serves(outcome), refuses(outcome)) == (what == "serves", what == "refuses")


@pytest.mark.parametrize("calls", [[ALIKE], [1] * ALIKE, [2, 1], [200]])
def test_different_claims_that_fail_alike_accuse_the_target_and_nobody_pays(calls: list[int]) -> None:
    judge, number = trial(), 0
    for size in calls:
        assert not judge.breaker.tripped
        messages = [claim(number := number + 1) for _ in range(size)]
        assert hear(judge, NULLS, *messages) == {message.msg_id for message in messages}
    assert (judge.breaker.tripped, judge.alike) == (True, sum(calls))
    assert judge.summary == f"{sum(calls)} different claims failed alike, and none succeeded"
    # Nor does one that has failed before, or comes again.
    assert not pays(judge, NULLS, claim(1))
    assert not pays(judge, NULLS, claim(999, failures=2))


@pytest.mark.parametrize(
    ("outcomes", "accused"),
    [([NULLS, NULLS, CHECKS], False), ([NULLS, CHECKS, NULLS, NULLS], True), ([NULLS, NULLS], False)],
)
def test_alike_means_the_same_kind(outcomes: list[Outcome], accused: bool) -> None:
    judge = trial()
    judge.hear((claim(number), outcome) for number, outcome in enumerate(outcomes))
    assert judge.breaker.tripped is accused


def test_the_text_of_an_error_names_the_row_and_is_not_what_is_compared() -> None:
    judge = trial()
    judge.hear((claim(number), table.of_sqlstate("23514", f"row {number}")) for number in range(ALIKE))
    assert judge.breaker.tripped
    assert judge.breaker.error == f"row {ALIKE - 1} (SQLSTATE 23514)"


def test_one_claim_that_fails_again_and_again_is_one_claim() -> None:
    judge = trial()
    assert not pays(judge, NULLS, claim(1))
    assert [pays(judge, NULLS, claim(1, failures)) for failures in range(5)] == [True] * 5
    assert not judge.breaker.tripped


def test_who_fails_while_others_succeed_pays_at_once_and_accuses_nobody() -> None:
    judge = trial()
    answers = [(claim(number), OK if number < 5 else NULLS) for number in range(15)]
    assert judge.hear(answers) == frozenset()
    assert not judge.breaker.excuses(0)
    # All that is left at the end of the sale: ten that have paid before.
    assert [pays(judge, NULLS, claim(number, failures=1)) for number in range(5, 15)] == [True] * 10
    assert not judge.breaker.tripped


def test_who_has_failed_between_successes_pays_the_next_time() -> None:
    judge = trial()
    assert not pays(judge, NULLS, claim(1))
    hear(judge, OK, claim(2))
    assert pays(judge, NULLS, claim(1))
    # And no longer speaks against the target.
    assert not pays(judge, NULLS, claim(3))
    assert not pays(judge, NULLS, claim(4))
    assert not judge.breaker.tripped


def test_a_word_of_the_contract_takes_more_who_hear_it() -> None:
    judge = trial()
    conflict = table.LEDGER_WORDS["conflict"]
    assert hear(judge, conflict, *map(claim, range(ENOUGH - 1))) == set(range(ENOUGH - 1)), "asked once more"
    assert [pays(judge, conflict, claim(number)) for number in range(ENOUGH - 1)] == [True] * (ENOUGH - 1)
    assert not judge.breaker.tripped
    hear(judge, conflict, claim(99))
    assert (judge.breaker.tripped, judge.breaker.error) == (True, "conflict")


def test_who_accuses_a_target_that_then_serves_the_very_next_was_wrong_and_pays() -> None:
    judge = trial()
    hear(judge, NULLS, *map(claim, range(5)))
    hear(judge, OK, claim(60))
    assert [pays(judge, NULLS, claim(number)) for number in range(5)] == [True] * 5
    assert not judge.breaker.tripped


def test_after_an_outage_the_first_success_clears_everybody() -> None:
    judge = trial()
    hear(judge, NULLS, *map(claim, range(50)))
    hear(judge, NULLS, claim(50))
    hear(judge, OK, claim(60))
    assert (judge.breaker.tripped, judge.alike) == (False, 0)
    # The next outage finds them as innocent as the first one did.
    assert hear(judge, NULLS, *map(claim, range(50))) == set(range(50))
    assert judge.breaker.tripped


def test_an_accused_target_is_probed_with_one_ever_less_often() -> None:
    clock = Clock()
    judge = trial(clock)
    hear(judge, NULLS, *map(claim, range(50)))
    waits = []
    for number in range(50, 54):
        assert judge.breaker.allowance(100) == 0
        waits.append(judge.breaker.wait())
        clock.now += judge.breaker.wait()
        assert judge.breaker.allowance(100) == 1
        hear(judge, NULLS, claim(number))
    assert waits == [1, 2, 4, 8]
    # What says nothing about claims is not a success.
    clock.now += judge.breaker.wait()
    hear(judge, table.of_status(429, None, table.COMMIT_WORDS, table.COMMIT_STATUS), claim(99))
    assert judge.breaker.allowance(100) == 1


def test_after_the_longest_outage_they_pay_so_that_every_claim_has_an_end() -> None:
    clock = Clock()
    judge = trial(clock)
    hear(judge, NULLS, *map(claim, range(5)))
    began = clock.now
    while clock.now < began + 2 * 3600 - 20:
        clock.now += judge.breaker.wait()
        assert not pays(judge, NULLS, claim(int(clock.now) % 5))
    clock.now += 20
    assert [pays(judge, NULLS, claim(number)) for number in range(5)] == [True] * 5


def test_what_failed_later_than_the_last_success_accuses_though_others_succeeded_before() -> None:
    judge = trial()
    early = [(claim(n), replace(OK, at=1.0)) for n in range(5)]
    late = [(claim(n), replace(NULLS, at=2.0)) for n in range(5, 5 + ALIKE)]
    assert judge.hear(late + early) == {m.claim_id for m, _ in late}
    assert judge.breaker.tripped


def test_what_came_with_a_success_or_before_it_is_the_claims_own() -> None:
    judge = trial()
    answers = [(claim(n), replace(NULLS, at=1.0)) for n in range(5)] + [(claim(9), replace(OK, at=1.0))]
    assert judge.hear(answers) == frozenset()
    assert not judge.breaker.tripped


def test_two_that_failed_after_the_last_success_are_too_few() -> None:
    judge = trial()
    late = [(claim(n), replace(NULLS, at=2.0)) for n in range(ALIKE - 1)]
    assert judge.hear([(claim(9), replace(OK, at=1.0)), *late]) == frozenset()
    assert not judge.breaker.tripped


def test_a_verdict_of_our_own_is_no_success() -> None:
    assert not serves(replace(table.VOID_WORDS["voided"], kind=table.OURS))


def test_who_has_paid_accuses_by_a_word_that_ends_it_at_once_and_not_by_another_failure() -> None:
    word = table.of_status(422, None, table.COMMIT_WORDS, table.COMMIT_STATUS)
    for outcome, accused in ((word, True), (NULLS, False)):
        judge = trial()
        judge.hear((claim(n, failures=1), outcome) for n in range(ALIKE))
        assert judge.breaker.tripped is accused


def test_accusers_are_forgotten_with_the_accusation() -> None:
    clock = Clock()
    judge = trial(clock)
    hear(judge, NULLS, *map(claim, range(ALIKE)))
    clock.now += 1e6
    judge.forget_if_idle()
    assert not judge.breaker.tripped
    hear(judge, CHECKS, claim(9))
    assert not judge.breaker.tripped
