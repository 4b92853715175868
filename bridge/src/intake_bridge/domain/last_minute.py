"""What has failed within the last minute: how many calls of one step, or how often the bridge's own code."""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from intake_bridge.domain.outcomes import DECIDED_BY_BRIDGE, Outcome, Result

MINUTE_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Second:
    begun: float
    tried: int = 0
    failed: int = 0


class LastMinute:
    """Counts tries and failures by the second, and forgets both after a minute. Keeps the last failure's error."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: deque[_Second] = deque()
        self._error = ""

    def record(self, tried: int, failed: int, error: str = "") -> None:
        """Add tries, and the failures among them."""
        self._forget()
        if not self._seconds or self._clock() - self._seconds[-1].begun >= 1:
            self._seconds.append(_Second(self._clock()))
        self._seconds[-1].tried += tried
        self._seconds[-1].failed += failed
        if failed:
            self._error = error

    def record_answers(self, outcomes: Collection[Outcome]) -> None:
        """Add the answers of one call. A request to wait is neither a success nor a failure: `Breaker` reports it."""
        # Most of the answers of a call are one and the same object.
        if all(outcome.result in _DONE and outcome.kind is None for outcome in {id(o): o for o in outcomes}.values()):
            self.record(len(outcomes), 0)
            return
        answers = [o for o in outcomes if o.kind != DECIDED_BY_BRIDGE and not o.pauses_dependency]
        failures = [o for o in answers if o.result not in _DONE]
        if answers:
            error = (failures[-1].reason or _word(failures[-1])) if failures else ""
            self.record(len(answers), len(failures), error)

    def clear(self) -> None:
        """Forget everything."""
        self._seconds.clear()

    @property
    def tried(self) -> int:
        """Tries within the last minute."""
        self._forget()
        return sum(second.tried for second in self._seconds)

    @property
    def failed(self) -> int:
        """Failures within the last minute."""
        self._forget()
        return sum(second.failed for second in self._seconds)

    @property
    def error(self) -> str:
        """The last failure's error."""
        return self._error

    def _forget(self) -> None:
        while self._seconds and self._clock() - self._seconds[0].begun > MINUTE_SECONDS:
            self._seconds.popleft()


# A claim that is declined was answered; one that is committed instead of voided, too.
_DONE: Final = frozenset({Result.APPROVED, Result.DECLINED, Result.COMMITTED, Result.VOIDED})


def _word(outcome: Outcome) -> str:
    return "conflict" if outcome.needs_human else "refused" if outcome.result is Result.DEAD else "failed"
