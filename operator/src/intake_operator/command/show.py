"""Tables for people."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def dead_letters(items: Iterable[dict[str, Any]]) -> str:
    """What gave up, and why."""
    heads = ("ID", "DIED", "USER", "SLOT", "STATE", "FAILURES", "CLAIM", "REASON")
    return table(
        heads,
        (
            (x["id"], _at(x["deadAt"]), x["userId"], x["slot"], x["state"], x["failures"], x["claimId"], x["reason"])
            for x in items
        ),
    )


def audit(items: Iterable[dict[str, Any]]) -> str:
    """Who did what, when and why."""
    heads = ("ID", "AT", "ACTION", "WHO", "IDS", "WHY")
    return table(heads, ((x["id"], _at(x["at"]), x["action"], x["actor"], _ids(x), x["reason"]) for x in items))


def _ids(entry: dict[str, Any]) -> str:
    detail = entry["detail"]
    ids = detail.get("moved", detail.get("discarded"))
    if ids is None:
        return ""
    return ",".join(map(str, ids)) if len(ids) <= 5 else f"{len(ids)} of them"


def _at(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    # What the crowd typed may hold anything, also what moves a terminal's cursor.
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
