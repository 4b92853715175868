"""May this claim be given up? Only on evidence that nobody has committed it and that nobody will."""

from enum import Enum, auto

from intake_operator.model.dead_letters import DeadLetter, Evidence, Refusal


class Target(Enum):
    """What a commit target can promise."""

    VOIDS = auto()
    """A ledger with `void_claim`: its word decides."""
    POSTGRES = auto()
    """A ledger without it. A claim is marked `validated` before its first commit is tried."""
    WEBHOOK = auto()
    """Cannot be fenced. A claim is marked `committing` before the first call."""


CHECKED = "the target was checked by hand"


def discard(letter: DeadLetter, target: Target, *, target_checked: bool) -> Evidence | Refusal | None:
    """What follows without asking the ledger; None where the ledger is to be asked.

    The marks are fenced and durable before the call that they speak of, and a dead letter is in nobody's hands.
    """
    match target:
        case Target.VOIDS:
            return None
        case Target.POSTGRES:
            untouched, mark = letter.state == "queued", "validated"
        case Target.WEBHOOK:
            untouched, mark = letter.state != "committing", "committing"
    if untouched:
        return Evidence(f"never marked {mark}: no commit was tried")
    if target_checked:
        return Evidence(CHECKED)
    return Refusal(
        "MayBeCommitted",
        f"its state is {letter.state}: the target may hold this sale, and cannot promise never to. Look there; if it "
        "does not, discard again with targetChecked, otherwise replay",
    )


def answered(word: str) -> Evidence | Refusal:
    """What follows from the word of `void_claim`."""
    match word:
        case "voided":
            return Evidence("void_claim answered voided")
        case "committed":
            return Refusal("Committed", "the ledger has committed it: replay it, and it ends as committed")
        case "conflict":
            return Refusal(
                "Conflict", "the ledger has another sale under this claim_id: compare the rows, and mend it there"
            )
        case _:
            return Refusal("LedgerUnclear", f"void_claim answered {word[:100]!r}, which is no promise")
