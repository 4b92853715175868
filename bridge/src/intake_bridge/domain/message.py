"""An intent on the queue, as `intake.read_batch` hands it out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from intake_shared.claims import Claim

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class State(StrEnum):
    """How far a claim has come. It is kept in the message, so that a redelivery does not repeat a step."""

    QUEUED = "queued"
    VALIDATED = "validated"
    COMMITTING = "committing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Claim):
    """One leased message. (msg_id, read_ct) is the lease; claim_id is the identity."""

    msg_id: int
    read_ct: int
    state: State
    failures: int
    release: bool = False
    """To be voided, not sold."""
    traceparent: str | None = None
    """The W3C trace context of the caller who made the claim."""

    def for_log(self) -> dict[str, Any]:
        """The fields of a log line about this claim. No user: logs are copied to where user data must not be."""
        return {"msg_id": self.msg_id, "pool_id": self.pool_id, "claim_id": str(self.claim_id)}

    def trace_headers(self) -> dict[str, str]:
        """The header that continues the claim's trace; none if there is no trace, or what came is not one."""
        if self.traceparent is None or not _TRACEPARENT.fullmatch(self.traceparent):
            return {}
        return {"traceparent": self.traceparent}


type Messages = Sequence[Message]


def anonymous(text: str, messages: Messages) -> str:
    """A dependency's text about these claims without user and request ids, for logs and conditions."""
    for name in (each for message in messages for each in (message.user_id, message.request_id)):
        if name and name in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "\N{HORIZONTAL ELLIPSIS}", text)
    return text
