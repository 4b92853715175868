"""What a run gives, and what many runs give together. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Final

RATE: Final = "rate"


@dataclass(frozen=True)
class Sample:
    """One run."""

    rate: float
    """Claims (or rows, or answers) a second, the warm-up left out."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float = 0.0
    """CPU time of the server for each of them."""
    client_us: float = 0.0
    """CPU time of whoever called the server, where that is ours."""
    wal_bytes: float = 0.0
    alien: float = 0.0
    """Share of the machine that somebody else took meanwhile. Far from 0: do not trust the run."""


@dataclass
class Measurement:
    """All runs of one variant under one load; the n-th run of each variant belongs to the same round."""

    part: str
    variant: str
    clients: int
    slots: int = 0
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """A median and the range that all rounds fell into."""

    middle: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(ceil(share * len(values)), 1) - 1] if values else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest."""
    return Spread(median(values), min(values), max(values))


def of(measurement: Measurement, figure: Callable[[Sample], float]) -> Spread:
    """One figure over all rounds."""
    return spread([figure(sample) for sample in measurement.samples])


def ratio(
    over: Measurement, under: Measurement, figure: Callable[[Sample], float] = lambda sample: sample.rate
) -> Spread:
    """`over` to `under`, round by round: what both suffered in the same minute cancels out."""
    rounds = zip(over.samples, under.samples, strict=True)
    return spread([figure(a) / figure(b) for a, b in rounds if figure(b)])


def busiest(times: Sequence[float], seconds: float) -> int:
    """The most of these moments (sorted) that lie in one window of that length, wherever it begins."""
    most = first = 0
    for last, moment in enumerate(times):
        while moment - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
