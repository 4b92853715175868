"""One problem that was found."""

from dataclasses import dataclass
from typing import Final

from intake_shared.redaction import writable

from intake_operator.reasons import Problem

_MOST_TOLD: Final = 500


@dataclass(frozen=True)
class Finding:
    """A constant reason, and a message that says what to do."""

    reason: Problem
    message: str
    stops: bool = True
    """Claims are not answered, or commits do not flow; otherwise the sale goes on beside it."""


def told(text: object) -> str:
    """What Kubernetes says, in one line for a message."""
    return " ".join(writable(str(text or "")).split())[:_MOST_TOLD]
