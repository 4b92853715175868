"""An intent on the queue, as `intake.read_batch` hands it out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from intake_shared.claims import ClaimHead

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class State(StrEnum):
    """How far a claim has come. It is kept in the message, so that a redelivery does not repeat a step."""

    QUEUED = "queued"
    VALIDATED = "validated"
    COMMITTING = "committing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(ClaimHead):
    """One leased message. (msg_id, read_ct) is the lease; claim_id is the identity.

    Its JSON is not parsed: nothing here depends on it, every digit of a number stays, and it is quick. Not in its repr,
    because it may be about people.
    """

    msg_id: int
    read_ct: int
    slots: int
    """How many slots the claim has."""
    seats: str = field(repr=False)
    payload: str | None = field(default=None, repr=False)
    validation: str | None = field(default=None, repr=False)
    """What the validator has added, as DB1 keeps it."""
    state: State
    failures: int
    release: bool = False
    """To be voided, not sold."""
    traceparent: str | None = None
    """The W3C trace context of the caller who made the claim."""

    def as_text(self) -> str:
        """The claim as JSON, for the ledger and the webhooks."""
        return self.text_with(self.seats, self.payload, self.validation)

    def for_log(self) -> dict[str, Any]:
        """The fields of a log line about this claim. No user: logs are copied to where user data must not be."""
        return {"msg_id": self.msg_id, "pool_id": self.pool_id, "claim_id": str(self.claim_id)}

    def trace_headers(self) -> dict[str, str]:
        """The header that continues the claim's trace; none if there is no trace, or what came is not one."""
        if self.traceparent is None or not _TRACEPARENT.fullmatch(self.traceparent):
            return {}
        return {"traceparent": self.traceparent}


type Messages = Sequence[Message]
