"""What DB1 and the ledger say of the same claims."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from intake_operator.reasons import ConsistencyReason


@dataclass(frozen=True)
class DatabaseClaim:
    """A claim in DB1: `intake.placed_claim`."""

    key: int
    claim_id: UUID
    state: str
    user_id: str
    slot_no: int
    resource_id: UUID | None


@dataclass(frozen=True)
class Sale:
    """A whole claim of the ledger: `ledger_claims`. A voided one has no slots."""

    claim_id: UUID
    state: str
    user_id: str
    request_id: str | None
    claimed_at: datetime | None
    slot_nos: tuple[int | None, ...]
    resource_ids: tuple[UUID | None, ...]


@dataclass(frozen=True)
class Violation:
    """A promise (I1 to I7 of the design) that does not hold, and where."""

    promise: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    """Does the ledger hold what DB1 says it does? `agrees` is None where nobody can tell."""

    agrees: bool | None
    reason: ConsistencyReason
    message: str
    violations: tuple[Violation, ...] = ()

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "status": {True: "True", False: "False", None: "Unknown"}[self.agrees],
            "reason": self.reason.value,
            "message": self.message,
            "violations": [{"promise": each.promise, "detail": each.detail} for each in self.violations],
        }
