"""Dead letters, and what was decided about discarding one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from intake_shared.claims import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Claim):
    """A claim that gave up: a row of `intake.dead_letters`. `id` is the message id, which is never used twice."""

    id: int
    label: str | None
    state: str
    failures: int
    reason: str
    last_error: str | None
    dead_at: datetime

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "id": self.id,
            "claimId": str(self.claim_id),
            "userId": self.user_id,
            "slot": self.slot_no,
            "label": self.label,
            "resourceId": None if self.resource_id is None else str(self.resource_id),
            "requestId": self.request_id,
            "state": self.state,
            "failures": self.failures,
            "reason": self.reason,
            "lastError": self.last_error,
            "deadAt": self.dead_at.isoformat(),
            "claimedAt": self.claimed_at.isoformat(),
        }


@dataclass(frozen=True)
class Evidence:
    """Why a claim will never be committed, so that its slot may be sold again."""

    words: str


@dataclass(frozen=True)
class Refusal:
    """Why a dead letter is not discarded. `reason` is one word, for programs."""

    reason: str
    message: str
