"""The user's own inventory: a row for each slot, in the order of the slots."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from intake_operator.model import attributes
from intake_operator.model import label as labels
from intake_operator.reasons import Problem


class Row(NamedTuple):
    """What the user gives for one slot."""

    resource_id: UUID
    label: str | None
    attributes: str | None = None
    """The user's other columns: a JSON object, as text, so that its numbers stay as they are."""


# Characters of what the user wrote that a message quotes.
QUOTED: Final = 60

HEADER: Final = ("resource_id", "label")
BYTE_ORDER_MARK: Final = "\ufeff"
# Around a cell, outside its quotes, they do not belong to the label.
BLANKS: Final = " \t"

_LINE_END: Final = re.compile("\r\n|\n|\r")
# A quote inside is written twice. Possessive, without backtracking: `"a""` is not closed.
_IN_QUOTES: Final = re.compile('"((?:[^"]|"")*+)"')


class InventoryError(Exception):
    """Why the rows cannot be put on sale. The text is a part of a condition's message."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


def parse(text: str) -> tuple[Row, ...]:
    """The rows of a CSV text: `resource_id,label` or only `resource_id` in each line.

    A header is skipped. One with more columns names them, and every row then has attributes of these names. A line is a
    row. No cell has a line break, so a quote that does not close is reported in the line where it opens. Raises
    InventoryError, which names the line.
    """
    rows: list[Row] = []
    known = Known("line")
    names: tuple[str, ...] = ()
    begun = False
    for number, line in enumerate(_LINE_END.split(text.removeprefix(BYTE_ORDER_MARK)), 1):
        where = f"line {number}"
        if line.startswith(BYTE_ORDER_MARK):
            raise invalid(
                f"{where}: a second byte order mark (U+FEFF) stands before the first column, as where two files were "
                "put together; take it out"
            )
        cells = _cells(where, line)
        if not any(cells):
            continue
        if not begun and cells[0].lower() == HEADER[0]:
            names = _own_columns(where, cells)
        else:
            row = _row(where, cells, names)
            known.add(number, row, cells[1] if len(cells) > 1 else "")
            rows.append(row)
        begun = True
    return tuple(rows)


def invalid(message: str) -> InventoryError:
    """An error about one row; the message begins with the row."""
    return InventoryError(Problem.INVENTORY_INVALID, message)


def quoted(text: str) -> str:
    """The beginning of what the user wrote; characters that cannot be seen are escaped."""
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}…")


def check(where: str, resource_id: UUID | None, label: str | None, own: str | None = None) -> Row:
    """The row with its label composed. Raises InventoryError, which begins with `where`, if it cannot be a slot.

    `own` are the user's other columns, as a JSON object.
    """
    if resource_id is None:
        raise invalid(f"{where}: there is no resource_id; every row needs a UUID there")
    label = None if label is None else labels.composed(label)
    if wrong := (label and labels.flaw(label)) or (own and attributes.flaw(own)):
        raise invalid(f"{where}: {wrong}")
    return Row(resource_id, label, own)


class Known:
    """The ids and labels of the rows so far, with their numbers: `place` is what a message calls one, as `line`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._ids: dict[UUID, int] = {}
        self._labels: dict[str, tuple[int, str]] = {}
        self._labels_as_ids: dict[UUID, int] = {}

    def add(self, number: int, row: Row, written: str) -> None:
        """Add a row, whose label was `written` so. Raises InventoryError if it could mean another row, too."""
        resource_id, label, _ = row
        place, here = self._place, f"{self._place} {number}"
        if (other := self._ids.setdefault(resource_id, number)) != number:
            raise invalid(f"{here}: '{resource_id}' is on {place} {other} already; one slot has it alone")
        if other := self._labels_as_ids.get(resource_id, 0):
            raise _ambiguous(here, f"resource_id '{resource_id}' is the label of {place} {other}")
        if label is None:
            return
        other, before = self._labels.setdefault(label, (number, written))
        if other != number:
            apart = "" if written == before else ", with other code points for the same letters"
            raise invalid(f"{here}: {quoted(label)} is on {place} {other} already{apart}; one slot has it alone")
        if meant := labels.as_id(label):
            self._labels_as_ids.setdefault(meant, number)
            if (other := self._ids.get(meant, number)) != number:
                raise _ambiguous(here, f"label {quoted(label)} is the resource_id of {place} {other}")


