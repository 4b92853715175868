"""What answers bring: an outcome for each claim and, beside it, what the validator adds or the ledger says (a receipt).

What is too large, or cannot be kept, is kept as `{"truncated": true}`: it undoes no approval and no sale.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Final, Self

from intake_bridge.domain.outcomes import Outcome

# Of a jsonb's text. DB1 applies the same rule.
MAX_RECEIPT_BYTES: Final = 2048
TRUNCATED: Final = '{"truncated": true}'
# \u0000, which jsonb refuses: its backslash is no escaped one.
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Addition:
    """JSON that is kept with the claim. `flaw` says why it is not what came, and quotes nothing of that."""

    text: str = field(repr=False)
    flaw: str | None = None

    @classmethod
    def of(cls, value: object) -> Self:
        """What a webhook has answered, parsed. It is written as a jsonb writes it, but for numbers with an exponent."""
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, RecursionError):
            return cls(TRUNCATED, "it has a number, a lone surrogate or a nesting that no jsonb can hold")
        if _NUL.search(text):
            return cls(TRUNCATED, "it has a NUL character, which no jsonb can hold")
        return cls(text)

    def bounded(self, most: int) -> Self:
        """The same, or that it is larger than so many bytes."""
        size = len(self.text) if self.text.isascii() else len(self.text.encode())
        if self.flaw is not None or size <= most:
            return self
        return type(self)(TRUNCATED, f"it has {size} bytes, and at most {most} are kept")


def data_of(value: object) -> Addition:
    """The `data` of an approval."""
    if not isinstance(value, dict):
        return Addition(TRUNCATED, f"it is a {type(value).__name__}, and must be an object")
    return Addition.of(value)


def receipt_of(value: object) -> Addition:
    """The `receipt` of a commit webhook's answer."""
    return Addition.of(value).bounded(MAX_RECEIPT_BYTES)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one call or several, by msg_id. A message that is missing was not sent."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    # Apart from the outcomes, of which most are one and the same object.
    additions: dict[int, Addition] = field(default_factory=dict)

    def __or__(self, other: "Answers") -> "Answers":
        return Answers(self.outcomes | other.outcomes, self.additions | other.additions)
