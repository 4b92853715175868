"""What was found when all that a sale needs was checked ahead of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from intake_operator.reasons import Problem


class Answer(StrEnum):
    """What one check found."""

    OK = "ok"
    NOTED = "Noted"
    """Nothing is wrong, and a person may want to know."""
    FAILED = "Failed"
    NOT_ASKED = "NotAsked"
    """It may not or cannot be asked: that is no failure."""


@dataclass(frozen=True)
class Check:
    """One line of the condition PreflightPassed. `problem` is what would be reported later; only of one that failed."""

    name: str
    answer: Answer
    message: str = ""
    problem: Problem | None = None

    def __str__(self) -> str:
        """Such as `quota: NotAsked (no right to read resourcequotas)`."""
        return f"{self.name}: {self.answer}" + (f" ({self.message})" if self.message else "")


def ok(name: str, message: str = "") -> Check:
    """Nothing is wrong."""
    return Check(name, Answer.OK, message)


def noted(name: str, message: str) -> Check:
    """Nothing is wrong, and a person may want to know this."""
    return Check(name, Answer.NOTED, message)


def not_asked(name: str, message: str) -> Check:
    """Nothing is known."""
    return Check(name, Answer.NOT_ASKED, message)


def failed(name: str, problem: Problem, message: str) -> Check:
    """The sale would not work. The message says what to do."""
    return Check(name, Answer.FAILED, message, problem)


@dataclass(frozen=True)
class Preflight:
    """The answers of all checks, when they were asked, and of which generation of the event."""

    checks: tuple[Check, ...]
    at: datetime
    generation: int
    question: object = None
    """What the answers depend on: an answer to another question tells nothing about how long this one fails."""
    failing_since: datetime | None = None
    """When the first of the failures in a row was found."""

    @property
    def problems(self) -> list[tuple[Problem, str]]:
        """What failed, the most fundamental first, with a message that says what to do."""
        order = list(Problem)
        found = [(check.problem, check.message) for check in self.checks if check.problem]
        return sorted(found, key=lambda each: order.index(each[0]))

    @property
    def lines(self) -> str:
        """The message of the condition."""
        return "\n".join([f"checked at {self.at.isoformat(timespec='seconds')}", *map(str, self.checks)])
