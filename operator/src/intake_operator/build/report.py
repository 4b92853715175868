"""What remains when the engine is gone."""

from datetime import datetime

from intake_operator import names
from intake_operator.build import common
from intake_operator.model.observed import Event, Manifest, Proof


def report(event: Event, proof: Proof | None, now: datetime) -> Manifest:
    """The account of a finished event; without a proof it says that the event was abandoned.

    This object is also the teardown's memory: once it exists, DB1 is no longer asked, only removed. So nobody can edit
    it.
    """
    meta = common.metadata(event, names.report(event.name), "report")
    meta["annotations"] = {names.VERIFIED_ANNOTATION: "true" if proof else "abandoned"}
    content = {
        "event": event.name,
        "uid": event.uid,
        "pool": event.pool,
        "inventorySize": event.spec.inventory_size if event.spec else None,
        "writtenAt": now.isoformat(timespec="seconds"),
        "verified": "true" if proof else "false",
        "ledger": proof.ledger if proof else "not asked: the event was abandoned by annotation",
        "claims": proof.claims if proof else None,
        "committed": proof.committed if proof else None,
        "voided": proof.voided if proof else None,
        "released": proof.released if proof else None,
        # Who replayed, discarded or sealed, when and why: DB1's audit goes with DB1.
        "audit": "\n".join(proof.audit) if proof and proof.audit else None,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "immutable": True,
        "data": {key: str(value) for key, value in content.items() if value is not None},
    }
