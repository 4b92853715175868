"""The checks that ask something outside: each asks one thing, changes nothing, and answers with one line."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from intake_operator.addresses import Address, qualified_host, read_address
from intake_operator.children.installation import Installation
from intake_operator.decide import inputs, preflight, quota
from intake_operator.inventory.inventories import READ_AHEAD, Inventories
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.pools import Pools
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.preflight import Check, failed, not_asked, ok
from intake_operator.model.spec import IntakeEventSpec, Inventory, PostgresTarget, Storage
from intake_operator.reasons import Problem

type Resolve = Callable[[str], Awaitable[object]]
"""Looks a host name up. Raises OSError or UnicodeError where there is none."""


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind with these labels."""


class Hosts:
    """Looks host names up in threads of its own: a name server that hangs takes none of those that others need."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, "lookup")

    async def __call__(self, host: str) -> object:
        """Look it up. Raises OSError where there is no such host, UnicodeError where it can be no name."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, socket.getaddrinfo, host, None)


@dataclass(frozen=True)
class Question:
    """One check: what its line is called, what it does, and for how many seconds it may."""

    name: str
    ask: Callable[[], Awaitable[Check]]
    seconds: float = 15.0
    problem: Problem | None = None
    """What it is if there is no answer in time; None: then nothing is known."""


# Seconds. Ten million rows are counted, and sorted.
INVENTORY_TIMEOUT: Final = 120.0
# Seconds. The ledger may count many claims of other pools.
POOL_TIMEOUT: Final = 40.0


@dataclass(frozen=True)
class Checks:
    """What can be asked about an event that waits."""

    cluster: Objects
    ledgers: LedgerChecks
    inventories: Inventories
    pools: Pools
    installation: Installation
    resolve: Resolve

    def questions(self, event: Event, spec: IntakeEventSpec) -> Iterator[Question]:
        """All checks of this event. What the spec does not have is not asked."""
        yield Question("secrets", lambda: self._secrets(event, spec))
        if postgres := spec.commit_target.postgres:
            unreachable = Problem.LEDGER_UNREACHABLE
            yield Question("ledger", lambda: self._ledger(event, postgres), problem=unreachable)
        elif webhook := spec.commit_target.webhook:
            yield Question("ledger", lambda: self._host("ledger", event, webhook.url), problem=Problem.LEDGER_DOWN)
        if validator := spec.validation.webhook:
            yield Question(
                "validator", lambda: self._host("validator", event, validator.url), problem=Problem.VALIDATOR_DOWN
            )
        yield Question("pool", lambda: self._pool(event, spec), POOL_TIMEOUT)
        if inventory := spec.inventory:
            missing = Problem.INVENTORY_MISSING
            yield Question("inventory", lambda: self._inventory(event, spec, inventory), INVENTORY_TIMEOUT, missing)
        if volume := spec.database.volume:
            yield Question("storageClass", lambda: self._storage_class(volume))
        yield Question("quota", lambda: self._quota(event, spec))

    async def _secrets(self, event: Event, spec: IntakeEventSpec) -> Check:
        needed = inputs.of_spec(spec)
        found = [await self.cluster.get("Secret", event.namespace, each.ref.name) for each in needed]
        return preflight.of_secrets([inputs.check(each, one) for each, one in zip(needed, found, strict=True)])

    async def _ledger(self, event: Event, target: PostgresTarget) -> Check:
        ledger = await read_address(self.cluster, target, event.namespace)
        if not isinstance(ledger, Address):
            return not_asked("ledger", "its Secrets cannot be used")
        return preflight.of_ledger(await self.ledgers.check(event.uid, ledger, target.function))

    async def _host(self, name: str, event: Event, url: str) -> Check:
        host = urlsplit(url).hostname or ""
        try:
            await self.resolve(qualified_host(host, event.namespace))
        except (OSError, UnicodeError):  # a name with an empty or too long part
            problem = Problem.LEDGER_DOWN if name == "ledger" else Problem.VALIDATOR_DOWN
            return failed(name, problem, f"the host {host} of the {name}'s url does not resolve. Correct it.")
        return ok(name, f"{host} resolves; a webhook cannot be asked more")

    async def _pool(self, event: Event, spec: IntakeEventSpec) -> Check:
        postgres = spec.commit_target.postgres
        ledger = await read_address(self.cluster, postgres, event.namespace) if postgres else None
        return preflight.of_pool(await self.pools.check_ahead(event, ledger if isinstance(ledger, Address) else None))

    async def _inventory(self, event: Event, spec: IntakeEventSpec, inventory: Inventory) -> Check:
        state = await self.inventories.check_rows(event, inventory, spec.inventory_size)
        return preflight.of_inventory(state, spec.inventory_size, READ_AHEAD)

    async def _storage_class(self, volume: Storage) -> Check:
        if name := volume.storage_class_name:
            one = await self.cluster.get("StorageClass", "", name)
            return preflight.of_storage_class(volume, [one] if one else [])
        return preflight.of_storage_class(volume, await self.cluster.list("StorageClass", "", ""))

    async def _quota(self, event: Event, spec: IntakeEventSpec) -> Check:
        quotas = await self.cluster.list("ResourceQuota", event.namespace, "")
        return quota.room(event, spec, self.installation, quotas)
