"""How the command ends."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    NOT_ALL = 1
    """It worked, and the answer is no: something was refused or is gone, or the ledger does not agree."""
    USAGE = 2
    DENIED = 3
    """No token, or not the rights."""
    FAILED = 4
    """Out of reach, or not possible now."""


class ProblemError(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, exit_code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
