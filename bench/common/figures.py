"""The figures of one run, and of many runs together. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Final

RATE: Final = "rate"


@dataclass(frozen=True)
class Sample:
    """The figures of one run."""

    rate: float
    """Claims (or rows, or answers) a second, without the warm-up."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float = 0.0
    """CPU time of the server for each claim, in microseconds."""
    client_us: float = 0.0
    """CPU time of the bridges, or of the harness that calls the server, for each claim, in microseconds."""
    wal_bytes: float = 0.0
    """WAL for each claim."""
    other_load: float = 0.0
    """Share of the machine that other processes used during the run. Far from 0: do not trust the run."""


@dataclass
class Measurement:
    """All runs of one variant under one load. The n-th runs of all variants belong to the same round."""

    part: str
    variant: str
    clients: int
    slots: int = 0
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the greatest value of all rounds."""

    middle: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not less than `share` of all values."""
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
    """`over` to `under`, round by round: what slows both in the same minute cancels out."""
    rounds = zip(over.samples, under.samples, strict=True)
    return spread([figure(a) / figure(b) for a, b in rounds if figure(b)])


def busiest(times: Sequence[float], seconds: float) -> int:
    """The largest number of these moments (sorted) within any span of that many seconds."""
    most = first = 0
    for last, moment in enumerate(times):
        while moment - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
