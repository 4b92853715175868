"""The report: the final counts of an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """What became of all claims."""

    verified: bool
    """The counts of DB1 and the ledger add up; False where a person abandoned the event."""
    ledger: str
    """`status.report.ledgerVerified`: the text of a LedgerAnswer, or why the ledger was not asked."""
    written_at: str
    counts: Mapping[str, int]
    """Claims: claims, committed, voided, released, expired, held, queued, deadLetters, unaccounted.

    A count that is not known is left out.
    """
    inventory: Mapping[str, int] = field(default_factory=dict)
    """Slots, as in `status.inventory`; empty where they are not known."""
    counted_at: str = ""
    """When DB1 gave these counts, if it was earlier: DB1 could not be asked at the end, or was rebuilt since."""
    audit: Sequence[str] = ()
    """What people did by hand, a line of JSON each. Only the ConfigMap has it."""

    def as_status(self) -> dict[str, Any]:
        """The value of `status.report`."""
        report = {"verified": self.verified, "ledgerVerified": self.ledger, "writtenAt": self.written_at, **self.counts}
        optional = {"inventory": dict(self.inventory), "countedAt": self.counted_at}
        return report | {name: value for name, value in optional.items() if value}
