"""The goals of the bridge's benchmark, and whether a run reached them. Pure."""

from collections.abc import Iterator
from typing import Final

from bench.common.figures import Measurement, Spread, ratio
from bench.common.goals import Verdict
from bench.common.results import Results

# The tokens of one lease, in seconds of the rate: half of intake_private.bucket_capacity().
_LEASE: Final = 0.05


def verdicts(results: Results) -> Iterator[Verdict]:
    """All verdicts, in the order of the page."""
    found = _ratio(results, "drain", "bridge_1", "ledger")
    yield Verdict(
        "queue to ledger, one process, validated mark persisted / one set-based ledger insert of the same rows",
        ">= 0.35, aim 0.50",
        found,
        0.35,
        aim=0.5,
    )
    for where, slow in (("on this machine's disk", ""), ("where a flush takes 1 ms longer", "_flush")):
        against_naive = _ratio(results, "drain", f"bridge_1{slow}", f"naive{slow}")
        yield Verdict(f"one process / the naive loop, {where}", ">= 40", against_naive, 40)
    for each in results.measurements:
        if (each.part, each.variant) == ("calls", "ours"):
            base = results.find("calls", "aiohttp", each.clients)
            found = ratio(each, base) if base else None
            yield Verdict(
                f"validation, one call a message of 20 ms, {each.clients} at a time / aiohttp alone",
                ">= 0.60",
                found,
                0.6,
            )
    yield Verdict("batch validation / single, one process", ">= 2", _ratio(results, "validation", "batch", "single"), 2)
    yield Verdict(
        "two processes / one, a ledger that is not saturated", ">= 1.6", _ratio(results, "two", "slow_2", "slow_1"), 1.6
    )
    for each in results.measurements:
        if (each.part, each.variant) == ("rate_limit", "limit"):
            yield from _rate_limit(results, each)
    reads = sorted((m for m in results.measurements if m.part == "read"), key=lambda m: m.slots)
    if len(reads) == 2:
        few, many = reads
        yield Verdict(
            f"cost of a read with {many.slots:,} messages invisible / with {few.slots:,}",
            "<= 2",
            ratio(few, many),
            2,
            at_least=False,
        )
        for deep in (m for m in results.measurements if m.part == "backlog"):
            yield Verdict(
                f"cost of a read with {deep.slots:,} messages waiting / with few",
                "<= 2",
                ratio(few, deep),
                2,
                at_least=False,
            )


def _rate_limit(results: Results, limit: Measurement) -> Iterator[Verdict]:
    workers = f"{limit.clients} worker{'s' if limit.clients > 1 else ''}"
    busiest, mean = (results.find("rate_limit", name, limit.clients) for name in ("busiest", "mean"))
    bound = 1.02 + _LEASE
    yield Verdict(
        f"commits in the busiest second / maxPerSecond, {workers}",
        f"<= 1.02 + one lease = {bound:.2f}",
        _worst(ratio(busiest, limit)) if busiest else None,
        bound,
        at_least=False,
    )
    yield Verdict(
        f"commits a second under backlog / maxPerSecond, {workers}",
        ">= 0.95",
        ratio(mean, limit) if mean else None,
        0.95,
    )


def _worst(found: Spread) -> Spread:
    """A bound that must hold in every round is compared with the worst one."""
    return Spread(found.high, found.low, found.high)


def _ratio(results: Results, part: str, over: str, under: str) -> Spread | None:
    a, b = results.find(part, over, 1), results.find(part, under, 1)
    return ratio(a, b) if a and b else None
