"""The copy of the report for people. The report that permits the removal of DB1 is in the event's status."""

from intake_operator import names
from intake_operator.children import common
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.report import Report


def config_map(event: Event, final: Report) -> Manifest:
    """The report of an event, with what people did by hand: DB1's audit is removed with DB1.

    The event is its only owner, and it is removed with the event.
    """
    meta = common.metadata(event, names.report(event.name), "report")
    meta["annotations"] = {names.VERIFIED_ANNOTATION: "true" if final.verified else "abandoned"}
    meta["ownerReferences"] = [common.owner(event)]
    content = {
        "event": event.name,
        "uid": event.uid,
        "pool": event.pool,
        "inventorySize": event.spec.inventory_size if event.spec else None,
        "writtenAt": final.written_at,
        "verified": "true" if final.verified else "false",
        "ledger": final.ledger,
        **final.counts,
        **{f"inventory.{name}": count for name, count in final.inventory.items() if name != "size"},
        "countedAt": final.counted_at or None,
        "audit": "\n".join(final.audit) or None,
    }
    data = {key: str(value) for key, value in content.items() if value is not None}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
