"""Where the user's rows come from: a ConfigMap, or a table behind a Secret."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from intake_operator.addresses import read_address
from intake_operator.inventory.table import CHUNK, Table
from intake_operator.model import spec
from intake_operator.model.inventory import InventoryError, Row, parse
from intake_operator.model.observed import LedgerState, Manifest
from intake_operator.reasons import Problem


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""


class Source(Protocol):
    """Rows in the order of the slots. Both methods raise InventoryError."""

    @property
    def fingerprint(self) -> str:
        """Of the content; empty for a table, which would have to be read for it."""

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`."""

    def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows, or all if there are less."""


@dataclass(frozen=True)
class Lines:
    """The rows of a ConfigMap."""

    rows: Sequence[Row]
    fingerprint: str = ""

    async def count(self, size: int) -> int:
        """How many rows there are, up to `size`."""
        return min(len(self.rows), size)

    async def chunks(self, size: int) -> AsyncGenerator[Sequence[Row]]:
        """The first `size` rows, or all if there are less."""
        for first in range(0, min(len(self.rows), size), CHUNK):
            yield self.rows[first : min(first + CHUNK, size)]


async def open_source(cluster: Objects, namespace: str, wanted: spec.Inventory) -> Source:
    """The source; of a table nothing is read yet. Raises InventoryError."""
    if ref := wanted.config_map_ref:
        text = _text(await cluster.get("ConfigMap", namespace, ref.name), ref.key)
        # Not in the loop, which serves all events: of a ConfigMap, which has at most one MiB, it is a part of a second.
        return Lines(await asyncio.to_thread(parse, text), hashlib.sha256(text.encode()).hexdigest())
    assert wanted.table is not None
    address = await read_address(cluster, wanted.table, namespace)
    if isinstance(address, LedgerState):
        # Without its second sentence: what to do about it is said for all sources alike.
        raise InventoryError(Problem.INVENTORY_MISSING, address.message.partition(". ")[0])
    return Table(address, wanted.table.name)


async def exactly(source: Source, size: int) -> AsyncGenerator[Sequence[Row]]:
    """The first `size` rows. Raises InventoryError if there are less: they were counted some time ago."""
    rows = 0
    async with aclosing(source.chunks(size)) as chunks:
        async for chunk in chunks:
            rows += len(chunk)
            yield chunk
    if rows < size:
        raise too_small(rows, size)


def too_small(rows: int, size: int) -> InventoryError:
    """There are less rows than slots."""
    return InventoryError(Problem.INVENTORY_TOO_SMALL, f"it has {rows} rows, spec.inventorySize wants {size}")


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
