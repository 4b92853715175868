"""The closed loop: how much of the human's numbers a worker uses while the ledger is slower than its budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThrottleTuning:
    """How the share of the ceiling moves: down by a factor, up by steps."""

    # One decision a second: long enough to have seen what the last one did, short against what people notice.
    period_seconds: float = 1.0
    fall: float = 0.5
    # From the bottom to the ceiling in twenty good periods.
    step: float = 0.05
    # Of the calls of a period. A ledger that refuses more than one in ten is not helped by more of them.
    error_budget: float = 0.1
    # At the floor a worker rests for at most this long after a call, and for at most seven times its duration.
    longest_rest_seconds: float = 5.0
    rest_factor: float = 8.0


class Throttle:
    """AIMD over the share of the ceiling, fed with every call to the ledger.

    A period whose 95th percentile of durations is above the budget, or with too many failures, multiplies the share by
    `fall`; any other adds `step`, and so does a period with nothing to send. The batch is that share of batchSize and
    never below one claim. Where one claim a call is still too much, the share falls on, and what it lacks is rest
    between the calls. It never stops asking: every claim ends, and how else would it learn that the ledger is well.
    """

    def __init__(self, clock: Callable[[], float], tuning: ThrottleTuning | None = None) -> None:
        self._clock = clock
        self._tuning = tuning or ThrottleTuning()
        self._decided_at = clock()
        self._seconds: list[float] = []
        self._failed = 0
        self._budget = float("inf")
        self._ceiling = 1
        self._wanted = 1.0
        self._last_seconds = 0.0

    def follow(self, ceiling: int, latency_budget_seconds: float) -> None:
        """The human's numbers, which act at once."""
        self._ceiling, self._budget = ceiling, latency_budget_seconds

    @property
    def share(self) -> float:
        """Of the ceiling, above 0 and at most 1."""
        return min(1.0, max(self._wanted, self._floor))

    @property
    def batch(self) -> int:
        """Claims in one batch."""
        return max(1, int(self._ceiling * self.share + 1e-9))

    @property
    def rest(self) -> float:
        """Seconds to leave the ledger alone before the next batch; above 0 only when the batch is a single claim."""
        of_one = self._ceiling * self.share
        if of_one >= 1:
            return 0.0
        return min(self._tuning.longest_rest_seconds, self._last_seconds * (1 / of_one - 1))

    def called(self, seconds: float, failed: bool) -> None:
        """A call to the ledger has ended; `failed` if that may be the ledger's fault."""
        self._seconds.append(seconds)
        self._failed += failed
        self._last_seconds = seconds
        self._decide()

    def idle(self) -> None:
        """There is nothing to send."""
        self._decide()

    @property
    def _floor(self) -> float:
        return 1 / (self._tuning.rest_factor * self._ceiling)

    def _decide(self) -> None:
        if self._clock() < self._decided_at + self._tuning.period_seconds:
            return
        self._wanted = self.share * self._tuning.fall if self._over_budget() else self.share + self._tuning.step
        self._decided_at = self._clock()
        self._seconds.clear()
        self._failed = 0

    def _over_budget(self) -> bool:
        calls = sorted(self._seconds)
        if not calls:
            return False
        percentile = calls[math.ceil(0.95 * len(calls)) - 1]
        return percentile > self._budget or self._failed > self._tuning.error_budget * len(calls)
