"""An answer that never counts must not keep one claim for ever: what others do not get is about the claim."""

from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from intake_bridge.domain.outcomes import Blame, Outcome, Result

# So often, each time after others were answered as they should be: a fleet of which one member has a wrong token, or an
# outage that comes in two parts, hits a claim twice, but not one claim thrice and all others never.
_TIMES: Final = 3
# A rate limit hits whoever comes while others get through. What is hit so often, and for so long, is not unlucky.
_HELD_TIMES: Final = 30
_HELD_SECONDS: Final = 600.0
# More than fail in turns while others succeed. Beyond it the one longest known is forgotten, and starts anew.
_MOST_KNOWN: Final = 10_000


@dataclass(slots=True)
class _Record:
    since: float
    ended_before: int
    times: int = 0


class SingledOut:
    """What one target has told each claim that it would not end, and whether it has ended others meanwhile.

    Kept in this process only: a claim that wanders through a fleet, or meets a new worker, takes a few calls more.
    """

    def __init__(self) -> None:
        self._ended = 0
        self._known: dict[UUID, _Record] = {}

    def judged(self, claim_id: UUID, outcome: Outcome, now: float) -> Outcome:
        """The outcome; counted as a 5xx is once it is this claim's alone, and then no reason for others to wait."""
        if outcome.result is not Result.RETRY:
            self._ended += 1
            self._known.pop(claim_id, None)
            return outcome
        record = self._known.setdefault(claim_id, _Record(now, self._ended))
        if self._ended > record.ended_before:
            record.ended_before = self._ended
            record.times += 1
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        if record.times < _TIMES:
            return outcome
        if outcome.holds and (record.times < _HELD_TIMES or now - record.since < _HELD_SECONDS):
            return outcome
        blame = Blame.SUSPECT if outcome.blame is Blame.TARGET else outcome.blame
        return replace(outcome, blame=blame, counted=True, holds=False, alone=True)
