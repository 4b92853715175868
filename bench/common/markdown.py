"""The tables of all pages. Pure."""

from collections.abc import Iterable, Iterator

from bench.common.figures import Spread
from bench.common.goals import Verdict
from bench.common.results import Results


def facts_table(results: Results) -> Iterator[str]:
    """The machine and the settings."""
    yield from table(("", ""), [("date", results.date), *results.machine.items()])
    yield ""
    yield "Settings:"
    yield ""
    yield from (f"- `{name} = {value}`" for name, value in sorted(results.settings.items()))


def goals_table(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """Each goal, the wanted bound, and what was found."""
    rows = [(each.goal, each.wanted, brackets(each.found, 2), each.words) for each in verdicts]
    return table(("", "wanted", "found", ""), rows)


def brackets(found: Spread | None, digits: int) -> str:
    """The median, and the range in brackets."""
    if found is None:
        return ""
    return f"{found.middle:,.{digits}f} ({found.low:,.{digits}f} to {found.high:,.{digits}f})"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table with its first column aligned to the left and the others to the right."""
    header = list(header)
    yield "| " + " | ".join(header) + " |"
    yield "|---" + "|---:" * (len(header) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
