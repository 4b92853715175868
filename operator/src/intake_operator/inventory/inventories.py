"""The user's own inventory, from a ConfigMap or a table into DB1."""

import base64
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import psycopg
from intake_shared.redaction import one_line

from intake_operator.database.databases import Databases
from intake_operator.inventory.table import CHUNK, Table
from intake_operator.model import spec
from intake_operator.model.inventory import InventoryError, Row, parse
from intake_operator.model.observed import Event, InventoryState, Manifest
from intake_operator.reasons import Problem

# Seconds between two looks. ConfigMaps are not watched, which would need leave to read every one there is.
WHILE_GOOD: Final = 60.0
WHILE_BAD: Final = 3.0
# To look again at what DB1 has refused, a table is read up to the row that it refuses.
WHILE_REFUSED: Final = 10.0

# What intake.stock refuses, and why.
REFUSALS: Final = {"IE002": Problem.INVENTORY_INVALID, "IE006": Problem.INVENTORY_CHANGED}

# After the source and what is wrong with it, what to do.
CURES: Final = {
    Problem.INVENTORY_MISSING: "Create it, or give the right to read it",
    Problem.INVENTORY_INVALID: "Correct it; as long as one row is wrong, none is taken",
    Problem.INVENTORY_TOO_SMALL: "Append rows",
    Problem.INVENTORY_CHANGED: "Rows that are on sale cannot change: put them back, new ones come after them",
}


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""


class Source(Protocol):
    """Where rows come from. Both raise InventoryError."""

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`."""

    def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows, or all if there are less."""


@dataclass(frozen=True)
class Lines:
    """The rows of a ConfigMap."""

    rows: Sequence[Row]

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`."""
        return min(len(self.rows), size)

    async def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows."""
        for first in range(0, min(len(self.rows), size), CHUNK):
            yield self.rows[first : min(first + CHUNK, size)]


@dataclass
class _Memory:
    """Of one event: the last look, what DB1 refused since, and the text that DB1 has taken."""

    wish: object = None
    until: float = 0.0
    found: InventoryState = field(default_factory=InventoryState)
    refusal: InventoryState = field(default_factory=InventoryState)
    taken: str = ""


class Inventories:
    """Looks at the user's rows, seldom, and gives them to DB1. `clock` is in seconds."""

    def __init__(self, cluster: Objects, databases: Databases, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._engines = databases
        self._clock = clock
        self._memory: dict[str, _Memory] = {}

    async def look(self, event: Event, wanted: spec.Inventory, size: int, stocked: int) -> InventoryState:
        """Whether `size` rows can be had, and whether DB1, which has `stocked` of them, should take them.

        What is on sale is in DB1. So a table is left in peace once DB1 has the rows, and a ConfigMap may go; one that
        is there is compared, because somebody may have edited it.
        """
        if wanted.table and stocked >= size:
            return InventoryState()
        memory, wish = self._memory.setdefault(event.uid, _Memory()), (wanted, size, stocked)
        if memory.wish == wish and self._clock() < memory.until:
            return memory.found
        try:
            source, version = await self._open(event, wanted)
            if (rows := await source.count(size)) < size:
                raise _too_small(rows, size)
        except InventoryError as error:
            gone = error.problem is Problem.INVENTORY_MISSING and stocked >= size
            found = InventoryState() if gone else _told(wanted, error.problem, str(error))
        else:
            due = stocked < size or version != memory.taken
            found = replace(memory.refusal, due=True) if due else InventoryState()
        memory.wish, memory.found = wish, found
        memory.until = self._clock() + (WHILE_BAD if found.problem else WHILE_GOOD)
        return found

    async def stock(self, event: Event, wanted: spec.Inventory, size: int) -> None:
        """Give DB1 the first `size` rows. Should they be refused, the next look says so."""
        memory, refusal = self._memory.setdefault(event.uid, _Memory()), InventoryState()
        try:
            source, version = await self._open(event, wanted)
            async with aclosing(_enough(source, size)) as chunks:
                await self._engines.stock(event.uid, event.pool, chunks)
            memory.taken = version
        except InventoryError as error:
            refusal = _told(wanted, error.problem, str(error))
        except psycopg.Error as error:
            if error.sqlstate not in REFUSALS:
                raise
            refusal = _told(wanted, REFUSALS[error.sqlstate], one_line(error))
        memory.refusal = memory.found = refusal
        memory.until = self._clock() + (WHILE_REFUSED if refusal.problem else 0.0)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event."""
        self._memory.pop(uid, None)

    async def _open(self, event: Event, wanted: spec.Inventory) -> tuple[Source, str]:
        """The source, and a word that changes with its content where that is cheap to know. Raises InventoryError."""
        if ref := wanted.config_map_ref:
            found = await self._cluster.get("ConfigMap", event.namespace, ref.name)
            text = _text(found, ref.key)
            return Lines(parse(text)), hashlib.sha256(text.encode()).hexdigest()
        assert wanted.table is not None
        uri = _uri(await self._cluster.get("Secret", event.namespace, wanted.table.secret_ref.name), wanted.table)
        return Table(uri, event.namespace, wanted.table.name), ""


async def _enough(source: Source, size: int) -> AsyncGenerator[Sequence[Row]]:
    """The chunks of a source, which must not come to an end too early: the count was taken some time ago."""
    rows = 0
    async with aclosing(source.chunks(size)) as chunks:
        async for chunk in chunks:
            rows += len(chunk)
            yield chunk
    if rows < size:
        raise _too_small(rows, size)


def _text(config_map: Manifest | None, key: str) -> str:
    if config_map is None:
        raise InventoryError(Problem.INVENTORY_MISSING, "there is no such ConfigMap in this namespace")
    if key in (config_map.get("data") or {}):
        return str(config_map["data"][key])
    if key not in (config_map.get("binaryData") or {}):
        raise InventoryError(Problem.INVENTORY_MISSING, "the ConfigMap has no such key")
    # kubectl puts there what is not UTF-8; others may put anything there.
    try:
        return base64.b64decode(config_map["binaryData"][key]).decode()
    except UnicodeDecodeError:
        raise InventoryError(Problem.INVENTORY_INVALID, "it is not text in UTF-8; save it as CSV UTF-8") from None


def _uri(secret: Manifest | None, table: spec.InventoryTable) -> str:
    ref = table.secret_ref
    if secret is None:
        raise InventoryError(Problem.INVENTORY_MISSING, "there is no such Secret in this namespace")
    if ref.key not in (secret.get("data") or {}):
        raise InventoryError(Problem.INVENTORY_MISSING, f"the Secret has no key {ref.key}")
    try:
        return base64.b64decode(secret["data"][ref.key]).decode().strip()
    except UnicodeDecodeError:
        raise InventoryError(Problem.INVENTORY_MISSING, f"key {ref.key} of the Secret is not text in UTF-8") from None


def _too_small(rows: int, size: int) -> InventoryError:
    return InventoryError(Problem.INVENTORY_TOO_SMALL, f"it has {rows} rows, spec.inventorySize wants {size}")


def _told(wanted: spec.Inventory, problem: Problem, what: str) -> InventoryState:
    if ref := wanted.config_map_ref:
        where = f"ConfigMap {ref.name}, key {ref.key}"
    else:
        assert wanted.table is not None
        where = f"table {wanted.table.name} behind Secret {wanted.table.secret_ref.name}"
    return InventoryState(problem, f"spec.inventory: {where}: {what}. {CURES[problem]}.")
