"""May a dead letter be discarded? By target and state; a claim that may have been committed never is by itself."""

from dataclasses import replace

import pytest
from given import make_letter
from intake_operator.decide.discard import CHECKED, LedgerKind, answered, discard
from intake_operator.model.dead_letters import DeadLetter, Evidence, Refusal


def letter(state: str) -> DeadLetter:
    return replace(make_letter(), state=state)


@pytest.mark.parametrize(
    ("target", "state", "free"),
    [
        (LedgerKind.POSTGRES, "queued", True),
        (LedgerKind.POSTGRES, "validated", False),
        (LedgerKind.POSTGRES, "committing", False),
        (LedgerKind.WEBHOOK, "queued", True),
        (LedgerKind.WEBHOOK, "validated", True),
        (LedgerKind.WEBHOOK, "committing", False),
    ],
)
def test_a_target_without_void_claim_goes_by_the_mark_before_the_first_call(
    target: LedgerKind, state: str, *, free: bool
) -> None:
    by_itself = discard(letter(state), target, ledger_checked=False)
    assert isinstance(by_itself, Evidence if free else Refusal)
    checked = discard(letter(state), target, ledger_checked=True)
    assert isinstance(checked, Evidence)
    assert (checked.words == CHECKED) is not free, "nobody's word is taken for what needs none"


@pytest.mark.parametrize("state", ["queued", "validated", "committing"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_ledger_that_can_promise_is_always_asked(state: str, *, checked: bool) -> None:
    assert discard(letter(state), LedgerKind.VOIDS, ledger_checked=checked) is None


def test_only_voided_is_a_promise() -> None:
    assert isinstance(answered("voided"), Evidence)
    kept = {word: answered(word) for word in ("committed", "conflict", "duplicate", "", "VOIDED")}
    assert {word: each.reason for word, each in kept.items() if isinstance(each, Refusal)} == {
        "committed": "Committed",
        "conflict": "Conflict",
        "duplicate": "LedgerUnclear",
        "": "LedgerUnclear",
        "VOIDED": "LedgerUnclear",
    }
