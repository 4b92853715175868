"""Whether claims fail for a reason of their own, or because the dependency fails for every claim."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from intake_bridge.domain.backoff import Uniform
from intake_bridge.domain.breaker import Breaker, BreakerTuning
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import DECIDED_BY_BRIDGE, Outcome, Result

# Two bad claims in a row happen, and so do two that are bad in the same way.
SAME_FAILURES: Final = 3
# A word of the contract, such as `conflict`, is more deliberate than an error: so many claims must get it. And so many
# failures in a row end a call: the rest of the batch is not sent.
FAILURES_IN_A_ROW: Final = 20
# Remembering more claims would only cost memory.
_MOST_KNOWN: Final = 10_000


def is_success(outcome: Outcome) -> bool:
    """Whether the dependency did its work. `declined` as a word is a success: a validator may decline every claim."""
    if outcome.kind == DECIDED_BY_BRIDGE:
        return False
    match outcome.result:
        case Result.APPROVED | Result.COMMITTED | Result.VOIDED:
            return True
        case Result.DECLINED:
            return outcome.kind is None
    return False


def is_failure(outcome: Outcome) -> bool:
    """Whether it brings the claim nearer to its end: counted, declined by a bare status, or a dead letter at once."""
    match outcome.result:
        case Result.RETRY:
            return outcome.counted
        case Result.DECLINED:
            return outcome.kind is not None
        case Result.DEAD:
            return outcome.kind != DECIDED_BY_BRIDGE
    return False


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: str
    error: str
    needed: int = SAME_FAILURES


class CommonFailure:
    """What one worker knows about the failures of one kind of call (validate, commit, void).

    A claim's failure counts against it when other claims succeed meanwhile. When SAME_FAILURES different claims that
    have no counted failure yet fail alike, and none succeeds in between, the dependency is *suspected*: it is called
    with one claim at a time, and no failure counts, until the first success. If the very next call succeeds, the
    suspicion was wrong: those claims are known as bad, and raise no suspicion again. A claim that fails before anything
    is known about others is asked once more.

    Alike means the same SQLSTATE, status or word, because the text of an error names the row. A suspicion ends after
    `blame_seconds`, because nothing tells a dependency that is down from claims that are all bad.
    """

    def __init__(self, clock: Callable[[], float], uniform: Uniform, tuning: BreakerTuning | None = None) -> None:
        # It opens at once when the dependency is suspected, and again at each probe that fails.
        self._breaker = Breaker(clock, uniform, replace(tuning or BreakerTuning(), failures_to_open=1))
        self._failures: dict[UUID, _Failure] = {}
        self._bad_claims: dict[UUID, None] = {}
        self._confirmed = False

    @property
    def breaker(self) -> Breaker:
        """Tripped while the dependency is suspected."""
        return self._breaker

    @property
    def count(self) -> int:
        """How many different claims have failed alike since the last success."""
        kinds = Counter(failure.kind for failure in self._failures.values())
        return max(kinds.values(), default=0)

    @property
    def summary(self) -> str:
        """The text before the error in the event's condition."""
        return f"{self.count} different claims failed alike, and none succeeded"

    @property
    def is_empty(self) -> bool:
        """No failure is remembered, so that a success changes nothing."""
        return not (self._failures or self._bad_claims or self._breaker.tripped)

    def record(self, answers: Iterable[tuple[Message, Outcome]]) -> frozenset[UUID]:
        """Count all answers of one call. Returns the claims to be asked once more before a failure counts."""
        answers = list(answers)
        last_success = max((outcome.at for _, outcome in answers if is_success(outcome)), default=None)
        if last_success is not None:
            self._record_success([each for each in answers if each[1].at <= last_success])
            # Failures after the last success say that the dependency has broken since, if enough of them are alike.
            answers = [each for each in answers if each[1].at > last_success]
            if not _are_alike(_failure(outcome) for _, outcome in answers if is_failure(outcome)):
                return frozenset()
        failed = [(message, outcome) for message, outcome in answers if is_failure(outcome)]
        if not failed:
            return frozenset()
        first = set()
        for message, outcome in failed:
            # Counted failures of before prove nothing about an answer that ends a claim at once.
            counted = message.failures > 0 and outcome.result is Result.RETRY
            if counted or outcome.claim_specific or message.claim_id in self._bad_claims:
                continue
            if message.claim_id not in self._failures:
                first.add(message.claim_id)
            if len(self._failures) < _MOST_KNOWN:
                self._failures[message.claim_id] = _failure(outcome)
        if _are_alike(self._failures.values()):
            self._confirmed = self._breaker.tripped
            self._breaker.record_possible_failure(_failure(failed[-1][1]).error)
        return frozenset(first)

    def forget_if_idle(self) -> None:
        """Called when a read found nothing to probe with: an old suspicion ends."""
        was_tripped = self._breaker.tripped
        self._breaker.forget_if_idle()
        if was_tripped and not self._breaker.tripped:
            self._failures.clear()

    def _record_success(self, answers: list[tuple[Message, Outcome]]) -> None:
        # The remembered claims failed while others succeeded, so they are bad. Not if a probe had failed as well: then
        # the dependency was down, and was mended after that.
        if not (self._breaker.tripped and self._confirmed):
            self._bad_claims |= dict.fromkeys(self._failures)
        self._confirmed = False
        self._failures.clear()
        for message, outcome in answers:
            if is_success(outcome):
                self._bad_claims.pop(message.claim_id, None)
        while len(self._bad_claims) > _MOST_KNOWN:
            del self._bad_claims[next(iter(self._bad_claims))]
        self._breaker.record_success()


def _are_alike(failures: Iterable[_Failure]) -> bool:
    """Whether enough of them are of one kind to suspect the dependency."""
    kinds = Counter((failure.kind, failure.needed) for failure in failures)
    return any(count >= needed for (_, needed), count in kinds.items())


def _failure(outcome: Outcome) -> _Failure:
    word = "conflict" if outcome.needs_human else outcome.result.value
    by_word = outcome.result is Result.DEAD and outcome.kind is None
    return _Failure(outcome.kind or word, outcome.reason or word, FAILURES_IN_A_ROW if by_word else SAME_FAILURES)
