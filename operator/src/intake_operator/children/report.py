"""What remains when DB1 is gone: a copy for people. What lets DB1 go is in the event's status."""

from intake_operator import names
from intake_operator.children import common
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.report import Report


def report(event: Event, account: Report) -> Manifest:
    """The account of a finished event, and who replayed, discarded, sealed or restored: DB1's audit goes with DB1.

    It belongs to the event alone, and goes with it.
    """
    meta = common.metadata(event, names.report(event.name), "report")
    meta["annotations"] = {names.VERIFIED_ANNOTATION: "true" if account.verified else "abandoned"}
    meta["ownerReferences"] = [common.owner(event)]
    content = {
        "event": event.name,
        "uid": event.uid,
        "pool": event.pool,
        "inventorySize": event.spec.inventory_size if event.spec else None,
        "writtenAt": account.written_at,
        "verified": "true" if account.verified else "false",
        "ledger": account.ledger,
        **account.counts,
        "countedAt": account.counted_at or None,
        "audit": "\n".join(account.audit) or None,
    }
    data = {key: str(value) for key, value in content.items() if value is not None}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
