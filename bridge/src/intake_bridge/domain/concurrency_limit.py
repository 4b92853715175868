"""How many calls to one webhook may be under way."""

from typing import Final

# A webhook behind a few processes serves these at once; whether it serves more is found out within some round trips.
FIRST: Final = 32
# Against a server that takes 20 ms, one process makes no more calls a second beyond this.
CEILING: Final = 400
_FLOOR: Final = 2
# An answer that takes this share of the timeout has waited in the server's queue. Room is left for the calls behind it.
_SLOW: Final = 0.25


class ConcurrencyLimit:
    """AIMD concurrency limit for one webhook, as in TCP: slow start, then one more a round, halved on a slow or failed
    call. So no webhook needs a setting, be it fast or weak.

    It is not a rate: a webhook that answers quickly is called again at once. The batch size is the other ceiling.
    """

    def __init__(self, timeout_seconds: float, first: int = FIRST, ceiling: int = CEILING) -> None:
        self._slow_seconds = timeout_seconds * _SLOW
        self._calls = float(first)
        self._ceiling = ceiling
        self._slow_start = True
        self._halved_at = float("-inf")

    @property
    def calls(self) -> int:
        """Calls that may be under way now."""
        return int(self._calls)

    def record(self, began: float, ended: float, overloaded: bool) -> None:
        """Count a call, by a monotonic clock in seconds. `overloaded`: it failed as calls to a busy server fail."""
        if overloaded or ended - began > self._slow_seconds:
            # A call that began before the last halving says nothing about the limit since.
            if began > self._halved_at:
                self._calls = max(_FLOOR, self._calls / 2)
                self._halved_at = ended
                self._slow_start = False
            return
        # Slow start doubles the limit with each round of answers; after a halving each round adds one.
        self._calls = min(self._ceiling, self._calls + (1.0 if self._slow_start else 1.0 / self._calls))
