"""Exit codes of the command, and the error that ends it."""

from enum import IntEnum


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    DONE = 0
    NOT_ALL = 1
    """The command worked, but not for all: something was refused or was not there, or the ledger does not agree."""
    USAGE = 2
    DENIED = 3
    """There is no token, or it lacks the rights."""
    FAILED = 4
    """The admin API does not answer, or cannot do it now."""


class ProblemError(Exception):
    """Ends the command. The message says what went wrong and what to do."""

    def __init__(self, exit_code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
