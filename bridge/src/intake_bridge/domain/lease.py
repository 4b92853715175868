"""The worker's side of the leases of one batch."""

from collections.abc import Callable, Iterable

type Monotonic = Callable[[], float]


class Lease:
    """Ends before DB1's side does, whatever the two clocks say. Ask `is_ours` before each side effect.

    It is counted on a monotonic clock from the start of the read; DB1 counts from a later instant. The margin covers
    the time between the last look at the clock and the effect.
    """

    def __init__(self, clock: Monotonic, started: float, visibility_seconds: float) -> None:
        self._clock = clock
        self._visibility = visibility_seconds
        # A fifth, at most five seconds: one second at the shortest visibility (5 s), five at the default (45 s).
        self._margin = min(5.0, visibility_seconds / 5)
        self._deadline = started + visibility_seconds - self._margin
        self._lost: set[int] = set()

    @property
    def extend_every(self) -> float:
        """Seconds between two extensions: two may fail before the lease is in danger."""
        return self._visibility / 3

    def remaining(self) -> float:
        """Seconds left. What starts now must end within them."""
        return max(0.0, self._deadline - self._clock())

    def is_ours(self, msg_id: int) -> bool:
        """Whether this message is still leased to us, as far as this process can know."""
        return msg_id not in self._lost and self.remaining() > 0

    def extended(self, started: float) -> None:
        """DB1 has renewed the lease in a call that began at `started`."""
        self._deadline = max(self._deadline, started + self._visibility - self._margin)

    def mark_lost(self, msg_ids: Iterable[int]) -> None:
        """DB1 has answered that another worker has leased these, or that they have ended."""
        self._lost.update(msg_ids)
