"""AIMD throttle: how much of batchSize and maxPerSecond a worker uses while the ledger exceeds its latency budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThrottleTuning:
    """How the share of the ceiling moves: down by a factor, up by steps."""

    # One decision a second: long enough to see what the last one did, short against what people notice.
    period_seconds: float = 1.0
    fall: float = 0.5
    # From the bottom to the ceiling in twenty good periods.
    step: float = 0.05
    # Share of the calls of a period. A ledger that fails more than one call in ten is not helped by more calls.
    error_budget: float = 0.1
    # At the floor a worker rests for at most this long after a call, and for at most seven times the call's duration.
    longest_rest_seconds: float = 5.0
    rest_factor: float = 8.0


class Throttle:
    """AIMD over the share of the ceiling, which is batchSize. It records every call to the ledger.

    A period whose 95th percentile of durations is above the budget, or with too many failures, multiplies the share by
    `fall`. Any other period adds `step`, and so does one with nothing to send. The batch is that share of batchSize,
    and at least one claim. Where one claim a call is still too much, the share falls on, and the worker rests between
    the calls. It never stops completely: without calls it could not notice that the ledger has recovered.
    """

    def __init__(self, clock: Callable[[], float], tuning: ThrottleTuning | None = None) -> None:
        self._clock = clock
        self._tuning = tuning or ThrottleTuning()
        self._decided_at = clock()
        self._durations: list[float] = []
        self._failed = 0
        self._budget_seconds = float("inf")
        self._ceiling = 1
        self._wanted = 1.0
        self._last_seconds = 0.0

    def follow(self, ceiling: int, latency_budget_seconds: float) -> None:
        """Use these numbers of the configuration from now on."""
        self._ceiling, self._budget_seconds = ceiling, latency_budget_seconds

    @property
    def share(self) -> float:
        """Of the ceiling, above 0 and at most 1."""
        return min(1.0, max(self._wanted, self._floor))

    @property
    def batch_size(self) -> int:
        """Claims in one batch."""
        return max(1, int(self._ceiling * self.share + 1e-9))

    @property
    def rest_seconds(self) -> float:
        """Pause before the next batch; above 0 only when the batch is a single claim."""
        of_one = self._ceiling * self.share
        if of_one >= 1:
            return 0.0
        return min(self._tuning.longest_rest_seconds, self._last_seconds * (1 / of_one - 1))

    def record_call(self, seconds: float, failed: bool) -> None:
        """A call to the ledger has ended after so many seconds; `failed` if that may be the ledger's fault."""
        self._durations.append(seconds)
        self._failed += failed
        self._last_seconds = seconds
        self._decide()

    def record_idle(self) -> None:
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
        self._durations.clear()
        self._failed = 0

    def _over_budget(self) -> bool:
        calls = sorted(self._durations)
        if not calls:
            return False
        percentile = calls[math.ceil(0.95 * len(calls)) - 1]
        return percentile > self._budget_seconds or self._failed > self._tuning.error_budget * len(calls)
