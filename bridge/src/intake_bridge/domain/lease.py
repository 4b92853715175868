"""What a worker may still do with the messages it has read."""

from collections.abc import Callable, Iterable

type Monotonic = Callable[[], float]


class Lease:
    """The local side of a lease: it ends before DB1's side does, whatever the two clocks say.

    Counted from the start of the read on a monotonic clock, because DB1 counts from a later instant. The margin covers
    what may lie between the last look at the clock and the effect. Before each side effect: `holds`.
    """

    def __init__(self, clock: Monotonic, started: float, visibility_seconds: float) -> None:
        self._clock = clock
        self._visibility = visibility_seconds
        # A fifth, at most five seconds: at the shortest visibility (5 s) one second, at the default (45 s) five.
        self._margin = min(5.0, visibility_seconds / 5)
        self._deadline = started + visibility_seconds - self._margin
        self._lost: set[int] = set()

    @property
    def extend_every(self) -> float:
        """Seconds between two extensions: two may fail before the lease is in danger."""
        return self._visibility / 3

    def remaining(self) -> float:
        """Seconds left; what is started now must be bounded by it."""
        return max(0.0, self._deadline - self._clock())

    def holds(self, msg_id: int) -> bool:
        """Whether this message is still ours, as far as can be known from here."""
        return msg_id not in self._lost and self.remaining() > 0

    def extended(self, started: float) -> None:
        """DB1 has renewed the lease by a call that began at `started`."""
        self._deadline = max(self._deadline, started + self._visibility - self._margin)

    def lose(self, msg_ids: Iterable[int]) -> None:
        """DB1 says that these belong to someone else now."""
        self._lost.update(msg_ids)
