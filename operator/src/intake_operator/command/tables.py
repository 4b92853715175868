"""Tables for a terminal."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

type Entry = dict[str, Any]
"""An item of the admin API, as JSON."""

# What a reason may quote of its own claim and of its seats. Shorter values are left alone: they could be any word.
_QUOTED: Final = ("claimId", "requestId", "userId")
_QUOTED_OF_SEATS: Final = ("resource_id", "label")
_SHORTEST_QUOTE: Final = 4
# Of the seats of one claim, and of the ids of one action.
_MOST_LISTED: Final = 5
# Characters of the slots that one action has withheld or returned.
_LONGEST_SLOTS: Final = 30


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def dead_letters(items: Iterable[Entry]) -> str:
    """One row for each dead letter."""
    heads = ("ID", "DIED", "USER", "SLOTS", "LABELS", "STATE", "RETRIES", "CLAIM", "REASON")
    keys = ("state", "failures", "claimId", "reason")
    return table(
        heads,
        (
            (
                x["id"],
                _at(x["deadAt"]),
                x["userId"],
                _of_seats(x, "slot_no"),
                _of_seats(x, "label"),
                *(x[k] for k in keys),
            )
            for x in items
        ),
    )


def payloads(items: Iterable[Entry]) -> str:
    """One row for each dead letter: what came with its claim."""
    heads = ("ID", "PAYLOAD", "VALIDATION")
    return table(
        heads, ((x["id"], *(json.dumps(x[k], ensure_ascii=False) for k in ("payload", "validation"))) for x in items)
    )


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
    quotes = [item[key] for key in _QUOTED] + [seat[key] for seat in item["seats"] for key in _QUOTED_OF_SEATS]
    # The longest first: one label may be the beginning of another.
    for quoted in sorted((str(quote or "") for quote in quotes), key=len, reverse=True):
        if len(quoted) >= _SHORTEST_QUOTE:
            reason = re.sub(rf"(?<!\w){re.escape(quoted)}(?!\w)", "…", reason)
    return reason


def audit(items: Iterable[Entry]) -> str:
    """One row for each action: who did it, when and why."""
    heads = ("ID", "AT", "ACTION", "WHO", "IDS OR SLOTS", "WHY")
    return table(heads, ((x["id"], _at(x["at"]), x["action"], x["actor"], _ids(x), x["reason"]) for x in items))


def withheld(items: Iterable[Entry]) -> str:
    """One row for each withheld seat."""
    heads = ("SLOT", "LABEL", "AT", "WHO", "WHY")
    return table(heads, ((x["slot"], x["label"], _at(x["withheldAt"]), x["actor"], x["reason"]) for x in items))


def _ids(entry: Entry) -> str:
    detail = entry["detail"]
    ids = detail.get("moved", detail.get("discarded", detail.get("asked")))
    if ids is None:
        slots = str(detail.get("withheld", detail.get("returned", "")))
        return slots if len(slots) <= _LONGEST_SLOTS else f"{slots[:_LONGEST_SLOTS]}…"
    return ",".join(map(str, ids)) if len(ids) <= _MOST_LISTED else f"{len(ids)} of them"


def _of_seats(item: Entry, key: str) -> str:
    found = [str(seat[key]) for seat in item["seats"] if seat[key] is not None]
    more = f", … ({len(found)})" if len(found) > _MOST_LISTED else ""
    return ", ".join(found[:_MOST_LISTED]) + more


def _at(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    # User ids and reasons may hold any character, also those that move a terminal's cursor.
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
