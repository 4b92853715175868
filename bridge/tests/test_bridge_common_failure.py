"""Whether a failure counts against its claim: tables of answers, and a clock that the test turns."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.common_failure import FAILURES_IN_A_ROW, SAME_FAILURES, CommonFailure, is_failure, is_success
from intake_bridge.domain.message import Message, State
from intake_bridge.domain.outcomes import Outcome, Result, Transport

OK = table.LEDGER_WORDS["committed"]
NULLS = table.of_sqlstate("23502", "null value")
CHECKS = table.of_sqlstate("23514", "check")


class Clock:
    """A clock that the test turns."""

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
        slots=1,
        seats="[]",
        request_id=None,
        claimed_at=datetime(2026, 12, 1, tzinfo=UTC),
        state=State.QUEUED,
        failures=failures,
    )


def common_failure(clock: Clock | None = None) -> CommonFailure:
    """One without jitter: it always waits as long as its back-off allows."""
    return CommonFailure(clock or Clock(), lambda _, high: high, BreakerTuning(first_probe_seconds=1))


def record(common: CommonFailure, outcome: Outcome, *messages: Message) -> set[int]:
    """One call that answers all of them so. Returns the claims to be asked once more."""
    return {each.int for each in common.record((message, outcome) for message in messages)}


def counts(common: CommonFailure, outcome: Outcome, message: Message) -> bool:
    """Whether the failure of a call with this claim alone counts against it."""
    again = record(common, outcome, message)
    return message.claim_id.int not in again and not common.breaker.is_to_blame(message.failures)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (table.DECISIONS["approved"], "is_success"),
        (table.DECISIONS["declined"], "is_success"),
        (table.of_status(422, "declined", table.DECISIONS, table.VALIDATE_STATUS), "is_success"),
        (table.of_status(422, None, table.DECISIONS, table.VALIDATE_STATUS), "is_failure"),
        (table.of_status(402, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "is_failure"),
        (table.of_status(400, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "is_failure"),
        (table.of_status(409, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "is_failure"),
        (table.of_status(429, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "neither"),
        (table.of_status(401, None, table.COMMIT_WORDS, table.COMMIT_STATUS), "neither"),
        (table.of_transport(Transport.TIMEOUT, "no answer"), "is_failure"),
        (table.of_transport(Transport.UNREACHABLE, "refused"), "neither"),
        (OK, "is_success"),
        (table.VOID_WORDS["voided"], "is_success"),
        (table.LEDGER_WORDS["conflict"], "is_failure"),
        (table.COMMIT_WORDS["voided"], "is_failure"),
        (Outcome(Result.DEAD, kind=table.DECIDED_BY_BRIDGE), "neither"),
        (NULLS, "is_failure"),
        (table.of_sqlstate("40001", "busy"), "neither"),
        (table.of_sqlstate(None, "gone"), "neither"),
    ],
)
def test_an_answer_is_a_success_or_a_failure_or_neither(outcome: Outcome, what: str) -> None:
    assert (is_success(outcome), is_failure(outcome)) == (what == "is_success", what == "is_failure")


@pytest.mark.parametrize("calls", [[SAME_FAILURES], [1] * SAME_FAILURES, [2, 1], [200]])
def test_when_different_claims_fail_alike_the_dependency_is_suspected_and_no_failure_counts(calls: list[int]) -> None:
    common, number = common_failure(), 0
    for size in calls:
        assert not common.breaker.tripped
        messages = [claim(number := number + 1) for _ in range(size)]
        assert record(common, NULLS, *messages) == {message.msg_id for message in messages}
    assert (common.breaker.tripped, common.count) == (True, sum(calls))
    assert common.summary == f"{sum(calls)} different claims failed alike, and none succeeded"
    # Nor does that of a claim that has failed before, or comes again.
    assert not counts(common, NULLS, claim(1))
    assert not counts(common, NULLS, claim(999, failures=2))


@pytest.mark.parametrize(
    ("outcomes", "suspected"),
    [([NULLS, NULLS, CHECKS], False), ([NULLS, CHECKS, NULLS, NULLS], True), ([NULLS, NULLS], False)],
)
def test_alike_means_the_same_kind(outcomes: list[Outcome], suspected: bool) -> None:
    common = common_failure()
    common.record((claim(number), outcome) for number, outcome in enumerate(outcomes))
    assert common.breaker.tripped is suspected


def test_failures_are_compared_by_sqlstate_because_the_text_names_the_row() -> None:
    common = common_failure()
    common.record((claim(number), table.of_sqlstate("23514", f"row {number}")) for number in range(SAME_FAILURES))
    assert common.breaker.tripped
    assert common.breaker.error == f"row {SAME_FAILURES - 1} (SQLSTATE 23514)"


def test_one_claim_that_fails_again_and_again_is_one_claim() -> None:
    common = common_failure()
    assert not counts(common, NULLS, claim(1))
    assert [counts(common, NULLS, claim(1, failures)) for failures in range(5)] == [True] * 5
    assert not common.breaker.tripped


def test_a_claim_that_fails_while_others_succeed_counts_at_once_and_raises_no_suspicion() -> None:
    common = common_failure()
    answers = [(claim(number), OK if number < 5 else NULLS) for number in range(15)]
    assert common.record(answers) == frozenset()
    assert not common.breaker.is_to_blame(0)
    # All that is left at the end of the sale: ten claims with counted failures.
    assert [counts(common, NULLS, claim(number, failures=1)) for number in range(5, 15)] == [True] * 10
    assert not common.breaker.tripped


def test_a_claim_that_has_failed_between_successes_counts_the_next_time() -> None:
    common = common_failure()
    assert not counts(common, NULLS, claim(1))
    record(common, OK, claim(2))
    assert counts(common, NULLS, claim(1))
    # And it raises no suspicion any more.
    assert not counts(common, NULLS, claim(3))
    assert not counts(common, NULLS, claim(4))
    assert not common.breaker.tripped


def test_a_word_of_the_contract_needs_more_claims() -> None:
    common = common_failure()
    conflict = table.LEDGER_WORDS["conflict"]
    assert record(common, conflict, *map(claim, range(FAILURES_IN_A_ROW - 1))) == set(range(FAILURES_IN_A_ROW - 1)), (
        "asked once more"
    )
    assert [counts(common, conflict, claim(number)) for number in range(FAILURES_IN_A_ROW - 1)] == [True] * (
        FAILURES_IN_A_ROW - 1
    )
    assert not common.breaker.tripped
    record(common, conflict, claim(99))
    assert (common.breaker.tripped, common.breaker.error) == (True, "conflict")


def test_a_suspicion_was_wrong_when_the_very_next_call_succeeds() -> None:
    common = common_failure()
    record(common, NULLS, *map(claim, range(5)))
    record(common, OK, claim(60))
    assert [counts(common, NULLS, claim(number)) for number in range(5)] == [True] * 5
    assert not common.breaker.tripped


def test_after_an_outage_the_first_success_clears_all_claims() -> None:
    common = common_failure()
    record(common, NULLS, *map(claim, range(50)))
    record(common, NULLS, claim(50))
    record(common, OK, claim(60))
    assert (common.breaker.tripped, common.count) == (False, 0)
    # In the next outage they are treated as in the first.
    assert record(common, NULLS, *map(claim, range(50))) == set(range(50))
    assert common.breaker.tripped


def test_a_suspected_dependency_is_probed_with_one_claim_less_and_less_often() -> None:
    clock = Clock()
    common = common_failure(clock)
    record(common, NULLS, *map(claim, range(50)))
    waits = []
    for number in range(50, 54):
        assert common.breaker.allowance(100) == 0
        waits.append(common.breaker.wait())
        clock.now += common.breaker.wait()
        assert common.breaker.allowance(100) == 1
        record(common, NULLS, claim(number))
    assert waits == [1, 2, 4, 8]
    # An answer that is not about claims is no success.
    clock.now += common.breaker.wait()
    record(common, table.of_status(429, None, table.COMMIT_WORDS, table.COMMIT_STATUS), claim(99))
    assert common.breaker.allowance(100) == 1


def test_after_the_longest_outage_failures_count_so_that_every_claim_has_an_end() -> None:
    clock = Clock()
    common = common_failure(clock)
    record(common, NULLS, *map(claim, range(5)))
    began = clock.now
    while clock.now < began + 2 * 3600 - 20:
        clock.now += common.breaker.wait()
        assert not counts(common, NULLS, claim(int(clock.now) % 5))
    clock.now += 20
    assert [counts(common, NULLS, claim(number)) for number in range(5)] == [True] * 5


def test_failures_after_the_last_success_raise_suspicion_though_others_succeeded_before() -> None:
    common = common_failure()
    early = [(claim(n), replace(OK, at=1.0)) for n in range(5)]
    late = [(claim(n), replace(NULLS, at=2.0)) for n in range(5, 5 + SAME_FAILURES)]
    assert common.record(late + early) == {m.claim_id for m, _ in late}
    assert common.breaker.tripped


def test_failures_before_a_success_or_with_it_are_the_claims_own() -> None:
    common = common_failure()
    answers = [(claim(n), replace(NULLS, at=1.0)) for n in range(5)] + [(claim(9), replace(OK, at=1.0))]
    assert common.record(answers) == frozenset()
    assert not common.breaker.tripped


def test_two_failures_after_the_last_success_are_too_few() -> None:
    common = common_failure()
    late = [(claim(n), replace(NULLS, at=2.0)) for n in range(SAME_FAILURES - 1)]
    assert common.record([(claim(9), replace(OK, at=1.0)), *late]) == frozenset()
    assert not common.breaker.tripped


def test_what_the_bridge_decides_by_itself_is_no_success() -> None:
    assert not is_success(replace(table.VOID_WORDS["voided"], kind=table.DECIDED_BY_BRIDGE))


def test_a_claim_with_counted_failures_raises_suspicion_only_by_an_answer_that_ends_it_at_once() -> None:
    word = table.of_status(422, None, table.COMMIT_WORDS, table.COMMIT_STATUS)
    for outcome, suspected in ((word, True), (NULLS, False)):
        common = common_failure()
        common.record((claim(n, failures=1), outcome) for n in range(SAME_FAILURES))
        assert common.breaker.tripped is suspected


def test_failures_are_forgotten_with_the_suspicion() -> None:
    clock = Clock()
    common = common_failure(clock)
    record(common, NULLS, *map(claim, range(SAME_FAILURES)))
    clock.now += 1e6
    common.forget_if_idle()
    assert not common.breaker.tripped
    record(common, CHECKS, claim(9))
    assert not common.breaker.tripped
