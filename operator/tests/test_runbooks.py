"""Every reason that a user can meet has a runbook under a heading of exactly its name."""

import re
from pathlib import Path

import pytest
from intake_operator.reasons import Consistency, Contract, Drain, Intake, Problem

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks.md"

SINGLE = [Intake.NOT_READY, Intake.WINDOW_PASSED, Contract.WEAKER]
# LedgerInconsistent is a reason of two conditions.
REASONS = sorted({*map(str, [*Problem, *Drain, *Consistency, *SINGLE])})


def sections() -> dict[str, str]:
    """The text under each heading of the second level."""
    _, *parts = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_has_a_runbook(reason: str) -> None:
    assert sections().get(reason), f"docs/runbooks.md has nothing under '## {reason}'"


def test_a_runbook_has_a_reason() -> None:
    assert sorted(sections()) == sorted(REASONS)
