"""Slots that are withheld from sale."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class WithheldSlot:
    """A row of `intake.withheld_slots`."""

    slot: int
    resource_id: UUID | None
    """None while DB1 is being rebuilt."""
    label: str | None
    withheld_at: datetime
    actor: str
    reason: str

    def shown(self) -> dict[str, Any]:
        """As the admin API lists it."""
        return {
            "slot": self.slot,
            "resourceId": None if self.resource_id is None else str(self.resource_id),
            "label": self.label,
            "withheldAt": self.withheld_at.isoformat(),
            "actor": self.actor,
            "reason": self.reason,
        }
