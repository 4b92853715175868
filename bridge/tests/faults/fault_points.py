"""Which step of a bridge is interrupted, where, and how: `commit:after:kill`, `commit:after:kill:3` for the third."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Step(StrEnum):
    """What can be interrupted: the methods of the ports that move a claim or a token, by their names."""

    READ_BATCH = "read_batch"
    READ_RELEASES = "read_releases"
    READ_QUARANTINED = "read_quarantined"
    VALIDATE = "validate"
    MARK_VALIDATED = "mark_validated"
    MARK_COMMITTING = "mark_committing"
    COMMIT = "commit"
    VOID = "void"
    ACKNOWLEDGE = "acknowledge"
    GIVE_BACK = "give_back"
    DEAD_LETTER = "dead_letter"
    EXTEND = "extend"
    LEASE_TOKENS = "lease_tokens"
    RETURN_TOKENS = "return_tokens"


class Position(StrEnum):
    """On which side of the effect."""

    BEFORE = "before"
    AFTER = "after"


class Action(StrEnum):
    """What happens there."""

    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP: the process is frozen, its leases end, and after SIGCONT it goes on with what it knew
    LOSE = "lose"  # the caller gets the error of a broken connection; before the effect there is then no effect


@dataclass(frozen=True, slots=True)
class Fault:
    """One action at one point, at the n-th call of its step."""

    step: Step
    position: Position
    action: Action
    nth: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """`step:position:action` or `step:position:action:n`. ValueError says what is unknown."""
        step, position, action, nth = [*text.split(":"), "1"][:4] if text.count(":") in {2, 3} else ["", "", "", ""]
        try:
            fault = cls(Step(step), Position(position), Action(action), int(nth))
        except ValueError:
            fault = None
        if fault is None or fault.nth < 1:
            known = " ".join(f"{kind.__name__.lower()}={'|'.join(kind)}" for kind in (Step, Position, Action))
            raise ValueError(f"unknown fault {text!r}: step:position:action or step:position:action:n, with {known}")
        return fault

    def __str__(self) -> str:
        return f"{self.step}:{self.position}:{self.action}:{self.nth}"


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults of a list with commas; none in an empty text."""
    return tuple(Fault.parse(each.strip()) for each in text.split(",")) if text.strip() else ()
