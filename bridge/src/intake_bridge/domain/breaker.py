"""A circuit breaker for one dependency. While it is open, nothing is read from the queue that needs the dependency."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from intake_bridge.domain.backoff import Uniform


class Circuit(StrEnum):
    """The states of a breaker, in the order of the metric's numbers."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerTuning:
    """When to open, and how often to probe."""

    # So many possible failures with no success between them. Fewer would open on one bad claim and its retries.
    failures_to_open: int = 5
    first_probe_seconds: float = 1.0
    # A mended cause shows in the event's condition within this time.
    last_probe_seconds: float = 15.0
    # Half open with an empty queue there is nothing to probe with. After this time the old error is withdrawn.
    forget_seconds: float = 60.0
    # One claim that always fails looks like a dependency that is down; no answer tells them apart. For so long the
    # failures are the dependency's: longer than an outage that should cost no claim anything. After it they are counted
    # again, so that every claim has an end.
    blame_seconds: float = 2 * 3600.0
    # A rate limit (429) is met now and then. Where nothing else is answered for so long, it is reported as an error.
    report_pause_seconds: float = 30.0
    # Failures further apart than this are two outages: no call was made in between.
    same_outage_seconds: float = 300.0


class Breaker:
    """Closed, open, half open. It records the outcomes of single calls and is asked before each read.

    A failure of the claim closes it as a success does: the dependency has answered. Each worker has a breaker of its
    own, because a worker may be cut off alone.
    """

    def __init__(self, clock: Callable[[], float], uniform: Uniform, tuning: BreakerTuning | None = None) -> None:
        self._clock = clock
        self._uniform = uniform
        self._tuning = tuning or BreakerTuning()
        self._failures = 0
        self._trips = 0
        self._probe_at: float | None = None
        self._failed_check = False
        self._paused_until = 0.0
        self._paused_since: float | None = None
        self._pause_error = ""
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self.error: str | None = None

    @property
    def circuit(self) -> Circuit:
        """The state now."""
        if self._probe_at is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._probe_at else Circuit.HALF_OPEN

    @property
    def tripped(self) -> bool:
        """Open or half open."""
        return self._probe_at is not None

    @property
    def message(self) -> str | None:
        """The text for the event's condition: the error, or that every answer is a request to wait."""
        if self.error is not None or self._paused_since is None:
            return self.error
        lasted = self._clock() - self._paused_since
        if lasted < self._tuning.report_pause_seconds:
            return None
        # In whole minutes: a condition that changes each second is noise.
        how_long = f"{lasted / 60:.0f} min" if lasted >= 60 else "half a minute"
        return f"has answered nothing but requests to wait for {how_long}: {self._pause_error}"

    def is_to_blame(self, failures: int, *, claim_specific: bool = False) -> bool:
        """Whether a failure now is the dependency's, and not counted against a claim with so many failures before.

        Several failures in a row are the dependency's: those of several claims, which have opened the breaker, or those
        of one claim that other workers have seen fail, too. Not if other claims succeed meanwhile (`claim_specific`),
        and not for longer than `blame_seconds`.
        """
        since = self._failing_since
        if since is not None and self._clock() - since >= self._tuning.blame_seconds:
            return False
        return self.tripped or (
            not claim_specific and self._failures > 0 and failures + 1 >= self._tuning.failures_to_open
        )

    def allowance(self, wanted: int) -> int:
        """How many messages may be read that need this dependency: all, one to probe with, none."""
        if self._failed_check or self._clock() < self._paused_until:
            return 0
        match self.circuit:
            case Circuit.CLOSED:
                return wanted
            case Circuit.HALF_OPEN:
                return min(wanted, 1)
            case Circuit.OPEN:
                return 0

    def wait(self) -> float:
        """Seconds until `allowance` may be above 0 again."""
        return max(0.0, self._paused_until - self._clock(), (self._probe_at or 0.0) - self._clock())

    def record_success(self) -> None:
        """The dependency has answered as it should."""
        self._failures = 0
        self._trips = 0
        self._probe_at = None
        self._failed_check = False
        self._failing_since = None
        self._paused_since = None
        self.error = None

    def record_possible_failure(self, error: str) -> None:
        """A failure that may be the dependency's or the claim's: several in a row are the dependency's."""
        now = self._clock()
        if self._failing_since is None or now > self._failed_at + self._tuning.same_outage_seconds:
            self._failing_since = now
        self._failed_at = now
        self._failures += 1
        if self.circuit is Circuit.HALF_OPEN or self._failures >= self._tuning.failures_to_open:
            self._open(error)
        elif self.tripped:
            self.error = error

    def trip(self, error: str) -> None:
        """A failure that is certainly the dependency's."""
        self._failing_since = None
        self._open(error)

    def record_failed_check(self, error: str) -> None:
        """A check, before any call, has found that the dependency cannot work. No probe until a check succeeds."""
        self.trip(error)
        self._failed_check = True

    def record_pause(self, seconds: float, error: str) -> None:
        """The dependency has answered and asks for a pause (429 with Retry-After)."""
        since = self._paused_since
        self.record_success()
        self._paused_since = self._clock() if since is None else since
        self._pause_error = error
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def forget_if_idle(self) -> None:
        """Called when a read found nothing to probe with: withdraw an error that is older than `forget_seconds`."""
        if self._probe_at is not None and self._clock() >= self._probe_at + self._tuning.forget_seconds:
            failing_since = self._failing_since
            self.record_success()
            self._failing_since = failing_since  # no call has succeeded: only `same_outage_seconds` ends the outage
        if self._clock() >= self._paused_until + self._tuning.forget_seconds:
            self._paused_since = None

    def _open(self, error: str) -> None:
        self.error = error
        if self.circuit is Circuit.OPEN:
            return  # the rest of the same batch: one outage, one step of the back-off
        ceiling = min(self._tuning.last_probe_seconds, self._tuning.first_probe_seconds * 2.0 ** min(self._trips, 30))
        self._trips += 1
        # Half jitter: never at once, and workers that were cut off together do not probe together.
        self._probe_at = self._clock() + self._uniform(ceiling / 2, ceiling)
