"""Every reason that a user can meet has a runbook under a heading of exactly its name."""

import re
from pathlib import Path

import pytest
from intake_operator.reasons import (
    ConsistencyReason,
    DrainReason,
    IntakeReason,
    LedgerReadyReason,
    PoolReason,
    Problem,
    ScalingReason,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNBOOKS = DOCS / "runbooks.md"

SINGLE = [
    IntakeReason.NOT_READY,
    IntakeReason.WINDOW_PASSED,
    LedgerReadyReason.WEAKER,
    PoolReason.NOT_CHECKED,
    PoolReason.WAITING,
]
# LedgerInconsistent is a reason of two conditions.
REASONS = sorted({*map(str, [*Problem, *DrainReason, *ConsistencyReason, *SINGLE])})


def sections() -> dict[str, str]:
    """The text under each heading of the second level."""
    _, *parts = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_has_a_runbook(reason: str) -> None:
    assert sections().get(reason), f"docs/runbooks.md has nothing under '## {reason}'"


def test_a_runbook_has_a_reason() -> None:
    assert sorted(sections()) == sorted(REASONS)


def test_the_concepts_name_every_problem_in_its_order() -> None:
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    _, _, listed = concepts.partition("\nDegraded, the most fundamental first: ")
    assert re.findall(r"`(\w+)`", listed.partition("\n\n")[0]) == [*map(str, Problem)]


@pytest.mark.parametrize(
    "reason",
    sorted(
        {*map(str, [*IntakeReason, *ScalingReason, *LedgerReadyReason, *DrainReason, *ConsistencyReason, *PoolReason])}
    ),
)
def test_the_concepts_name_every_other_reason(reason: str) -> None:
    assert f"`{reason}`" in (DOCS / "concepts.md").read_text(encoding="utf-8")
