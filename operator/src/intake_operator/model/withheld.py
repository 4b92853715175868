"""Slots that are withheld from sale, and what became of asking for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class WithheldSlot:
    """A row of `intake.withheld_slots`. `resource_id` and `label` are None while the pool is being rebuilt."""

    slot_no: int
    resource_id: UUID | None
    label: str | None
    withheld_at: datetime
    actor: str
    reason: str

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "slotNo": self.slot_no,
            "resourceId": None if self.resource_id is None else str(self.resource_id),
            "label": self.label,
            "withheldAt": self.withheld_at.isoformat(),
            "actor": self.actor,
            "reason": self.reason,
        }


def by_outcome(words: Iterable[str], outcomes: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """The slots of each of these outcomes, as the admin API shows them: also those that none has."""
    found: dict[str, list[int]] = {word: [] for word in words}
    for slot, outcome in outcomes:
        found[outcome].append(slot)
    return {to_camel(word): slots for word, slots in found.items()}
