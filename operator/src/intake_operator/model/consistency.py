"""What DB1 and the ledger have of the same claims, and the result of comparing them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from intake_operator.reasons import ConsistencyReason


@dataclass(frozen=True)
class DatabaseClaim:
    """A claim in DB1: the row type `intake.compared_claim`."""

    key: int
    """Its place among the settled claims: a slot of one that is committed, a negative number of any other."""
    claim_id: UUID
    state: str
    user_id: str
    slot_nos: Sequence[int]
    resource_ids: Sequence[UUID | None] | None
    """Parallel to `slot_nos`; None where they were not read."""


@dataclass(frozen=True)
class LedgerClaim:
    """A claim in the ledger, with all its slots: a row of `ledger_claims`. A voided claim has no slots."""

    claim_id: UUID
    state: str
    user_id: str
    request_id: str | None
    claimed_at: datetime | None
    slot_nos: tuple[int | None, ...]
    resource_ids: tuple[UUID | None, ...]


@dataclass(frozen=True)
class Violation:
    """An invariant (I1 to I7 in CONTRIBUTING.md) that is broken, and the slot or claim where."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    """Whether the ledger has what DB1 says it has. `agrees` is None where that is not known."""

    agrees: bool | None
    reason: ConsistencyReason
    message: str
    violations: tuple[Violation, ...] = ()
    at: datetime | None = field(default=None, compare=False)
    """When the two were compared; None where they were not."""

    @property
    def told(self) -> str:
        """The message with its time: the claims that came later are in no number of it."""
        return f"{self.message} (compared at {self.at.isoformat(timespec='seconds')})" if self.at else self.message

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "status": {True: "True", False: "False", None: "Unknown"}[self.agrees],
            "reason": self.reason.value,
            "message": self.message,
            "violations": [{"invariant": each.invariant, "detail": each.detail} for each in self.violations],
        }
