"""A claim, and the form in which ledgers and webhooks get it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim: whose it is, for which slot, and when it was made. `resource_id` is None where it is not known."""

    claim_id: UUID
    pool_id: str
    user_id: str
    slot_no: int
    resource_id: UUID | None
    request_id: str | None
    claimed_at: datetime

    def payload(self) -> dict[str, Any]:
        """The claim as `finalize_transaction`, `void_claim` and the webhooks take it (docs/ledger.md): JSON types."""
        return {
            "claim_id": str(self.claim_id),
            "pool_id": self.pool_id,
            "user_id": self.user_id,
            "slot_no": self.slot_no,
            "resource_id": None if self.resource_id is None else str(self.resource_id),
            "request_id": self.request_id,
            "claimed_at": self.claimed_at.isoformat(),
        }
