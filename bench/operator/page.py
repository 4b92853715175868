"""The results as a page of Markdown, and the goals. Pure."""

from collections.abc import Iterator
from pathlib import Path

from bench.common.figures import Spread
from bench.common.goals import Verdict
from bench.common.markdown import goals_table, table
from bench.operator.figures import Figures, Results

_INTRODUCTION = """# Benchmarks of the operator

What the operator costs the API server and its node, for few events and for many.
Written by [bench/](../bench/README.md#the-operator), which says how it measures.
Every request of the operator's process is counted by a proxy before the API server: reads, writes, each status write,
each watch, and what kopf asks.
"""


def verdicts(results: Results) -> Iterator[Verdict]:
    """The goals, and what was found."""
    for part, events, most in (("waiting", 1, 2), ("waiting", 20, 2), ("waiting", 200, 2), ("open", 1, 30)):
        found = results.find(part, events)
        yield Verdict(
            f"{part}, {events} {_events(events)}: requests a minute for each",
            f"<= {most}",
            _one(found.each_a_minute) if found else None,
            most,
            at_least=False,
        )
    many = results.find("waiting", 200)
    most_memory = _one(many.most_mib) if many else None
    yield Verdict("waiting, 200 events: memory at most, MiB", "< 200", most_memory, 200, at_least=False)


def page(results: Results, notes: Path) -> str:
    """The whole page."""
    facts = [("date", results.date), *results.machine.items(), ("Kubernetes", results.kubernetes)]
    lines = [_INTRODUCTION, *table(("", ""), facts), "", "## Goals", "", *goals_table(verdicts(results)), ""]
    rows = [
        (
            f"{each.part}, {each.events} {_events(each.events)}",
            f"{each.each_a_minute:.2f}",
            f"{each.each_a_minute * each.events:,.0f}",
            f"{each.cores * 1000:.0f}",
            f"{each.rss_mib:.0f}",
            f"{each.most_mib:.0f}",
        )
        for each in results.figures
    ]
    header = ("", "requests a minute for each", "in all", "thousandths of a core", "RSS MiB", "at most MiB")
    lines += ["## Cost", "", *table(header, rows), ""]
    for each in results.figures:
        lines += [f"## Requests: {each.part}, {each.events} {_events(each.events)}", ""]
        lines += [f"In {each.seconds:.0f} s.", "", *_requests(each), ""]
    return "\n".join([*lines, notes.read_text("utf-8").rstrip(), ""])


def _requests(figures: Figures) -> Iterator[str]:
    found = sorted(figures.requests.items(), key=lambda each: (-each[1], each[0]))
    rows = [(name, f"{n}", f"{n / figures.seconds * 60 / figures.events:.3f}") for name, n in found]
    return table(("verb and kind", "requests", "a minute for each event"), rows)


def _events(count: int) -> str:
    return "event" if count == 1 else "events"


def _one(value: float) -> Spread:
    return Spread(value, value, value)
