"""The results as a page of Markdown, and the goals. Pure."""

from collections.abc import Iterator

from bench.claims.variants import TITLES
from bench.common.figures import Spread, of, ratio
from bench.common.goals import Verdict
from bench.common.markdown import brackets, facts_table, goals_table, table
from bench.common.results import Results
from bench.orders.parts import CLIENTS

_INTRODUCTION = """# Benchmarks of orders

Claims with a payload, claims of several slots, and holds.
Written by [bench/](../bench/README.md), which says how it measures.
Compare the ratios: they are taken round by round, between runs that took turns on one server within the same minute.
Every figure is a median, with the range of all rounds in brackets.
"""


def verdicts(results: Results) -> Iterator[Verdict]:
    """The goals, and what was found."""
    for goal, name, bound in (
        ("claim with a payload of 500 bytes / claim without", "claim_payload", 0.9),
        ("slots a second: claims of 4 slots / claims of 1", "claim_4", 2.5),
        ("confirmation / claim", "confirm", 0.8),
    ):
        over, under = (results.find("orders", each, CLIENTS) for each in (name, "claim"))
        yield Verdict(goal, f">= {bound}", ratio(over, under) if over and under else None, bound)
    quiet, ending = (results.find("expiry", each, CLIENTS) for each in ("quiet", "ending"))
    seconds: Spread | None = of(ending, lambda s: s.max_ms / 1000) if ending else None
    holds = f"{ending.slots:,}" if ending else ""
    yield Verdict(f"{holds} holds end at once: seconds", "<= 3", seconds, 3, at_least=False)
    p99 = ratio(ending, quiet, lambda s: s.p99_ms) if ending and quiet else None
    yield Verdict("p99 of claims meanwhile / without", "<= 2", p99, 2, at_least=False)


def page(results: Results) -> str:
    """The whole page."""
    lines = [_INTRODUCTION, *facts_table(results), "", "## Goals", "", *goals_table(verdicts(results)), ""]
    lines += ["## Orders", "", f"{CLIENTS} clients, closed loop.", ""]
    rows = [
        [
            TITLES[each.variant],
            brackets(of(each, lambda s: s.rate), 0),
            brackets(of(each, lambda s: s.p99_ms), 1),
            f"{of(each, lambda s: s.cpu_us).middle:.0f}",
            f"{of(each, lambda s: s.wal_bytes).middle:.0f}",
        ]
        for each in results.measurements
        if each.part == "orders" and each.samples
    ]
    lines += [*table(["", "slots a second", "p99 ms", "server us a slot", "WAL B a slot"], rows), ""]
    lines += ["## The end of many holds", "", "Claims come at 2,000 a second (open loop) meanwhile.", ""]
    titles = {"quiet": "no hold ends", "ending": "all holds end at once"}
    rows = [
        [
            titles[each.variant],
            brackets(of(each, lambda s: s.p50_ms), 2),
            brackets(of(each, lambda s: s.p99_ms), 1),
            brackets(of(each, lambda s: s.max_ms / 1000), 2),
        ]
        for each in results.measurements
        if each.part == "expiry" and each.samples
    ]
    lines += [*table(["", "p50 ms of claims", "p99 ms", "housekeep s"], rows), ""]
    return "\n".join(lines)
