"""Finds a claim that alone gets an uncounted failure, time after time: without this it would stay for ever."""

from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from intake_bridge.domain.outcomes import Blame, Outcome, Result

# So often, each time after other claims were answered as they should be. A fleet of which one worker has a wrong token,
# or an outage in two parts, hits a claim twice, but not one claim three times and all others never.
_TIMES: Final = 3
# A rate limit hits any claim while others get through. A claim that is hit so often, and for so long, is no accident.
_RATE_LIMITED_TIMES: Final = 30
_RATE_LIMITED_SECONDS: Final = 600.0
# More claims than fail in turns while others succeed. Beyond it the oldest is forgotten, and starts anew.
_MOST_KNOWN: Final = 10_000


@dataclass(slots=True)
class _Record:
    since: float
    ended_before: int
    times: int = 0


class ClaimSpecificFailures:
    """The claims that one dependency has not ended, and whether it has ended others meanwhile.

    Kept in this process only: a claim that moves through a fleet, or meets a new worker, takes a few calls more.
    """

    def __init__(self) -> None:
        self._ended = 0
        self._known: dict[UUID, _Record] = {}

    def classify(self, claim_id: UUID, outcome: Outcome, now: float) -> Outcome:
        """The outcome; a failure that is this claim's alone is counted as a 5xx is, and pauses no other claim.

        `now`: seconds of a monotonic clock.
        """
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
        if outcome.pauses_dependency and (
            record.times < _RATE_LIMITED_TIMES or now - record.since < _RATE_LIMITED_SECONDS
        ):
            return outcome
        blame = Blame.SUSPECT if outcome.blame is Blame.DEPENDENCY else outcome.blame
        return replace(outcome, blame=blame, counted=True, pauses_dependency=False, claim_specific=True)
