"""What a worker may do with tokens of the fleet's meter, and how much it reads while they are scarce."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from intake_bridge.domain.backoff import Uniform

type Monotonic = Callable[[], float]

# Between two looks at the meter: it is one row that the whole fleet asks, and a changed rate acts within a second.
_SHORTEST_WAIT_SECONDS = 0.005
_LONGEST_WAIT_SECONDS = 0.25
# Claims that wait for tokens could be in another worker's hands. Half a second bridges a read and a validation.
_READ_AHEAD_SECONDS = 0.5
_FIRST_READ = 10.0


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What `intake.lease_tokens` says: `granted` tokens on `lease`, or 0 and when to ask again. No lease: no limit."""

    lease: UUID | None
    granted: int
    wait_seconds: float
    lease_seconds: float | None


class Grant:
    """The local side of a lease of tokens; it ends before DB1's does, whatever the two clocks say.

    Counted on a monotonic clock from before the question, and DB1 counts from after it. The margin covers what may lie
    between the last look at the clock and the call. Who was frozen for longer than the lease must not send.
    """

    def __init__(self, clock: Monotonic, asked_at: float, answer: TokenAnswer) -> None:
        self._clock = clock
        self.lease = answer.lease
        self.tokens = answer.granted
        self._seconds = answer.lease_seconds
        self._deadline = float("inf")
        self.renewed(asked_at)

    @property
    def renew_every(self) -> float | None:
        """Seconds between two renewals while a call is out: two may fail. None: there is nothing to renew."""
        return None if self._seconds is None else self._seconds / 4

    def renewed(self, asked_at: float) -> None:
        """DB1 has renewed the lease by a call that began at `asked_at`."""
        if self._seconds is not None:
            self._deadline = asked_at + 0.9 * self._seconds

    def lost(self) -> None:
        """DB1 says that it has run out."""
        self._deadline = float("-inf")

    def stands(self) -> bool:
        """Whether a call may start now."""
        return self._clock() < self._deadline


def pause_for(answer: TokenAnswer, uniform: Uniform) -> float:
    """Seconds until the meter is asked again. A little late on purpose: those who were sent away together spread."""
    least = min(max(answer.wait_seconds, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
    return uniform(least, 1.5 * least)


class Appetite:
    """How many messages to read under a meter: what it lets this worker send in half a second, found out by waiting."""

    def __init__(self) -> None:
        self._size = _FIRST_READ

    def limit(self, ceiling: int) -> int:
        """What to read at most, between 1 and `ceiling`."""
        return max(1, min(ceiling, int(self._size)))

    def fed(self, read: int, waited_seconds: float) -> None:
        """A batch of `read` messages has waited this long for tokens, all in all."""
        if waited_seconds > _READ_AHEAD_SECONDS:
            self._size = max(1.0, min(self._size, read) * _READ_AHEAD_SECONDS / waited_seconds)
        elif waited_seconds < _READ_AHEAD_SECONDS / 2 and read >= int(self._size):
            self._size = 2.0 * read
