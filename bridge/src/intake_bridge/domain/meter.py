"""The local share of `commitTarget.maxPerSecond`."""

from collections.abc import Callable


class Meter:
    """A token bucket. No tokens at the start, and a bucket no deeper than a tenth of a second: a restart gives nothing.

    It bounds what one worker sends: commits in any window <= rate x window + burst. At the ledger two bursts may meet,
    when one call is slow and the next is not. The fleet's rate is divided by the number of live workers, which is
    seconds late when workers come and go.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate: float | None = None
        self._tokens = 0.0
        self._at = clock()

    @property
    def _burst(self) -> float:
        return max(1.0, (self._rate or 0.0) / 10)

    @property
    def _quantum(self) -> int:
        # 50 ms' worth: below that the round trips of a batch cost more than the batch.
        return max(1, int((self._rate or 0.0) / 20))

    def set_rate(self, per_second: float | None) -> None:
        """Change the rate, keep the tokens that the new bucket can hold; None switches the meter off."""
        self._refill()
        self._rate = per_second
        self._tokens = min(self._tokens, self._burst)

    def allowance(self, wanted: int) -> int:
        """How many of `wanted` commits may start now."""
        if self._rate is None:
            return wanted
        self._refill()
        return min(wanted, int(self._tokens)) if self._tokens >= min(wanted, self._quantum) else 0

    def wait(self) -> float:
        """Seconds until there are tokens worth a read."""
        if self._rate is None:
            return 0.0
        self._refill()
        return max(0.0, (self._quantum - self._tokens) / self._rate)

    def take(self, commits: int) -> None:
        """These commits are being sent."""
        if self._rate is not None:
            self._refill()
            self._tokens -= commits

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
