"""The results of the bridge's benchmark as a page of Markdown. Pure."""

from collections.abc import Iterator

from bench.bridge.goals import verdicts
from bench.bridge.variants import TITLES
from bench.common.figures import Measurement, of, ratio
from bench.common.markdown import brackets, facts_table, goals_table, table
from bench.common.results import Results

_INTRODUCTION = """# Benchmarks of the bridge

Written by [bench/](../bench/README.md), which describes each variant and how it is measured.
Compare the ratios: they are taken round by round, between runs that took turns within the same minute.
The rates belong to this machine, whose cores DB1, the ledger and the bridges share.
Every figure is a median, with the range of all rounds in brackets.
"""


def page(results: Results, notes: str) -> str:
    """The whole page."""
    lines = [_INTRODUCTION, *facts_table(results), "", "## Goals", "", *goals_table(verdicts(results)), ""]
    lines += ["## Queue to ledger", "", *_rates(results, "drain", "ledger"), ""]
    lines += ["## A second process", "", *_rates(results, "two", "slow_1"), ""]
    lines += ["## Validation", "", *_calls(results), "", *_rates(results, "validation", "single"), ""]
    lines += ["## The rate limit", "", *_rate_limit(results), ""]
    lines += ["## A read", "", *_reads(results), ""]
    return "\n".join([*lines, notes.strip(), ""])


def _rates(results: Results, part: str, base: str) -> Iterator[str]:
    measured = [each for each in results.measurements if each.part == part]
    under = next((each for each in measured if each.variant == base), None)
    rows = [
        [
            TITLES[each.variant],
            brackets(of(each, lambda s: s.rate), 0),
            brackets(ratio(each, under), 2) if under else "",
            *_cost(each),
        ]
        for each in measured
    ]
    return table(["", "claims a second", f"x {TITLES[base]}", "servers us", "bridge us", "other load"], rows)


def _calls(results: Results) -> Iterator[str]:
    rows = []
    for each in (m for m in results.measurements if m.part == "calls" and m.variant == "ours"):
        if base := results.find("calls", "aiohttp", each.clients):
            rates = [brackets(of(m, lambda s: s.rate), 0) for m in (base, each)]
            rows.append([f"{each.clients}", *rates, brackets(ratio(each, base), 2)])
    return table(["calls at a time", TITLES["aiohttp"], TITLES["ours"], "ratio"], rows)


def _rate_limit(results: Results) -> Iterator[str]:
    rows = []
    for limit in (m for m in results.measurements if m.part == "rate_limit" and m.variant == "limit"):
        found = [results.find("rate_limit", name, limit.clients) for name in ("mean", "busiest")]
        cells = [brackets(of(each, lambda s: s.rate), 0) if each else "" for each in found]
        rows.append([f"{limit.clients}", f"{of(limit, lambda s: s.rate).middle:,.0f}", *cells])
    return table(["workers", *(TITLES[name] for name in ("limit", "mean", "busiest"))], rows)


def _reads(results: Results) -> Iterator[str]:
    words = {"read": "leased before it", "backlog": "waiting"}
    rows = [
        [f"{each.slots:,} {words[each.part]}", brackets(of(each, lambda s: 1e6 / s.rate), 1)]
        for each in results.measurements
        if each.part in words
    ]
    return table(["", "us a message"], rows)


def _cost(each: Measurement) -> list[str]:
    return [
        f"{of(each, lambda s: s.cpu_us).middle:.0f}",
        f"{of(each, lambda s: s.client_us).middle:.0f}",
        f"{of(each, lambda s: s.other_load).middle:.2f}",
    ]
