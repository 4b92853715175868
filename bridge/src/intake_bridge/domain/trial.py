"""Whose failure it is when claims are refused: theirs, or the target's, which refuses everybody."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from intake_bridge.domain.backoff import Uniform
from intake_bridge.domain.breaker import Breaker, BreakerTuning
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import OURS, Outcome, Result

# Two bad claims in a row happen, and so do two that are bad in the same way.
ALIKE: Final = 3
# A word of the contract, `conflict`, is more deliberate than an error: it takes so many who hear it, and no success.
# So many refused one after the other end a call: the rest of the batch need not be sent.
ENOUGH: Final = 20
# More would only cost memory.
_REMEMBERED: Final = 10_000


def serves(outcome: Outcome) -> bool:
    """The target did what it is for. So is declining, by the word: a validator may be right about everybody."""
    if outcome.kind == OURS:
        return False
    match outcome.result:
        case Result.APPROVED | Result.COMMITTED | Result.VOIDED:
            return True
        case Result.DECLINED:
            return outcome.kind is None
    return False


def refuses(outcome: Outcome) -> bool:
    """It brings this claim nearer to its end: counted, declined by a bare status, or a dead letter at once."""
    match outcome.result:
        case Result.RETRY:
            return outcome.counted
        case Result.DECLINED:
            return outcome.kind is not None
        case Result.DEAD:
            return outcome.kind != OURS
    return False


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: str
    error: str
    needed: int = ALIKE


class Trial:
    """How one kind of call (validate, commit, void) treats claims, as one worker sees it.

    A claim pays for a failure when others succeed and it does not. ALIKE different claims that never paid and fail in
    the same way, with no success in between, accuse the target: from then on it is asked with one claim at a time, and
    nobody pays, until the first success. If that is the very next answer, they were wrong, and accuse nobody again. A
    claim that fails before anything is known of others is asked once more.

    In the same way: by SQLSTATE, status or word, because the text of an error names the row. Not for ever: like any
    outage it is excused for `excuse_seconds`, because nothing tells a target that is down from claims that are all bad.
    """

    def __init__(self, clock: Callable[[], float], uniform: Uniform, tuning: BreakerTuning | None = None) -> None:
        # It opens when the target is accused, at once, and again at each probe that fails.
        self._breaker = Breaker(clock, uniform, replace(tuning or BreakerTuning(), suspects=1))
        self._accusers: dict[UUID, _Failure] = {}
        self._convicted: dict[UUID, None] = {}
        self._confirmed = False

    @property
    def breaker(self) -> Breaker:
        """Tripped while the target stands accused."""
        return self._breaker

    @property
    def alike(self) -> int:
        """How many different claims have failed in the same way since the last success."""
        return max(self._kinds().values(), default=0)

    @property
    def summary(self) -> str:
        """What to tell people, before the error itself."""
        return f"{self.alike} different claims failed alike, and none succeeded"

    @property
    def quiet(self) -> bool:
        """Nobody has failed, so that a success changes nothing."""
        return not (self._accusers or self._convicted or self._breaker.tripped)

    def hear(self, answers: Iterable[tuple[Message, Outcome]]) -> frozenset[UUID]:
        """The answers of one step, all of them. Returns the claims that are to be asked once more before they pay."""
        answers = list(answers)
        served = max((outcome.at for _, outcome in answers if serves(outcome)), default=None)
        if served is not None:
            # What failed later says that the target has broken since, if enough of it is alike.
            self._acquit_the_target([each for each in answers if each[1].at <= served])
            answers = [each for each in answers if each[1].at > served]
            if not _alike(_failure(outcome) for _, outcome in answers if refuses(outcome)):
                return frozenset()
        failed = [(message, outcome) for message, outcome in answers if refuses(outcome)]
        if not failed:
            return frozenset()
        first = set()
        for message, outcome in failed:
            # What it has paid for before was no answer that ends a claim at once: of such an answer it is no proof.
            paid = message.failures > 0 and outcome.result is Result.RETRY
            if paid or outcome.alone or message.claim_id in self._convicted:
                continue
            if message.claim_id not in self._accusers:
                first.add(message.claim_id)
            if len(self._accusers) < _REMEMBERED:
                self._accusers[message.claim_id] = _failure(outcome)
        if _alike(self._accusers.values()):
            self._confirmed = self._breaker.tripped
            self._breaker.suspected(_failure(failed[-1][1]).error)
        return frozenset(first)

    def forget_if_idle(self) -> None:
        """There is nothing to probe with: what was heard so long ago accuses nobody any more."""
        was_tripped = self._breaker.tripped
        self._breaker.forget_if_idle()
        if was_tripped and not self._breaker.tripped:
            self._accusers.clear()

    def _kinds(self) -> Counter[str]:
        return Counter(failure.kind for failure in self._accusers.values())

    def _acquit_the_target(self, answers: list[tuple[Message, Outcome]]) -> None:
        # They have failed while others succeeded; unless a probe has failed, too, and it was mended after that.
        if not (self._breaker.tripped and self._confirmed):
            self._convicted |= dict.fromkeys(self._accusers)
        self._confirmed = False
        self._accusers.clear()
        for message, outcome in answers:
            if serves(outcome):
                self._convicted.pop(message.claim_id, None)
        while len(self._convicted) > _REMEMBERED:
            del self._convicted[next(iter(self._convicted))]
        self._breaker.succeeded()


def _alike(failures: Iterable[_Failure]) -> bool:
    """Whether enough of them are of one kind to accuse the target."""
    kinds = Counter((failure.kind, failure.needed) for failure in failures)
    return any(count >= needed for (_, needed), count in kinds.items())


def _failure(outcome: Outcome) -> _Failure:
    word = "conflict" if outcome.page else outcome.result.value
    by_word = outcome.result is Result.DEAD and outcome.kind is None
    return _Failure(outcome.kind or word, outcome.reason or word, ENOUGH if by_word else ALIKE)
