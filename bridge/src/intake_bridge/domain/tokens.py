"""What a worker may do with tokens of the pool's token bucket, and how much it reads while tokens are scarce."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from intake_bridge.domain.backoff import Uniform

type Monotonic = Callable[[], float]

# Between two questions to the bucket: it is one row that all workers ask, and a changed rate must act within a second.
_SHORTEST_WAIT_SECONDS = 0.005
_LONGEST_WAIT_SECONDS = 0.25
# Another worker could send the claims that wait here for tokens. Half a second covers a read and a validation.
_READ_AHEAD_SECONDS = 0.5
_FIRST_READ = 10.0


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The row of `intake.lease_tokens`: `granted` tokens on `lease`, or 0 and when to ask again.

    `lease` is None where the pool has no rate limit.
    """

    lease: UUID | None
    granted: int
    wait_seconds: float
    lease_seconds: float | None


class TokenLease:
    """The worker's side of a lease of tokens. It ends before DB1's side does, whatever the two clocks say.

    It is counted on a monotonic clock from before the question; DB1 counts from after it. The margin covers the time
    between the last look at the clock and the call. A worker that was frozen for longer than the lease must not send.
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
        """Seconds between two renewals while a call is under way: two may fail. None: there is nothing to renew."""
        return None if self._seconds is None else self._seconds / 4

    def renewed(self, asked_at: float) -> None:
        """DB1 has renewed the lease in a call that began at `asked_at`."""
        if self._seconds is not None:
            self._deadline = asked_at + 0.9 * self._seconds

    def mark_lost(self) -> None:
        """DB1 has answered that the lease has run out."""
        self._deadline = float("-inf")

    def is_valid(self) -> bool:
        """Whether a call may start now."""
        return self._clock() < self._deadline


def pause_for(answer: TokenAnswer, uniform: Uniform) -> float:
    """Seconds until the bucket is asked again. A little late on purpose, so that workers do not ask all at once."""
    least = min(max(answer.wait_seconds, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
    return uniform(least, 1.5 * least)


class ReadAhead:
    """How many messages to read under a rate limit: what this worker can send in half a second, learned by waiting."""

    def __init__(self) -> None:
        self._size = _FIRST_READ

    def limit(self, ceiling: int) -> int:
        """Messages to read at most, between 1 and `ceiling`."""
        return max(1, min(ceiling, int(self._size)))

    def record(self, read: int, waited_seconds: float) -> None:
        """Learn from a batch of `read` messages that has waited this long for tokens in all."""
        if waited_seconds > _READ_AHEAD_SECONDS:
            self._size = max(1.0, min(self._size, read) * _READ_AHEAD_SECONDS / waited_seconds)
        elif waited_seconds < _READ_AHEAD_SECONDS / 2 and read >= int(self._size):
            self._size = 2.0 * read