def _ambiguous(here: str, what: str) -> InventoryError:
    return invalid(f"{here}: the {what}, so a claim for a seat by it could mean either; change the label")


def _cells(where: str, line: str) -> list[str]:
    cells: list[str] = []
    at = 0
    while True:
        at = _skip_blanks(line, at)
        if line.startswith('"', at):
            inside = _IN_QUOTES.match(line, at)
            if inside is None:
                raise invalid(
                    f"{where}: a double quote opens in {_column(len(cells))} and does not close on this line; "
                    "close it, or write it twice inside quotes where it belongs to a label"
                )
            cells.append(inside[1].replace('""', '"'))
            at = _skip_blanks(line, inside.end())
            if at < len(line) and line[at] != ",":
                raise invalid(
                    f"{where}: there is more behind the closing double quote of {_column(len(cells) - 1)}; a double "
                    "quote inside quotes is written twice"
                )
        else:
            end = line.find(",", at)
            end = len(line) if end < 0 else end
            cells.append(line[at:end].rstrip(BLANKS))
            at = end
        if at == len(line):
            return cells
        at += 1


def _skip_blanks(line: str, at: int) -> int:
    while at < len(line) and line[at] in BLANKS:
        at += 1
    return at


def _column(index: int) -> str:
    return f"column {HEADER[index]}" if index < len(HEADER) else f"column {index + 1}"


def _own_columns(where: str, cells: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns behind label in a header."""
    _check_empty_columns(where, cells, HEADER)
    if any(cells[1:]) and cells[1].lower() != HEADER[1]:
        raise invalid(
            f"{where}: the second column is {quoted(cells[1])} and not label; a header is resource_id,label, and then "
            "columns of your own"
        )
    names = tuple(labels.composed(cell) for cell in cells[len(HEADER) :])
    columns = {name: n for n, name in reversed(list(enumerate((*HEADER, *map(str.casefold, names)), 1)))}
    for n, name in enumerate(names, len(HEADER) + 1):
        if name and (first := columns[name.casefold()]) != n:
            raise invalid(
                f"{where}: column {n} is {quoted(name)}, as column {first} is; call it otherwise, or take it out"
            )
        if not name:
            raise invalid(f"{where}: column {n} has no name; name it, or delete the column, here and in every line")
        if wrong := attributes.name_flaw(name):
            raise invalid(f"{where}: column {n}, {quoted(name)}, {wrong}; call it otherwise, or take it out")
    return names


def _check_empty_columns(where: str, cells: Sequence[str], header: Sequence[str]) -> None:
    if len(cells) > len(header) and not any(cells[len(header) :]):
        raise invalid(
            f"{where}: {len(cells) - len(header)} empty columns behind {header[-1]}, as a spreadsheet leaves them; "
            "delete the columns there, or the commas at the ends of the lines"
        )


def _row(where: str, cells: Sequence[str], names: Sequence[str]) -> Row:
    header = (*HEADER, *names)
    _check_empty_columns(where, cells, header)
    if names and len(cells) != len(header):
        raise invalid(
            f"{where}: {len(cells)} columns, and the header has {len(header)}; a value with a comma needs quotes, and "
            "an empty one its comma"
        )
    if len(cells) > len(header):
        raise invalid(
            f"{where}: {len(cells)} columns instead of resource_id,label; a label with a comma needs quotes, and "
            "columns of your own need a header with their names in the first line"
        )
    if character := labels.invisible(cells[0]):
        raise invalid(f"{where}: {character} in the column resource_id, which cannot be seen; leave it out")
    resource_id = labels.as_id(cells[0])
    if resource_id is None:
        raise invalid(f"{where}: {quoted(cells[0])} is not a UUID; a line is resource_id,label, separated by a comma")
    values = cells[len(HEADER) :]
    for name, value in zip(names, values, strict=True):
        if character := labels.unstorable(value):
            raise invalid(f"{where}: {character} in the column {name}, which no text can have; leave it out")
    label = cells[1] if len(cells) > 1 and cells[1] else None
    return check(where, resource_id, label, attributes.as_json(names, values) if names else None)
