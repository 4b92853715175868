"""The rules of a soak: memory stays flat, DB1 and the ledger agree. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.common.markdown import table

# The last quarter may have this much more than the second one. In the first quarter caches fill. A leak of one kB for
# each hundred claims makes twice that in an hour at a hundred claims a second.
_SHARE: Final = 0.05
_MIB: Final = 1.0


@dataclass(frozen=True)
class Reading:
    """One moment, `at` seconds after the start. Memory is RssAnon in MiB, without shared buffers."""

    at: float
    depth: int
    """Messages on the queue."""
    bridge: float
    """The larger of the two bridges."""
    database: float
    """The largest process of DB1."""
    ledger: float
    """The largest process of the ledger's server."""

    def __str__(self) -> str:
        memory = f"bridge {self.bridge:.1f} MiB, DB1 {self.database:.1f} MiB, ledger {self.ledger:.1f} MiB"
        return f"queue {self.depth}, {memory}"


@dataclass(frozen=True)
class Counts:
    """The counts of both databases at the end: (committed, voided, slots, digest)."""

    claims: int
    """Claims in DB1."""
    database: tuple[int, int, int, int]
    ledger: tuple[int, int, int, int]


@dataclass(frozen=True)
class Soak:
    """The result of a soak: `rate` claims a second for so many seconds."""

    seconds: int
    rate: int
    claims: int
    readings: Sequence[Reading]
    violations: Sequence[str]
    counts: Counts


@dataclass(frozen=True)
class Check:
    """One rule, what was found, and whether it holds."""

    rule: str
    found: str
    good: bool


def checks(soak: Soak) -> Iterator[Check]:
    """Every rule."""
    memories: list[tuple[str, Callable[[Reading], float]]] = [
        ("a bridge", lambda reading: reading.bridge),
        ("a process of DB1", lambda reading: reading.database),
        ("a process of the ledger", lambda reading: reading.ledger),
    ]
    for name, memory in memories:
        before, after = quarters([memory(reading) for reading in soak.readings])
        yield Check(
            f"memory of {name}: last quarter at most {_SHARE:.0%} + {_MIB:.0f} MiB above the second",
            f"{before:.1f} -> {after:.1f} MiB",
            after <= before * (1 + _SHARE) + _MIB,
        )
    depths = [reading.depth for reading in soak.readings]
    yield Check(
        "the queue never holds more than ten seconds of claims", f"{max(depths)}", max(depths) <= 10 * soak.rate
    )
    yield Check("reconcile finds nothing", "; ".join(soak.violations[:3]) or "nothing", not soak.violations)
    counts = soak.counts
    yield Check(
        "every claim is committed, and the ledger says the same",
        f"{soak.claims:,} claims, DB1 {counts.database[0]:,}, ledger {counts.ledger[0]:,}",
        counts.database == counts.ledger and counts.claims == soak.claims == counts.database[0],
    )


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and of the last quarter."""
    quarter = max(len(values) // 4, 1)
    return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])


def report(soak: Soak) -> str:
    """The report as Markdown."""
    rows = [(each.rule, each.found, "yes" if each.good else "**no**") for each in checks(soak)]
    readings = soak.readings[:: max(len(soak.readings) // 12, 1)]
    moments = [
        (f"{each.at:,.0f}", f"{each.depth}", *(f"{mib:.1f}" for mib in (each.bridge, each.database, each.ledger)))
        for each in readings
    ]
    lines = [f"# Soak: {soak.seconds:,} s at {soak.rate} claims a second", "", *table(("", "found", "holds"), rows), ""]
    lines += table(("second", "queue", "bridge MiB", "DB1 MiB", "ledger MiB"), moments)
    return "\n".join([*lines, ""])
