"""Whether a soak was what it should be: memory flat, books in agreement. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.markdown import table

# What the last quarter may have more than the second one; the first belongs to caches that fill. A leak of one kB for
# each hundred claims is twice that within an hour at a hundred claims a second.
_SHARE: Final = 0.05
_MIB: Final = 1.0


@dataclass(frozen=True)
class Look:
    """One moment. Memory is what a process has for itself (RssAnon), in MiB: shared buffers are nobody's leak."""

    at: float
    depth: int
    bridge: float
    """The larger one of the bridges."""
    intake: float
    """The largest process of DB1."""
    ledger: float
    """The largest process of the ledger's server."""

    def __str__(self) -> str:
        return (
            f"queue {self.depth}, bridge {self.bridge:.1f} MiB, DB1 {self.intake:.1f} MiB, ledger {self.ledger:.1f} MiB"
        )


@dataclass(frozen=True)
class Books:
    """What both databases say at the end: (committed, voided, slots, digest)."""

    claims: int
    intake: tuple[int, int, int, int]
    ledger: tuple[int, int, int, int]


@dataclass(frozen=True)
class Soak:
    """Everything that a soak found."""

    seconds: int
    rate: int
    claims: int
    looks: Sequence[Look]
    violations: Sequence[str]
    books: Books


@dataclass(frozen=True)
class Verdict:
    """One thing that must hold."""

    rule: str
    found: str
    good: bool


def verdicts(soak: Soak) -> Iterator[Verdict]:
    """All of them."""
    memories: list[tuple[str, Callable[[Look], float]]] = [
        ("a bridge", lambda look: look.bridge),
        ("a process of DB1", lambda look: look.intake),
        ("a process of the ledger", lambda look: look.ledger),
    ]
    for name, of in memories:
        before, after = quarters([of(look) for look in soak.looks])
        yield Verdict(
            f"memory of {name}: last quarter at most {_SHARE:.0%} + {_MIB:.0f} MiB above the second",
            f"{before:.1f} -> {after:.1f} MiB",
            after <= before * (1 + _SHARE) + _MIB,
        )
    depths = [look.depth for look in soak.looks]
    yield Verdict(
        "the queue never holds more than ten seconds of claims", f"{max(depths)}", max(depths) <= 10 * soak.rate
    )
    yield Verdict("reconcile finds nothing", "; ".join(soak.violations[:3]) or "nothing", not soak.violations)
    books = soak.books
    yield Verdict(
        "every claim is committed, and the ledger says the same",
        f"{soak.claims:,} claims, DB1 {books.intake[0]:,}, ledger {books.ledger[0]:,}",
        books.intake == books.ledger and books.claims == soak.claims == books.intake[0],
    )


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and of the last quarter."""
    quarter = max(len(values) // 4, 1)
    return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])


def report(soak: Soak) -> str:
    """A page."""
    rows = [(each.rule, each.found, "yes" if each.good else "**no**") for each in verdicts(soak)]
    looks = soak.looks[:: max(len(soak.looks) // 12, 1)]
    moments = [
        (f"{look.at:,.0f}", f"{look.depth}", *(f"{mib:.1f}" for mib in (look.bridge, look.intake, look.ledger)))
        for look in looks
    ]
    lines = [f"# Soak: {soak.seconds:,} s at {soak.rate} claims a second", "", *table(("", "found", "holds"), rows), ""]
    lines += table(("second", "queue", "bridge MiB", "DB1 MiB", "ledger MiB"), moments)
    return "\n".join([*lines, ""])
