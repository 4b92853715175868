"""What people did by hand to the claims of a pool: `intake.audit_log`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class AuditEntry:
    """One action."""

    id: int
    at: datetime
    action: str
    actor: str
    reason: str
    detail: dict[str, Any]
    """The ids that were replayed, discarded or shown, and the evidence for it. Never a payload."""

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "action": self.action,
            "actor": self.actor,
            "reason": self.reason,
            "detail": self.detail,
        }
