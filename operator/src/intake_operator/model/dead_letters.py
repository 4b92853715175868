"""Dead letters, and what was decided about discarding one."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from intake_shared.claims import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Claim):
    """A claim that gave up: a row of `intake.dead_letters`. `id` is the message id, which is never used twice."""

    id: int
    state: str
    failures: int
    reason: str
    last_error: str | None
    dead_at: datetime

    def shown(self) -> dict[str, Any]:
        """As the admin API lists it: without payload and validation."""
        return {
            "id": self.id,
            "claimId": str(self.claim_id),
            "userId": self.user_id,
            "seats": [seat.as_json() for seat in self.seats],
            "requestId": self.request_id,
            "state": self.state,
            "failures": self.failures,
            "reason": self.reason,
            "lastError": self.last_error,
            "deadAt": self.dead_at.isoformat(),
            "claimedAt": self.claimed_at.isoformat(),
        }


@dataclass(frozen=True)
class Content:
    """What came with the claim of a dead letter: a row of `intake.dead_letter_payloads`. It may hold personal data."""

    id: int
    payload: dict[str, Any] | None = field(repr=False)
    """What the caller sent along."""
    validation: dict[str, Any] | None = field(repr=False)
    """What the validator added."""

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it to those who may see it."""
        return {"id": self.id, "payload": self.payload, "validation": self.validation}


@dataclass(frozen=True)
class Discarding:
    """Who discards dead letters, why and how."""

    actor: str
    reason: str
    return_conflicts: bool = False
    """Put the slots of conflicts on sale again, too. Otherwise they are withheld: another sale has one of them."""


@dataclass(frozen=True)
class Evidence:
    """Why a claim will never be committed, so that its slots may be sold again."""

    words: str


@dataclass(frozen=True)
class Refusal:
    """Why a dead letter is not discarded. `reason` is one word, for programs."""

    reason: str
    message: str
