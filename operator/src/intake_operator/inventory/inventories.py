"""Checks the user's own inventory, and copies it into DB1. No pass waits for a table, or for a copy."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import psycopg
from intake_shared.connections import bounded
from intake_shared.redaction import one_line

from intake_operator.database.databases import Databases
from intake_operator.inventory.sources import Objects, Source, exactly, open_source, too_small
from intake_operator.inventory.table import Table
from intake_operator.long_reads import LongReads
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

# Seconds of a whole copy, whose calls have bounds of their own. Ten million rows are the most.
COPY_TIMEOUT: Final = 3600.0
# Rows that are read hourly while an event waits: for so many the operator works a quarter of a second, and has 12 MiB
# of them in memory (measured).
READ_AHEAD: Final = 50_000

# SQLSTATEs with which intake.stock refuses rows.
REFUSALS: Final = {"IE002": Problem.INVENTORY_INVALID, "IE006": Problem.INVENTORY_CHANGED}

# What to do about each problem; it follows the source and what is wrong with it.
CURES: Final = {
    Problem.INVENTORY_MISSING: "Create it, or give the right to read it",
    Problem.INVENTORY_INVALID: "Correct it; as long as one row is wrong, none is taken",
    Problem.INVENTORY_TOO_SMALL: "Append rows",
    Problem.INVENTORY_CHANGED: "Rows that are on sale cannot change: put them back, new ones come after them",
}

# What `LongReads` calls a check or a copy.
READ: Final = "inventory"


@dataclass(frozen=True)
class _Stocked:
    """How the latest attempt to copy the rows ended."""

    refusal: InventoryState = field(default_factory=InventoryState)
    """Without a problem, if DB1 has taken them."""
    fingerprint: str = ""
    """Of the rows that DB1 has taken; empty for a table."""


class Inventories:
    """Checks the user's rows, seldom, and gives them to DB1. `clock` is in seconds.

    state = await inventories.check(event, wanted, size, stocked)
    if state.due:
        inventories.stock(event, wanted, size)  # returns at once
    # the event is woken when the check or the copy has ended
    """

    def __init__(
        self, cluster: Objects, databases: Databases, clock: Callable[[], float], long_reads: LongReads
    ) -> None:
        self._cluster = cluster
        self._databases = databases
        self._long_reads = long_reads
        self._states: Remembered[object, InventoryState] = Remembered(clock)
        self._stocked: dict[str, _Stocked] = {}
        self._failures: dict[str, Exception] = {}
        """What broke off the latest copy, by the event's uid, until it is raised."""

    async def check(self, event: Event, wanted: spec.Inventory, size: int, stocked: int) -> InventoryState:
        """Whether there are `size` rows, and whether DB1, which has `stocked` of them, should take them.

        The latest answer to this question; it is being looked for anew where that is `checking`, or old.
        DB1 has what is on sale. So a table is not read any more once DB1 has its rows, and a ConfigMap may be deleted;
        one that is there is compared, because it may have been edited.
        """
        if wanted.table and stocked >= size:
            return InventoryState()
        question = (wanted, size, stocked)
        if self._states.is_due(event.uid, question) and not self._long_reads.is_running(READ, event.uid):
            source = await self._open(event, wanted)

            async def look() -> None:
                state = await self._check(event, wanted, size, stocked, source)
                self._states.keep(event.uid, question, state, WHILE_BAD if state.problem else WHILE_GOOD)

            if isinstance(source, Table):
                self._start(event, look)
            else:
                await look()
        known = self._states.latest_to(event.uid, question) or InventoryState()
        return replace(known, checking=self._long_reads.is_running(READ, event.uid))

    def stock(self, event: Event, wanted: spec.Inventory, size: int) -> None:
        """Start to give DB1 the first `size` rows: all, or none if it refuses one, which the next check then says.

        Raises what broke off the copy before, such as a lost connection to DB1.
        """
        if failure := self._failures.pop(event.uid, None):
            raise failure

        async def copy() -> None:
            try:
                await self._stock(event, wanted, size)
            except Exception as error:  # noqa: BLE001 -- the next pass raises it
                self._failures[event.uid] = error

        self._start(event, copy)

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._long_reads.stop(uid)
        self._states.forget(uid)
        self._stocked.pop(uid, None)
        self._failures.pop(uid, None)

    def _start(self, event: Event, read: Callable[[], Awaitable[None]]) -> None:
        """One for each event: what a check finds would be old after a copy."""
        self._long_reads.start(READ, event.uid, (event.namespace, event.name), read)

    async def _stock(self, event: Event, wanted: spec.Inventory, size: int) -> None:
        before = self._stocked.get(event.uid, _Stocked())
        try:
            async with bounded(COPY_TIMEOUT):
                source = await open_source(self._cluster, event.namespace, wanted)
                async with aclosing(exactly(source, size)) as chunks:
                    await self._databases.stock(event.uid, event.pool, chunks)
            result = _Stocked(fingerprint=source.fingerprint)
        except InventoryError as error:
            result = replace(before, refusal=_state(wanted, error.problem, str(error)))
        except psycopg.Error as error:
            if error.sqlstate not in REFUSALS:
                raise
            result = replace(before, refusal=_state(wanted, REFUSALS[error.sqlstate], one_line(error)))
        self._stocked[event.uid] = result
        self._states.revise(event.uid, result.refusal, WHILE_REFUSED if result.refusal.problem else timedelta())

    async def check_rows(self, event: Event, wanted: spec.Inventory, size: int) -> InventoryState:
        """Whether there are `size` rows, and the first `READ_AHEAD` of them can be slots beside each other.

        DB1 looks at all of them, when it gets them. Reads a table, so it is nothing for a pass.
        """
        known, numbers = Known("row"), itertools.count(1)
        try:
            source = await open_source(self._cluster, event.namespace, wanted)
            if (rows := await source.count(size)) < size:
                raise too_small(rows, size)
            async with aclosing(exactly(source, min(size, READ_AHEAD))) as chunks:
                async for chunk in chunks:
                    for row, number in zip(chunk, numbers, strict=False):
                        known.add(number, row, row.label or "")
        except InventoryError as error:
            return _state(wanted, error.problem, str(error))
        return InventoryState()

    async def _open(self, event: Event, wanted: spec.Inventory) -> Source | InventoryError:
        try:
            return await open_source(self._cluster, event.namespace, wanted)
        except InventoryError as error:
            return error

    async def _check(
        self, event: Event, wanted: spec.Inventory, size: int, stocked: int, source: Source | InventoryError
    ) -> InventoryState:
        before = self._stocked.get(event.uid, _Stocked())
        try:
            if isinstance(source, InventoryError):
                raise source
            if (rows := await source.count(size)) < size:
                raise too_small(rows, size)
        except InventoryError as error:
            deleted = error.problem is Problem.INVENTORY_MISSING and stocked >= size
            return InventoryState() if deleted else _state(wanted, error.problem, str(error))
        due = stocked < size or source.fingerprint != before.fingerprint
        return replace(before.refusal, due=True) if due else InventoryState()


def _state(wanted: spec.Inventory, problem: Problem, what: str) -> InventoryState:
    if ref := wanted.config_map_ref:
        where = f"ConfigMap {ref.name}, key {ref.key}"
    else:
        assert wanted.table is not None
        where = f"table {wanted.table.name} behind Secret {wanted.table.secret_ref.name}"
    return InventoryState(problem, f"spec.inventory: {where}: {what}. {CURES[problem]}.")
