"""What the status remembers because neither the cluster nor DB1 can give it again.

Only the operator may write the status of an event. So the status has the report, which permits the removal, and what
must outlive DB1: the identity of the DB1 on which claims were possible, and the last counts.

`database`, `recovery` and `report` are carried over with what a later version of the operator wrote into them.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reasons import ConditionType

# The counts of a status. `countedAt` is the time when DB1 last gave them.
COUNTS: Final = ("inventory", "queue", "held", "committed", "voided", "released", "expired")
# Those of claims that ended.
ENDS: Final = ("committed", "voided", "released", "expired")
# Counts that do not change get a new time this often: each is a status that is written.
COUNTED_AGAIN: Final = timedelta(minutes=5)
# A pod has two minutes to end. Until then DB1 might still open on time.
SAFELY_BEFORE: Final = timedelta(minutes=5)


def report(event: Event) -> Mapping[str, Any] | None:
    """The report. Only the report and the abandon annotation permit the removal of an event that may have sold."""
    found: Mapping[str, Any] | None = event.status.get("report")
    return found


def identity(event: Event, observed: Observed) -> str:
    """Postgres' system identifier of the DB1 that was made claimable; empty if none ever was.

    A restore of the event from a backup drops its status, so the StatefulSet and the volume claim have it as well. A
    DB1 that was rebuilt from the ledger takes the place of the lost one.
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
    return next((identity for identity in found if identity), "")


def rebuilt(event: Event, observed: Observed) -> bool:
    """Whether DB1 was rebuilt from the ledger, as the annotation asks."""
    return observed.database.restored is not None and event.says(names.RECOVER_ANNOTATION)


def volume_lost(event: Event, observed: Observed) -> bool:
    """Whether DB1 can be asked and is not the one that acknowledged claims."""
    before = identity(event, observed)
    return bool(before and observed.database.identity and observed.database.identity != before)


def never_open(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether no claim can have been acknowledged: every opening that DB1 was given is still well ahead.

    Only used where DB1 cannot be asked; one that can be asked is sealed, and has the counts.
    """
    sells_from = (event.status.get("database") or {}).get("sellsFrom")
    if observed.database.reachable or not sells_from:
        return False
    return now + SAFELY_BEFORE < datetime.fromisoformat(sells_from)


def database(event: Event, observed: Observed, claimable: str) -> dict[str, Any] | None:
    """`status.database`, to be written before the first slot is seeded; None while no claim was ever possible.

    `claimable` is the identity of DB1 from this pass on. `sellsFrom` is the earliest opening that DB1 was ever given;
    it stays unknown if the status was lost in between.
    """
    known = event.status.get("database")
    if not claimable:
        return None
    opens = event.spec.window.opens_at if event.spec else None
    changed: dict[str, Any] = {**(known or {}), "systemIdentifier": claimable}
    if known is None and opens and not identity(event, observed):
        changed["sellsFrom"] = opens.isoformat()
    if opens and "sellsFrom" in changed and opens < datetime.fromisoformat(changed["sellsFrom"]):
        changed["sellsFrom"] = opens.isoformat()
    if observed.database.version and observed.database.identity == claimable:
        changed["version"] = observed.database.version.name
    changed["bridgeImage"] = bridge_image(event, observed)
    return {name: value for name, value in changed.items() if value != ""}


def bridge_image(event: Event, observed: Observed) -> str:
    """The image with which bridges of this event have run; empty where none has.

    A DB1 that was rebuilt has the SQL of the operator that did it, and gets the bridges of that one.
    """
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    if deployment and _has_run(deployment):
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
    known = event.status.get("database") or {}
    if rebuilt(event, observed) and known.get("systemIdentifier") != observed.database.identity:
        return ""
    return str(known.get("bridgeImage", ""))


def _has_run(deployment: Manifest) -> bool:
    """Whether all its pods are of its present template, and one is ready."""
    status = deployment.get("status") or {}
    current = status.get("observedGeneration") == deployment["metadata"].get("generation")
    return bool(current and status.get("readyReplicas") and status.get("updatedReplicas") == status.get("replicas"))


def counts(event: Event, observed: Observed, now: datetime) -> dict[str, Any]:
    """DB1's counts; while it cannot be asked, or is another DB1, the last counts that it gave."""
    before = {name: event.status[name] for name in COUNTS if name in event.status}
    at = event.status.get("countedAt")
    status = observed.database.status
    if status is None or volume_lost(event, observed):
        return before | ({"countedAt": at} if at else {})
    fresh = status.counts(COUNTS)
    if at and fresh == before and now - datetime.fromisoformat(at) < COUNTED_AGAIN:
        return fresh | {"countedAt": at}
    return fresh | {"countedAt": now.isoformat(timespec="seconds")}


def dead_letters(event: Event, observed: Observed) -> tuple[int, str]:
    """How many there are; while DB1 cannot be asked, the last number that it gave, and the words that say so."""
    if observed.database.status is not None:
        return observed.database.dead_letters, ""
    known = int((event.status.get("queue") or {}).get("deadLetters") or 0)
    return known, f" (as of {event.status.get('countedAt')}: DB1 does not answer)"


def without_database_since(event: Event, observed: Observed) -> datetime | None:
    """Since when DB1's StatefulSet is there and DB1 is not ready, by the status; None if it was ready until now."""
    workload = observed.children.get(("StatefulSet", names.database(event.name)))
    conditions = event.status.get("conditions") or ()
    ready = next((c for c in conditions if c["type"] == ConditionType.DATABASE_READY), None)
    if workload is None or ready is None or ready["status"] == "True":
        return None
    moments = (ready["lastTransitionTime"], workload["metadata"].get("creationTimestamp"))
    return max(datetime.fromisoformat(moment) for moment in moments if moment)


def recovery(event: Event, observed: Observed) -> dict[str, Any] | None:
    """`status.recovery`: what a rebuilt DB1 has, and how many acknowledged claims are missing.

    By the last counts before the loss: claims that came after them are in no count.
    """
    known: dict[str, Any] | None = event.status.get("recovery")
    restored = observed.database.restored
    if restored is None or not rebuilt(event, observed) or (known and known["at"] == restored.at):
        return known
    # Not those that were released or expired: the ledger never knew them.
    last = {**(event.status.get("queue") or {}), **event.status}
    acknowledged = sum(int(last.get(name, 0)) for name in ("held", "depth", "deadLetters", "committed", "voided"))
    found = restored.committed + restored.voided
    lost = max(acknowledged - found, 0) + int((known or {}).get("unaccounted", 0))
    found_again = {**(known or {}), **restored.model_dump(), "unaccounted": lost}
    at = event.status.get("countedAt")
    return found_again | ({"countedAt": at} if at else {})
