"""How long to wait before the next attempt."""

from collections.abc import Callable
from dataclasses import dataclass

type Uniform = Callable[[float, float], float]
"""random.uniform, or a table in a test."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: between 0 and base * 2^failures, at most `cap`.

    Full, not partial: after an outage a whole batch fails at once, and only full jitter spreads it evenly.
    """

    base_seconds: float = 1.0
    cap_seconds: float = 60.0

    def delay(self, failures: int, uniform: Uniform) -> float:
        """Seconds before the attempt that follows this many earlier failures."""
        # 2^30 seconds is above any cap; the bound keeps the float finite for absurd counts.
        return uniform(0.0, min(self.cap_seconds, self.base_seconds * 2.0 ** min(failures, 30)))
