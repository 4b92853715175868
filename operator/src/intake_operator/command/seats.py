"""`intake-admin seats`: withhold seats from sale, return them, and list those that are withheld."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from intake_operator.command import tables
from intake_operator.command.client import IDS_A_REQUEST, Answer, Client
from intake_operator.command.problem import Exit, ProblemError

# The server's limit.
SLOTS_A_REQUEST: Final = 10_000

# What is done as asked, or was so before.
GOOD: Final = ("withheld", "already", "returned")
WORDS: Final = {
    "withheld": "withheld",
    "already": "withheld before",
    "returned": "on sale again",
    "claimed": "claimed, and not withheld",
    "notWithheld": "not withheld",
    "unknown": "no such slot",
    "unknownSeats": "no such seat",
}


def add(group: object, command: Callable[..., argparse.ArgumentParser], number: Callable[[str], int]) -> None:
    """Add the commands to the group `seats`."""
    withholding = command(group, "withhold", withhold, "take seats off sale, until they are returned")
    returning = command(group, "return", give_back, "put withheld seats on sale again")
    listing = command(group, "list", listed, "which seats are withheld, by whom, when and why")
    listing.add_argument("--limit", type=number, default=100, help="at most so many seats; default: %(default)s")
    for made in (withholding, returning):
        made.add_argument("seats", nargs="*", metavar="SEAT", help="label or resource id")
        made.add_argument("--slots", type=spans, default=[], metavar="1-100,205", help="by the numbers of their slots")
        made.add_argument("--from-file", type=Path, metavar="FILE", help="a seat a line; - for stdin")
        made.add_argument("--reason", required=True, help="why you do it; kept in the audit with your name")


def withhold(client: Client, options: argparse.Namespace) -> Exit:
    """Take seats off sale, and print what became of them."""
    return _change(client, options, "withhold")


def give_back(client: Client, options: argparse.Namespace) -> Exit:
    """Put withheld seats on sale again, and print what became of them."""
    return _change(client, options, "return")


def listed(client: Client, options: argparse.Namespace) -> Exit:
    """Print the seats that are withheld."""
    items = list(client.entries("withheld", options.limit))
    if options.output == "json":
        print(json.dumps({"items": items}, indent=2))
    elif items:
        print(tables.withheld(items))
    else:
        print("no seat is withheld", file=sys.stderr)
    return Exit.DONE


def spans(text: str) -> list[range]:
    """Slots as `1-100,205`."""
    found = []
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*([1-9]\d{0,7})(?:-([1-9]\d{0,7}))?\s*", part)
        if not numbers or not (span := range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1)):
            raise argparse.ArgumentTypeError(f"{part!r} is no slot and no range of slots such as 1-100")
        found.append(span)
    return found


def _change(client: Client, options: argparse.Namespace, action: str) -> Exit:
    seats = [*options.seats, *(_lines(options.from_file) if options.from_file else [])]
    if not seats and not options.slots:
        raise ProblemError(Exit.USAGE, "name seats by label or resource id, or give --slots or --from-file")
    total: dict[str, list[Any]] = {}
    for part in _parts(seats, options.slots):
        for name, found in client.post(f"withheld/{action}", {"reason": options.reason, **part}).items():
            if name in WORDS:
                total.setdefault(name, []).extend(found)
    if options.output == "json":
        print(json.dumps(total, indent=2))
    else:
        _print(total)
    return Exit.DONE if all(name in GOOD for name, found in total.items() if found) else Exit.NOT_ALL


def _parts(seats: list[str], slots: list[range]) -> Iterator[Answer]:
    """The content of each request: what one may have."""
    for first in range(0, len(seats), IDS_A_REQUEST):
        yield {"seats": seats[first : first + IDS_A_REQUEST]}
    part: list[range] = []
    for span in slots:
        for first in range(span.start, span.stop, SLOTS_A_REQUEST):
            piece = range(first, min(first + SLOTS_A_REQUEST, span.stop))
            if part and (len(part) == IDS_A_REQUEST or sum(map(len, part)) + len(piece) > SLOTS_A_REQUEST):
                yield {"slots": [f"{each[0]}-{each[-1]}" for each in part]}
                part = []
            part.append(piece)
    if part:
        yield {"slots": [f"{each[0]}-{each[-1]}" for each in part]}


def _lines(path: Path) -> list[str]:
    try:
        text = Path("/dev/stdin" if str(path) == "-" else path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ProblemError(Exit.USAGE, f"no seats can be read from {path}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _print(total: dict[str, list[Any]]) -> None:
    for name, words in WORDS.items():
        if found := total.get(name):
            which = "" if name in GOOD or len(found) > 20 else f": {', '.join(map(str, found))}"
            print(f"{len(found)} {words}{which}")
