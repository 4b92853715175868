"""The results as a page of Markdown. Pure."""

from collections.abc import Iterator
from statistics import median

from bench.claims.goals import verdicts
from bench.claims.variants import TITLES
from bench.common.figures import Measurement, of, ratio
from bench.common.markdown import brackets, facts_table, goals_table, table
from bench.common.results import Results

_INTRODUCTION = """# Benchmarks

Written by [bench/](../bench/README.md), which describes each variant and how it is measured.
Compare the ratios: they are taken round by round, between runs that took turns on one server within the same minute.
The rates belong to this machine, whose cores clients and server share.
Every figure is a median, with the range of all rounds in brackets.
"""


def page(results: Results, notes: str) -> str:
    """The whole page."""
    lines = [_INTRODUCTION, *facts_table(results), "", "## Goals", "", *goals_table(verdicts(results)), ""]
    lines += ["![Claims a second](benchmarks.svg)", ""]
    lines += ["## Single calls", "", "One claim, or one row, in each call; closed loop.", ""]
    for clients in sorted({each.clients for each in results.measurements if each.part == "throughput"}):
        lines += [f"### {clients} clients", "", *_table(results, "throughput", clients, "insert"), ""]
    lines += ["## Many callers in one transaction", "", "Claims, or rows, a second; 32 clients.", ""]
    lines += [*_batches(results), ""]
    lines += ["## The same sale with more slots", "", *_slots(results, "sizes"), ""]
    lines += ["## Sold out", "", "The answer to claims after the last slot.", ""]
    for clients in sorted({each.clients for each in results.measurements if each.part == "sold_out"}):
        lines += [f"### {clients} clients", "", *_table(results, "sold_out", clients, "select1"), ""]
    lines += ["## Until sold out, and after", "", *_traces(results), ""]
    lines += ["![Answers a second until sold out, and after](benchmarks-sell-out.svg)", ""]
    lines += ["## While another session keeps an old transaction open", "", *_snapshots(results), ""]
    lines += [
        "## Open loop",
        "",
        "Calls come at half the rate that the claim reached in a closed loop.",
        "The latency of a call counts from its scheduled start, so the time behind other calls is part of it.",
        "",
    ]
    lines += [*_open_loop(results), ""]
    lines += ["## Through a pooler", "", *_table(results, "crowd", None, None), ""]
    lines += ["## After kill -9", "", *_rebuilds(results), ""]
    lines += [
        "## Redis",
        "",
        "LPOP and XADD in one script; no limit per user, no request id, no window, no ledger.",
        "",
    ]
    lines += [*_table(results, "redis", None, None), ""]
    if results.notes:
        lines += ["## Notes of the run", "", *(f"- {note}" for note in results.notes), ""]
    return "\n".join([*lines, notes.strip(), ""])


def _table(results: Results, part: str, clients: int | None, base: str | None) -> Iterator[str]:
    measured = [m for m in results.measurements if m.part == part and clients in (None, m.clients) and m.samples]
    under = next((m for m in measured if m.variant == base), None)
    header = ["", "a second", f"x {TITLES[base]}" if base else "clients", "p50 ms", "p99 ms", "server us", "WAL B"]
    rows = []
    for each in measured:
        second = brackets(ratio(each, under), 2) if under else f"{each.clients:,}"
        rows.append([_name(each), brackets(of(each, lambda s: s.rate), 0), second, *_latency(each), *_cost(each)])
    return table(header, rows)


def _batches(results: Results) -> Iterator[str]:
    rows = []
    for size in (10, 100, 1000):
        claims, inserts = results.find("batches", f"batch_{size}", 32), results.find("batches", f"insert_{size}", 32)
        if claims and inserts:
            rows.append(
                [f"{size:,}"]
                + [brackets(of(each, lambda s: s.rate), 0) for each in (claims, inserts)]
                + [brackets(ratio(claims, inserts), 2), *_latency(claims), *_cost(claims)]
            )
    header = [
        "callers",
        "claim_batch",
        "bare INSERT",
        "ratio",
        "p50 ms",
        "p99 ms",
        "server us a claim",
        "WAL B a claim",
    ]
    return table(header, rows)


def _slots(results: Results, part: str) -> Iterator[str]:
    rows = []
    for name in ("claim", "skip_locked", "sequence"):
        some = sorted((m for m in results.measurements if (m.part, m.variant) == (part, name)), key=lambda m: m.slots)
        if len(some) == 2:
            rates = [brackets(of(each, lambda s: s.rate), 0) for each in some]
            rows.append([TITLES[name], *rates, brackets(ratio(some[1], some[0]), 2)])
    sizes = sorted({m.slots for m in results.measurements if m.part == part})
    return table(["", *(f"{size:,} slots" for size in sizes), "ratio"], rows)


def _snapshots(results: Results) -> Iterator[str]:
    rows = []
    for name in ("claim", "skip_locked", "sequence"):
        without, during = results.find("no_snapshot", name, 32), results.find("snapshot", name, 32)
        if without and during:
            rates = [brackets(of(each, lambda s: s.rate), 0) for each in (without, during)]
            rows.append([TITLES[name], *rates, brackets(ratio(during, without), 2)])
    return table(["", "a second", "with the old snapshot", "ratio"], rows)


def _open_loop(results: Results) -> Iterator[str]:
    rows = [
        [TITLES[each.variant], f"{each.clients}", brackets(of(each, lambda s: s.rate), 0), *_latency(each)]
        for each in results.measurements
        if each.part == "open_loop" and each.samples
    ]
    return table(["", "clients", "a second", "p50 ms", "p99 ms"], rows)


def _traces(results: Results) -> Iterator[str]:
    rows = []
    for trace in results.traces:
        rates = trace.rates[:-1] or trace.rates  # the last step is cut off
        rows.append([TITLES[trace.variant], f"{trace.slots:,}", f"{max(rates):,.0f}", f"{min(rates):,.0f}"])
    return table(["", "slots", "best half second", "worst half second"], rows)


def _rebuilds(results: Results) -> Iterator[str]:
    rows = []
    for claimed in sorted({each.claimed for each in results.rebuilds}):
        some = [each for each in results.rebuilds if each.claimed == claimed]
        seconds = [
            median(figures)
            for figures in zip(*((e.seed_seconds, e.recovery_seconds, e.rebuild_seconds) for e in some), strict=True)
        ]
        rows.append([f"{some[0].slots:,}", f"{claimed:,}", *(f"{figure:.1f}" for figure in seconds)])
    return table(["slots", "sold", "fresh seed s", "crash recovery s", "rebuild s"], rows)


def _name(each: Measurement) -> str:
    return TITLES[each.variant] + (f", {each.slots:,} slots" if each.variant == "sold_out" else "")


def _latency(each: Measurement) -> list[str]:
    return [brackets(of(each, lambda s: s.p50_ms), 2), brackets(of(each, lambda s: s.p99_ms), 1)]


def _cost(each: Measurement) -> list[str]:
    return [f"{of(each, lambda s: s.cpu_us).middle:.0f}", f"{of(each, lambda s: s.wal_bytes).middle:.0f}"]
