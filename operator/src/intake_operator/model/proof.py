"""The proof at the end of a drain: where every claim ended, in DB1 and in the ledger."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class LedgerAnswer(StrEnum):
    """What the ledger answers to the question whether it has the same claims as DB1.

    The values are texts for people, in `status.report.ledgerVerified`. They are read back from there: an event's
    report outlives this version of the operator, so a value must not change.
    """

    AGREES = "the ledger agrees"
    NO_PROOF = "the ledger offers no proof"
    """It has no `ledger_proof`: DB1's own counts alone decide."""
    NOT_ASKED = "the ledger cannot be asked"
    DIFFERS = "the ledger differs"

    @property
    def accepted(self) -> bool:
        """Whether the proof may rest on it."""
        return self in _ACCEPTED


_ACCEPTED: Final = frozenset({LedgerAnswer.AGREES, LedgerAnswer.NO_PROOF})


@dataclass(frozen=True)
class Account:
    """What one side, DB1 or the ledger, has of a pool: the columns of `ledger_proof` (docs/ledger.md)."""

    committed: int
    """Claims."""
    voided: int
    """Claims."""
    slots: int
    """Slots that are sold: all those of the committed claims."""
    digest: int
    """Over one text for each sold slot and each voided claim, in no order."""


@dataclass(frozen=True)
class DatabaseAccount:
    """Where every claim of a sealed pool is: `intake.proof` and `intake.reconcile`. Counts are claims, not slots."""

    claims: int
    released: int
    expired: int
    """Holds that were not confirmed in time."""
    held: int
    """Holds that may still be confirmed."""
    queued: int
    dead_letters: int
    ended: Account
    """What the ledger must have, too."""
    violations: tuple[str, ...]
    """The first broken invariants; empty in a sound database."""


@dataclass(frozen=True)
class Proof:
    """The account of a sealed database, and the ledger's answer to it."""

    account: DatabaseAccount
    ledger: LedgerAnswer
    ledger_detail: str = ""
    """A sentence: what differs, or why the ledger cannot be asked."""
    audit: tuple[str, ...] = ()
    """What people did by hand, for the report."""

    @property
    def ledger_message(self) -> str:
        """The ledger's answer as a sentence."""
        return self.ledger_detail or self.ledger.value

    @property
    def failures(self) -> tuple[str, ...]:
        """Why this is not a proof; empty when it is one."""
        account, ended = self.account, self.account.ended
        found = list(account.violations)
        if account.held or account.queued or account.dead_letters:
            unsettled = f"{account.held} claims are still held, {account.queued} queued"
            found.append(f"{unsettled} and {account.dead_letters} are dead letters")
        if account.claims != ended.committed + ended.voided + account.released + account.expired:
            ends = f"{ended.committed} committed, {ended.voided} voided, {account.released} released"
            found.append(f"{account.claims} claims but {ends} and {account.expired} expired")
        if not self.ledger.accepted:
            found.append(self.ledger_message)
        return tuple(found)
