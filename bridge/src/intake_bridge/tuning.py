"""The worker's own times. No setting changes them; tests shorten them."""

from dataclasses import dataclass, field

from intake_bridge.domain.backoff import Backoff
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.throttle import ThrottleTuning


@dataclass(frozen=True, slots=True)
class Tuning:
    """All in seconds."""

    configuration_seconds: float = 0.5
    heartbeat_seconds: float = 1.0
    housekeeping_seconds: float = 5.0
    # The pause after a read that found nothing; it doubles up to the last.
    first_idle_seconds: float = 0.02
    last_idle_seconds: float = 0.5
    # Between two reads of claims to be voided, while there are none.
    releases_seconds: float = 1.0
    # After SIGTERM a batch may go on for this long. Giving back and closing fit into a grace period of 25 s.
    finish_seconds: float = 17.0
    # DB1 has not answered for longer than this: not ready.
    silence_seconds: float = 5.0
    backoff: Backoff = field(default_factory=Backoff)
    breaker: BreakerTuning = field(default_factory=BreakerTuning)
    throttle: ThrottleTuning = field(default_factory=ThrottleTuning)
