"""Tables for a terminal."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

type Entry = dict[str, Any]
"""An item of the admin API, as JSON."""

# What a reason may quote of its own claim. Shorter values are left alone: they could be any word.
_QUOTED: Final = ("claimId", "resourceId", "requestId", "userId", "label")
_SHORTEST_QUOTE: Final = 4


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def dead_letters(items: Iterable[Entry]) -> str:
    """One row for each dead letter."""
    heads = ("ID", "DIED", "USER", "SLOT", "LABEL", "STATE", "RETRIES", "CLAIM", "REASON")
    keys = ("userId", "slot", "label", "state", "failures", "claimId", "reason")
    return table(heads, ((x["id"], _at(x["deadAt"]), *(x[key] for key in keys)) for x in items))


def dead_letters_by_reason(items: Iterable[Entry]) -> str:
    """One row for each reason, the most frequent first."""
    died: dict[str, list[str]] = defaultdict(list)
    for item in items:
        died[common_reason(item)].append(_at(item["deadAt"]))
    groups = sorted(died.items(), key=lambda group: (-len(group[1]), group[0]))
    heads = ("COUNT", "FIRST", "LAST", "REASON")
    return table(heads, ((len(times), min(times), max(times), reason) for reason, times in groups))


def common_reason(item: Entry) -> str:
    """The reason with `…` for what it quotes of this claim: refusals of the same kind then have the same text."""
    reason = str(item["reason"] or "")
    for quoted in (str(item[key] or "") for key in _QUOTED):
        if len(quoted) >= _SHORTEST_QUOTE:
            reason = re.sub(rf"(?<!\w){re.escape(quoted)}(?!\w)", "…", reason)
    return reason


def audit(items: Iterable[Entry]) -> str:
    """One row for each action: who did it, when and why."""
    heads = ("ID", "AT", "ACTION", "WHO", "IDS", "WHY")
    return table(heads, ((x["id"], _at(x["at"]), x["action"], x["actor"], _ids(x), x["reason"]) for x in items))


def _ids(entry: Entry) -> str:
    detail = entry["detail"]
    ids = detail.get("moved", detail.get("discarded"))
    if ids is None:
        return ""
    return ",".join(map(str, ids)) if len(ids) <= 5 else f"{len(ids)} of them"


def _at(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    # User ids and reasons may hold any character, also those that move a terminal's cursor.
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
