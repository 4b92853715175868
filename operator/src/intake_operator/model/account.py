"""The final account of an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Account:
    """What became of all claims. `counts` lacks what nobody could tell."""

    verified: bool
    """The accounts of DB1 and ledger add up; False where a person abandoned the event."""
    ledger: str
    """The ledger's word: 'the ledger agrees', 'the ledger offers no proof', or why it was not asked."""
    written_at: str
    counts: Mapping[str, int]
    """claims, committed, voided, released, queued, deadLetters, unaccounted."""
    counted_at: str = ""
    """When DB1 last gave the counts, where it could not be asked at the end or was rebuilt meanwhile."""
    audit: Sequence[str] = ()
    """What people did by hand, a line of JSON each. In the report only."""

    def told(self) -> dict[str, Any]:
        """As `status.report` has it."""
        told = {"verified": self.verified, "ledgerVerified": self.ledger, "writtenAt": self.written_at, **self.counts}
        return told | ({"countedAt": self.counted_at} if self.counted_at else {})
