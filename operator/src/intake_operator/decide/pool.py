"""May the slots of a pool be seeded? Only if they were not sold before, and no other event is about to sell them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from intake_operator import names
from intake_operator.model.observed import Event, Manifest, PoolCheck
from intake_operator.reasons import ConditionType, PoolReason

type LedgerKey = tuple[str, ...]
"""Hosts with their ports (commas between them), database and function of a ledger; or "webhook" and its URL."""


@dataclass(frozen=True)
class Rival:
    """Another event with the same pool, and the ledger that it commits to; None where that is not known."""

    event: Event
    ledger: LedgerKey | None


def live(body: Manifest) -> bool:
    """Whether an event may still sell, or has claims that are not settled yet."""
    status = body.get("status") or {}
    if status.get("report") is not None:
        return False
    if names.FINALIZER in (body["metadata"].get("finalizers") or ()):
        return True
    drained = (c for c in status.get("conditions") or () if c["type"] == "Drained")
    return not any(c["status"] == "True" for c in drained)


def announced(event: Event) -> str:
    """The reason of PoolUnused that the status has; empty before the first check."""
    conditions = event.status.get("conditions") or ()
    return next((str(c["reason"]) for c in conditions if c["type"] == ConditionType.POOL_UNUSED), "")


def in_use(event: Event, ledger: LedgerKey | None, rivals: Iterable[Rival]) -> PoolCheck | None:
    """The verdict if another event has the same pool and ledger, and came first; None if none has."""
    for rival in rivals:
        if _same(rival.ledger, ledger) and _first(rival.event, event):
            other = f"{rival.event.namespace}/{rival.event.name}"
            return PoolCheck(
                PoolReason.IN_USE,
                f"IntakeEvent {other} sells pool {event.pool} into the same ledger. No slot is seeded. Let it end "
                f"first, or give this event another pool; {without(event)}.",
            )
    return None


def used_before(event: Event, committed: int, voided: int) -> PoolCheck:
    """The verdict on what the ledger has of the pool."""
    if not committed and not voided:
        return PoolCheck(PoolReason.UNUSED, f"the ledger has no claim of pool {event.pool}")
    return PoolCheck(
        PoolReason.USED_BEFORE,
        f"the ledger has {committed} committed and {voided} voided claims of pool {event.pool}, so its slots were sold "
        f"before. No slot is seeded. Give each sale a pool of its own; {without(event)}.",
    )


def _same(one: LedgerKey | None, other: LedgerKey | None) -> bool:
    """One host in common is enough: a URI with two hosts writes to the first, too."""
    if one is None or other is None or one[1:] != other[1:]:
        return False
    return not set(one[0].split(",")).isdisjoint(other[0].split(","))


def _first(rival: Event, event: Event) -> bool:
    """An event with a claimable DB1 has the pool; between two without one, the older event has it."""
    if (rival.status.get("database") or {}).get("systemIdentifier"):
        return True
    return _age(rival) < _age(event)


def _age(event: Event) -> tuple[datetime, str]:
    return event.created_at, event.uid


def without(event: Event) -> str:
    """How to open the sale although it is not known whether the pool was sold before."""
    return f"to open the sale without this check, set the annotation {names.POOL_UNCHECKED_ANNOTATION}: {event.name}"
