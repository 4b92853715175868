"""An intent on the queue, as `intake.read_batch` hands it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class State(StrEnum):
    """How far a claim has come; kept in the message, so that no step is taken twice by a redelivery."""

    QUEUED = "queued"
    VALIDATED = "validated"
    COMMITTING = "committing"


@dataclass(frozen=True, slots=True)
class Message:
    """One leased message. (msg_id, read_ct) is the lease; claim_id is the identity."""

    pool_id: str
    msg_id: int
    read_ct: int
    claim_id: UUID
    user_id: str
    slot_no: int
    resource_id: UUID | None
    request_id: str | None
    claimed_at: datetime
    state: State
    failures: int

    def item(self) -> dict[str, Any]:
        """The claim as webhooks and ledgers see it: the payload of every contract."""
        return {
            "claim_id": str(self.claim_id),
            "pool_id": self.pool_id,
            "user_id": self.user_id,
            "slot_no": self.slot_no,
            "resource_id": None if self.resource_id is None else str(self.resource_id),
            "request_id": self.request_id,
            "claimed_at": self.claimed_at.isoformat(),
        }

    def for_log(self) -> dict[str, Any]:
        """The fields of a log line that speaks of this claim. No user in it: logs travel further than data may."""
        return {"msg_id": self.msg_id, "pool_id": self.pool_id, "claim_id": str(self.claim_id)}


type Messages = Sequence[Message]
