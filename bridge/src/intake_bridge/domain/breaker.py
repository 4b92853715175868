"""A circuit breaker for one target: open means that nothing is read from the queue for its sake."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from intake_bridge.domain.backoff import Uniform


class Circuit(StrEnum):
    """The states of a breaker; the order of the values is the order of the metric's numbers."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerTuning:
    """When to open and how often to probe."""

    # Five suspicious answers with no good one between them: fewer would open on one bad claim and its retries.
    suspects: int = 5
    first_probe_seconds: float = 1.0
    # Mending the cause shows in the event's condition within this time.
    last_probe_seconds: float = 15.0
    # Half open with an empty queue there is nothing to probe with; after this time the old error is no longer news.
    forget_seconds: float = 60.0
    # A claim that fails alone looks like a target that is down; no answer tells them apart. Longer than an outage that
    # should cost no claim anything; after it what fails is counted again, so that every claim has an end.
    excuse_seconds: float = 2 * 3600.0
    # A rate limit is met now and then; where nothing else was heard for so long, somebody should look.
    held_seconds: float = 30.0
    # Failures further apart than this are two outages: nobody has asked in between.
    lull_seconds: float = 300.0


class Breaker:
    """Closed, open, half open; fed by the outcomes of single calls, asked before each read.

    An answer that blames the claim closes it just as a success does: the target is there. Only one worker's opinion;
    the fleet shares none, because each worker may be cut off on its own.
    """

    def __init__(self, clock: Callable[[], float], uniform: Uniform, tuning: BreakerTuning | None = None) -> None:
        self._clock = clock
        self._uniform = uniform
        self._tuning = tuning or BreakerTuning()
        self._suspects = 0
        self._trips = 0
        self._probe_at: float | None = None
        self._unfit = False
        self._held_until = 0.0
        self._held_since: float | None = None
        self._held_for = ""
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self.error: str | None = None

    @property
    def circuit(self) -> Circuit:
        """The state at this instant."""
        if self._probe_at is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._probe_at else Circuit.HALF_OPEN

    @property
    def tripped(self) -> bool:
        """Not closed."""
        return self._probe_at is not None

    @property
    def trouble(self) -> str | None:
        """What to tell people: the error, or that nothing is heard but to wait."""
        if self.error is not None or self._held_since is None:
            return self.error
        lasted = self._clock() - self._held_since
        if lasted < self._tuning.held_seconds:
            return None
        # To the minute: who is told does not want it each second.
        how_long = f"{lasted / 60:.0f} min" if lasted >= 60 else "half a minute"
        return f"asks to wait, and nothing else for {how_long}: {self._held_for}"

    def excuses(self, failures: int, *, alone: bool = False) -> bool:
        """Whether a failure now is the target's and not held against a claim that has failed so often before.

        Several in a row are the target's: of several claims, which have opened the breaker, or of one that others
        in the fleet have seen fail, too; unless it fails `alone`, as others are answered. Not for ever.
        """
        since = self._failing_since
        if since is not None and self._clock() - since >= self._tuning.excuse_seconds:
            return False
        return self.tripped or (not alone and self._suspects > 0 and failures + 1 >= self._tuning.suspects)

    def allowance(self, wanted: int) -> int:
        """How many messages may be read for this target: all, one to probe with, none."""
        if self._unfit or self._clock() < self._held_until:
            return 0
        match self.circuit:
            case Circuit.CLOSED:
                return wanted
            case Circuit.HALF_OPEN:
                return min(wanted, 1)
            case Circuit.OPEN:
                return 0

    def wait(self) -> float:
        """Seconds until `allowance` may be above nought again."""
        return max(0.0, self._held_until - self._clock(), (self._probe_at or 0.0) - self._clock())

    def succeeded(self) -> None:
        """The target answered as it should."""
        self._suspects = 0
        self._trips = 0
        self._probe_at = None
        self._unfit = False
        self._failing_since = None
        self._held_since = None
        self.error = None

    def suspected(self, error: str) -> None:
        """A failure that may be the target's or the claim's: several in a row are the target's."""
        now = self._clock()
        if self._failing_since is None or now > self._failed_at + self._tuning.lull_seconds:
            self._failing_since = now
        self._failed_at = now
        self._suspects += 1
        if self.circuit is Circuit.HALF_OPEN or self._suspects >= self._tuning.suspects:
            self._open(error)
        elif self.tripped:
            self.error = error

    def trip(self, error: str) -> None:
        """A failure that is the target's for certain."""
        self._failing_since = None
        self._open(error)

    def unfit(self, error: str) -> None:
        """A look at the target, before any call, says that it cannot work: no probe either, until a look is content."""
        self.trip(error)
        self._unfit = True

    def _open(self, error: str) -> None:
        self.error = error
        if self.circuit is Circuit.OPEN:
            return  # the rest of the same batch: one outage, one step of the back-off
        ceiling = min(self._tuning.last_probe_seconds, self._tuning.first_probe_seconds * 2.0 ** min(self._trips, 30))
        self._trips += 1
        # Half jitter: never at once, and a fleet that was cut off together does not come back together.
        self._probe_at = self._clock() + self._uniform(ceiling / 2, ceiling)

    def hold(self, seconds: float, error: str) -> None:
        """The target is there and asks for a pause (429 with Retry-After)."""
        since = self._held_since
        self.succeeded()
        self._held_since = self._clock() if since is None else since
        self._held_for = error
        self._held_until = max(self._held_until, self._clock() + seconds)

    def forget_if_idle(self) -> None:
        """Called when a read for a probe found nothing: an old error is withdrawn some time after it happened."""
        if self._probe_at is not None and self._clock() >= self._probe_at + self._tuning.forget_seconds:
            failing_since = self._failing_since
            self.succeeded()
            self._failing_since = failing_since  # nothing was heard of the target: only the lull ends this
        if self._clock() >= self._held_until + self._tuning.forget_seconds:
            self._held_since = None
