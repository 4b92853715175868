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
    PreflightReason,
    Problem,
    ScalingReason,
)

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUNBOOKS = DOCS / "runbooks.md"
COMMANDS = r"kubectl|helm|intake-admin|psql|db1|SELECT|ALTER|GRANT|DROP|ROLLBACK"

SINGLE = [
    IntakeReason.NEVER_OPENED,
    IntakeReason.NOT_READY,
    IntakeReason.WINDOW_PASSED,
    LedgerReadyReason.WEAKER,
    PoolReason.NOT_CHECKED,
    PoolReason.WAITING,
    PreflightReason.NOT_CHECKED,
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
        {
            *map(str, [*IntakeReason, *ScalingReason, *LedgerReadyReason, *DrainReason, *ConsistencyReason]),
            *map(str, [*PoolReason, *PreflightReason]),
        }
    ),
)
def test_the_concepts_name_every_other_reason(reason: str) -> None:
    assert f"`{reason}`" in (DOCS / "concepts.md").read_text(encoding="utf-8")


def test_a_message_that_a_runbook_quotes_is_one_of_ours() -> None:
    sources = [*ROOT.glob("*/src/**/*.py"), *ROOT.glob("sql/**/*.sql")]
    # Strings that go on in the next line are one.
    text = re.sub(r"""["']\s*\n\s*f?["']""", "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    quoted = {" ".join(quote.split()) for quote in re.findall(r"`([^`]+)`", RUNBOOKS.read_text(encoding="utf-8"))}
    messages = [
        quote for quote in quoted if re.fullmatch(r"[a-z0-9][a-z0-9]* (?!-)[\w, ]+ [\w, ]+", quote, re.IGNORECASE)
    ]
    messages = [quote for quote in messages if not re.match(COMMANDS, quote)]
    assert len(messages) > 5
    for message in messages:
        # Numbers and names of ours stand for what the message has in their place.
        for words in re.split(r" ?\b(?:\d+|\w+_\w+)\b ?", message):
            assert words in text, message
