"""SQLSTATEs of a failed ledger statement: does the error speak of the ledger, of a lock in it, or of the claim?

docs/ledger.md says the same to the ledger's owner.
"""

from enum import StrEnum
from typing import Final


class Subject(StrEnum):
    """What an error speaks of."""

    LEDGER = "ledger"
    """Every claim would fail: the ledger is down, refuses us, or lacks the function."""
    LOCK = "lock"
    """Another transaction stood in the way. The same call succeeds later."""
    CLAIM = "claim"
    """Data errors, constraints, and whatever the function itself raises: other claims may succeed."""


# The longest prefix that fits decides. What is not listed speaks of the claim.
PREFIXES: Final = {
    "08": Subject.LEDGER,
    "0A": Subject.LEDGER,
    "25": Subject.LEDGER,  # 25006, read only: a standby after a failover
    "28": Subject.LEDGER,
    "3D": Subject.LEDGER,
    "40": Subject.LOCK,  # serialization failure, deadlock
    "42": Subject.LEDGER,  # function or table missing, no permission
    "53": Subject.LEDGER,
    "55": Subject.LOCK,
    "57": Subject.LEDGER,
    "57014": Subject.LOCK,  # query_canceled
    "58": Subject.LEDGER,
    "F0": Subject.LEDGER,
    "XX": Subject.LEDGER,
}
QUERY_CANCELED: Final = "57014"

# What a database answers that lacks a character: untranslatable_character, character_not_in_repertoire.
NO_SUCH_CHARACTER: Final = frozenset({"22P05", "22021"})


def subject(sqlstate: str | None) -> Subject:
    """What an error speaks of. None, no SQLSTATE at all, is a lost connection."""
    if sqlstate is None:
        return Subject.LEDGER
    fitting = (prefix for prefix in PREFIXES if sqlstate.startswith(prefix))
    return PREFIXES.get(max(fitting, key=len, default=""), Subject.CLAIM)
