"""Checks the user's own inventory, and copies it into DB1."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import psycopg
from intake_shared.redaction import one_line

from intake_operator.database.databases import Databases
from intake_operator.inventory.sources import Objects, exactly, open_source, too_small
from intake_operator.model import spec
from intake_operator.model.inventory import InventoryError, Known
from intake_operator.model.observed import Event, InventoryState
from intake_operator.reasons import Problem
from intake_operator.remembered import Remembered

# ConfigMaps are not watched: that would need the right to read every one of them.
WHILE_GOOD: Final = timedelta(seconds=60)
WHILE_BAD: Final = timedelta(seconds=3)
# To check again what DB1 has refused, a table is read up to the row that DB1 refuses.
WHILE_REFUSED: Final = timedelta(seconds=10)

# Rows of a table that are compared with each other before the sale: what they are compared with is in memory.
COMPARED: Final = 50_000

# SQLSTATEs with which intake.stock refuses rows.
REFUSALS: Final = {"IE002": Problem.INVENTORY_INVALID, "IE006": Problem.INVENTORY_CHANGED}

# What to do about each problem; it follows the source and what is wrong with it.
CURES: Final = {
    Problem.INVENTORY_MISSING: "Create it, or give the right to read it",
    Problem.INVENTORY_INVALID: "Correct it; as long as one row is wrong, none is taken",
    Problem.INVENTORY_TOO_SMALL: "Append rows",
    Problem.INVENTORY_CHANGED: "Rows that are on sale cannot change: put them back, new ones come after them",
}


@dataclass(frozen=True)
class _Stocked:
    """How the latest attempt to copy the rows ended."""

    refusal: InventoryState = field(default_factory=InventoryState)
    """Without a problem, if DB1 has taken them."""
    fingerprint: str = ""
    """Of the rows that DB1 has taken; empty for a table."""


class Inventories:
    """Checks the user's rows, seldom, and gives them to DB1. `clock` is in seconds."""

    def __init__(self, cluster: Objects, databases: Databases, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._databases = databases
        self._states: Remembered[object, InventoryState] = Remembered(clock)
        self._stocked: dict[str, _Stocked] = {}

    async def check(self, event: Event, wanted: spec.Inventory, size: int, stocked: int) -> InventoryState:
        """Whether there are `size` rows, and whether DB1, which has `stocked` of them, should take them.

        DB1 has what is on sale. So a table is not read any more once DB1 has its rows, and a ConfigMap may be deleted;
        one that is there is compared, because it may have been edited.
        """
        if wanted.table and stocked >= size:
            return InventoryState()
        question = (wanted, size, stocked)
        if known := self._states.fresh(event.uid, question):
            return known
        state = await self._check(event, wanted, size, stocked)
        return self._states.keep(event.uid, question, state, WHILE_BAD if state.problem else WHILE_GOOD)

    async def stock(self, event: Event, wanted: spec.Inventory, size: int) -> None:
        """Give DB1 the first `size` rows: all, or none if it refuses one, which the next check then says.

        Raises psycopg.Error or OSError when DB1 cannot be reached.
        """
        before = self._stocked.get(event.uid, _Stocked())
        try:
            source, fingerprint = await open_source(self._cluster, event.namespace, wanted)
            async with aclosing(exactly(source, size)) as chunks:
                await self._databases.stock(event.uid, event.pool, chunks)
            result = _Stocked(fingerprint=fingerprint)
        except InventoryError as error:
            result = replace(before, refusal=_state(wanted, error.problem, str(error)))
        except psycopg.Error as error:
            if error.sqlstate not in REFUSALS:
                raise
            result = replace(before, refusal=_state(wanted, REFUSALS[error.sqlstate], one_line(error)))
        self._stocked[event.uid] = result
        self._states.revise(event.uid, result.refusal, WHILE_REFUSED if result.refusal.problem else timedelta())

    async def check_rows(self, event: Event, wanted: spec.Inventory, size: int) -> InventoryState:
        """Whether there are `size` rows, each could be a slot, and no two of the first `COMPARED` could mean the same.

        DB1 compares them all, when it gets them. Reads a whole table, so it is nothing for a pass.
        """
        known, numbers = Known("row"), iter(range(1, COMPARED + 1))
        try:
            source, _ = await open_source(self._cluster, event.namespace, wanted)
            if (rows := await source.count(size)) < size:
                raise too_small(rows, size)
            async with aclosing(exactly(source, size)) as chunks:
                async for chunk in chunks:
                    for row, number in zip(chunk, numbers, strict=False):
                        known.add(number, row, row.label or "")
        except InventoryError as error:
            return _state(wanted, error.problem, str(error))
        return InventoryState()

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._states.forget(uid)
        self._stocked.pop(uid, None)

    async def _check(self, event: Event, wanted: spec.Inventory, size: int, stocked: int) -> InventoryState:
        before = self._stocked.get(event.uid, _Stocked())
        try:
            source, fingerprint = await open_source(self._cluster, event.namespace, wanted)
            if (rows := await source.count(size)) < size:
                raise too_small(rows, size)
        except InventoryError as error:
            deleted = error.problem is Problem.INVENTORY_MISSING and stocked >= size
            return InventoryState() if deleted else _state(wanted, error.problem, str(error))
        due = stocked < size or fingerprint != before.fingerprint
        return replace(before.refusal, due=True) if due else InventoryState()


def _state(wanted: spec.Inventory, problem: Problem, what: str) -> InventoryState:
    if ref := wanted.config_map_ref:
        where = f"ConfigMap {ref.name}, key {ref.key}"
    else:
        assert wanted.table is not None
        where = f"table {wanted.table.name} behind Secret {wanted.table.secret_ref.name}"
    return InventoryState(problem, f"spec.inventory: {where}: {what}. {CURES[problem]}.")
