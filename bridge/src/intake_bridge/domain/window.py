"""How many calls may be under way at one webhook."""

from typing import Final

# A webhook behind a few processes serves these at once; more is found out within some round trips.
FIRST: Final = 32
# Against a server of 20 ms, one process makes no more calls a second beyond this.
CEILING: Final = 400
_FLOOR: Final = 2
# An answer that takes this part of the timeout has waited in a queue. Room is left for the calls behind it.
_SLOW: Final = 0.25


class Window:
    """Grows while answers come swiftly, halves when they do not, as TCP does: neither a fast webhook nor a frail one
    needs a setting.

    Not a rate: who answers quickly is asked again quickly. The batch size is the other ceiling.
    """

    def __init__(self, timeout_seconds: float, first: int = FIRST, ceiling: int = CEILING) -> None:
        self._slow = timeout_seconds * _SLOW
        self._size = float(first)
        self._ceiling = ceiling
        self._growing_fast = True
        self._halved_at = float("-inf")

    @property
    def size(self) -> int:
        """Calls that may be under way now."""
        return int(self._size)

    def answered(self, began: float, now: float, strained: bool) -> None:
        """A call that began then has ended now; `strained` if it failed as calls to an overloaded server do."""
        if strained or now - began > self._slow:
            # Calls from before the last halving say nothing about the size since.
            if began > self._halved_at:
                self._size = max(_FLOOR, self._size / 2)
                self._halved_at = now
                self._growing_fast = False
            return
        # Doubles with each round of answers at first, one more with each round after a halving.
        self._size = min(self._ceiling, self._size + (1.0 if self._growing_fast else 1.0 / self._size))
