"""The user's own inventory: a row for each slot, in the order of the slots."""

import csv
import io
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from intake_operator.reasons import Problem

type Row = tuple[UUID, str | None]
"""resource_id and label."""

LONGEST_LABEL: Final = 200  # as in intake.inventory
# So much of what the user wrote is quoted back.
QUOTED: Final = 60


class InventoryError(Exception):
    """Why the rows cannot be put on sale, in the words of a condition."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


def parse(text: str) -> tuple[Row, ...]:
    """The rows of a CSV text, `resource_id,label` or `resource_id` alone in each; a header of these words is skipped.

    Raises InventoryError, which names the line.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True, skipinitialspace=True)
    rows: list[Row] = []
    lines: dict[UUID | str, int] = {}
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if not any(cells) or (not rows and cells[0].lower() == "resource_id"):
                continue
            # A quoted label may run over several lines; this is the last of them.
            where = f"line {reader.line_num}"
            row = _row(where, cells)
            for key in row:
                if key is not None and lines.setdefault(key, reader.line_num) != reader.line_num:
                    raise _invalid(f"{where}: {_quoted(str(key))} is on line {lines[key]} already")
            rows.append(row)
    except csv.Error as error:
        raise _invalid(f"line {reader.line_num}: {error}") from error
    return tuple(rows)


def check(where: str, resource_id: UUID | None, label: str | None) -> Row:
    """A row, if it can be a slot. Raises InventoryError, which begins with `where`."""
    if resource_id is None:
        raise _invalid(f"{where}: there is no resource_id")
    if label is not None and len(label) > LONGEST_LABEL:
        raise _invalid(f"{where}: a label has at most {LONGEST_LABEL} characters, this one {len(label)}")
    return resource_id, label


def _invalid(message: str) -> InventoryError:
    return InventoryError(Problem.INVENTORY_INVALID, message)


def _row(where: str, cells: Sequence[str]) -> Row:
    if len(cells) > 2:
        raise _invalid(f"{where}: {len(cells)} columns instead of resource_id,label; a label with a comma needs quotes")
    try:
        resource_id = UUID(cells[0])
    except ValueError:
        raise _invalid(
            f"{where}: {_quoted(cells[0])} is not a UUID; a line is resource_id,label, separated by a comma"
        ) from None
    label = cells[1] if len(cells) == 2 and cells[1] else None
    if label and "\0" in label:
        raise _invalid(f"{where}: a label cannot have a NUL character in it")
    return check(where, resource_id, label)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}…")
