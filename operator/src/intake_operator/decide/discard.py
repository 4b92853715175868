"""Whether a dead letter may be discarded: only with evidence that its claim is not committed and never will be."""

from enum import Enum, auto

from intake_operator.model.dead_letters import DeadLetter, Evidence, Refusal


class LedgerKind(Enum):
    """What a ledger can promise about a claim."""

    VOIDS = auto()
    """It has `void_claim`, whose answer decides."""
    POSTGRES = auto()
    """A Postgres without `void_claim`. A claim is marked `validated` before its first commit is tried."""
    WEBHOOK = auto()
    """A call cannot be taken back. A claim is marked `committing` before its first call."""


CHECKED = "the ledger was checked by hand"


def discard(letter: DeadLetter, kind: LedgerKind, *, ledger_checked: bool) -> Evidence | Refusal | None:
    """What follows from the claim's state; None if the ledger has to be asked.

    A claim is marked, durably and under its lease, before the call that the mark is about. No worker has a lease on a
    dead letter.
    """
    match kind:
        case LedgerKind.VOIDS:
            return None
        case LedgerKind.POSTGRES:
            untouched, mark = letter.state == "queued", "validated"
        case LedgerKind.WEBHOOK:
            untouched, mark = letter.state != "committing", "committing"
    if untouched:
        return Evidence(f"never marked {mark}: no commit was tried")
    if ledger_checked:
        return Evidence(CHECKED)
    return Refusal(
        "MayBeCommitted",
        f"its state is {letter.state}: the ledger may have this sale, and cannot promise that it never will. Look "
        "there; if it does not have the sale, discard again with ledgerChecked, otherwise replay",
    )


def answered(answer: str) -> Evidence | Refusal:
    """What follows from the answer of `void_claim`."""
    match answer:
        case "voided":
            return Evidence("void_claim answered voided")
        case "committed":
            return Refusal("Committed", "the ledger has committed it: replay it, and it ends as committed")
        case "conflict":
            return Refusal(
                "Conflict", "the ledger has another sale under this claim_id: compare the rows, and correct the ledger"
            )
        case _:
            return Refusal("LedgerUnclear", f"void_claim answered {answer[:100]!r}, which promises nothing")
