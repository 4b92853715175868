"""What the status remembers because neither the cluster nor DB1 can tell it again.

Only the operator may write an event's status. So it holds what lets an event go (the report), and what must outlive
DB1: the identity of the DB1 on which claims were possible, and the last counts.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.model.observed import Event, Observed

# The counts of a status; `countedAt` says when DB1 last gave them.
COUNTS: Final = ("inventory", "queue", "committed", "voided", "released")
# Counts that do not change get a new time this often, so that an event that waits writes one status a minute.
COUNTED_ANEW: Final = timedelta(seconds=60)
# A pod has two minutes to end; until it has, DB1 might still open on time.
SAFELY_BEFORE: Final = timedelta(minutes=5)


def report(event: Event) -> Mapping[str, Any] | None:
    """The final account. With it everything may be removed; nothing else permits that but the abandon annotation."""
    found: Mapping[str, Any] | None = event.status.get("report")
    return found


def identity(event: Event, observed: Observed) -> str:
    """Postgres' system identifier of the DB1 that was made claimable; empty if none ever was.

    A restore of the event drops its status, so the StatefulSet and the volume claim carry it, too. A DB1 that was
    rebuilt from the ledger on a person's word takes the place of the one that was lost.
    """
    if rebuilt(event, observed):
        return observed.database.identity
    if known := (event.status.get("database") or {}).get("systemIdentifier"):
        return str(known)
    children = (
        observed.children.get(("StatefulSet", names.database(event.name))),
        observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name))),
    )
    found = (
        (child["metadata"].get("annotations") or {}).get(names.CLAIMABLE_ANNOTATION) for child in children if child
    )
    return next((word for word in found if word), "")


def rebuilt(event: Event, observed: Observed) -> bool:
    """DB1 was rebuilt from the ledger, as somebody asked."""
    return observed.database.restored is not None and event.says(names.RECOVER_ANNOTATION)


def volume_lost(event: Event, observed: Observed) -> bool:
    """DB1 answers, and it is not the one that acknowledged claims."""
    before = identity(event, observed)
    return bool(before and observed.database.identity and observed.database.identity != before)


def never_open(event: Event, observed: Observed, now: datetime) -> bool:
    """No claim can have been acknowledged: DB1 was never given an opening that is past, and it will not see one.

    Only of use where DB1 cannot be asked; one that answers is sealed, and tells.
    """
    sells_from = (event.status.get("database") or {}).get("sellsFrom")
    if observed.database.reachable or not sells_from:
        return False
    return now + SAFELY_BEFORE < datetime.fromisoformat(sells_from)


def database(event: Event, observed: Observed, claimable: str) -> dict[str, Any] | None:
    """`status.database`, to be written before the first slot is seeded; None while no claim was ever possible.

    `claimable` is the identity of DB1 from this pass on. `sellsFrom` is the earliest opening that DB1 was ever given;
    it is unknown, and stays so, where the status was lost meanwhile.
    """
    known = event.status.get("database")
    if not claimable:
        return None
    opens = event.spec.window.opens_at if event.spec else None
    if known is None:
        first = not identity(event, observed)
        return {"systemIdentifier": claimable} | ({"sellsFrom": opens.isoformat()} if first and opens else {})
    told: dict[str, Any] = {**known, "systemIdentifier": claimable}
    if opens and "sellsFrom" in told and opens < datetime.fromisoformat(told["sellsFrom"]):
        told["sellsFrom"] = opens.isoformat()
    return told


def counts(event: Event, observed: Observed, now: datetime) -> dict[str, Any]:
    """DB1's counts, or the last ones that it gave while it cannot be asked or is not the one that was claimed from."""
    before = {name: event.status[name] for name in COUNTS if name in event.status}
    at = event.status.get("countedAt")
    status = observed.database.status
    if status is None or volume_lost(event, observed):
        return before | ({"countedAt": at} if at else {})
    fresh = status.counts(COUNTS)
    if at and fresh == before and now - datetime.fromisoformat(at) < COUNTED_ANEW:
        return fresh | {"countedAt": at}
    return fresh | {"countedAt": now.isoformat(timespec="seconds")}


def recovery(event: Event, observed: Observed) -> dict[str, Any] | None:
    """`status.recovery`: what a rebuilt DB1 has, and how many acknowledged claims nobody can account for any more.

    By the last counts before the loss: claims that came after them are not known to anybody.
    """
    known: dict[str, Any] | None = event.status.get("recovery")
    restored = observed.database.restored
    if restored is None or not rebuilt(event, observed) or (known and known["at"] == restored.at):
        return known
    inventory = event.status.get("inventory") or {}
    acknowledged = sum(
        (int(inventory.get("reserved", 0)), int(event.status.get("committed", 0)), int(event.status.get("voided", 0)))
    )
    found = restored.committed + restored.voided
    lost = max(acknowledged - found, 0) + int((known or {}).get("unaccounted", 0))
    told = {**restored.model_dump(), "unaccounted": lost}
    at = event.status.get("countedAt")
    return told | ({"countedAt": at} if at else {})
