"""What a pass looks at, and when a comparison with the ledger is due."""

from collections.abc import Callable
from datetime import timedelta

import given
import pytest
from given import OPENS, Given
from intake_operator import names
from intake_operator.decide import needs
from intake_operator.decide.steps import Compare
from intake_operator.model.spec import PostgresTarget, UriSecretRef
from planning import GOOD_PROOF, make_proof

ABANDONED = {names.ABANDON_ANNOTATION: "taylor-drop"}
OWN_ROWS = {"inventory": {"configMapRef": {"name": "seats"}}}


def needed(case: Given) -> set[str]:
    """What is looked at beyond the children."""
    answers = {
        "database": needs.database(case.event, case.observed, case.now),
        "audit": needs.audit(case.event, case.observed),
        "inputs": needs.inputs(case.event),
        "inventory": needs.inventory(case.event, case.observed, case.now),
        "pool": needs.pool(case.event, case.observed, case.now),
        "proof": needs.proof(case.event, case.observed, case.now),
    }
    return {name for name, is_needed in answers.items() if is_needed}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (given.new, {"database", "inputs", "pool"}),
        (lambda: given.new(spec=OWN_ROWS), {"database", "inputs", "inventory", "pool"}),
        (given.selling, {"database", "inputs"}),
        (lambda: given.selling(spec=OWN_ROWS), {"database", "inputs", "inventory"}),
        (lambda: given.selling(spec=OWN_ROWS).new_db1(error="away"), {"database", "inputs"}),
        (lambda: given.closed(spec=OWN_ROWS), {"database", "inputs"}),
        (lambda: given.closed().sealed(depth=1), {"database", "inputs"}),
        (lambda: given.closed().sealed(deadLetters=1), {"database", "inputs"}),
        (lambda: given.closed().sealed(), {"database", "inputs", "proof"}),
        (lambda: given.closed(annotations=ABANDONED).sealed(), {"database", "audit"}),
        (lambda: given.closed(annotations=ABANDONED).new_db1(error="away"), {"database"}),
        (given.finished, {"inputs"}),
        (given.invalid, set()),
    ],
    ids=[
        "a new event",
        "a new event with rows of its own",
        "a sale: its pool was checked",
        "a sale with rows of its own",
        "a DB1 that cannot be asked has its rows",
        "a drain takes no rows",
        "a queue",
        "dead letters",
        "drained",
        "abandoned",
        "abandoned, and DB1 cannot be asked",
        "finished",
        "invalid",
    ],
)
def test_nothing_is_looked_at_that_no_decision_needs(case: Callable[[], Given], expected: set[str]) -> None:
    assert needed(case()) == expected


def comparable() -> Given:
    """A sale whose queue is empty, with a settled claim, whose last comparison is old."""
    return given.selling().says(committed=1).seen(comparison_due=True)


def test_a_comparison_is_started_when_it_is_due_and_the_queue_is_empty() -> None:
    assert comparable().plan().all(Compare) == [Compare(PostgresTarget(secret_ref=UriSecretRef(name="core-ledger")))]


@pytest.mark.parametrize(
    "case",
    [
        lambda: comparable().seen(comparison_due=False),
        lambda: comparable().says(committed=1, queue={"depth": 1}),
        lambda: comparable().says(committed=1, ready=False),
        lambda: comparable().says(),
        lambda: comparable().seen(input_fingerprints={}),
        lambda: comparable().changed(annotations=ABANDONED, deleted_at=OPENS),
        lambda: given.selling(spec={"commitTarget": {"webhook": {"url": "https://c"}}}).says(committed=1),
    ],
    ids=["not due", "queued", "not ready", "no claim", "no Secret", "abandoned", "a webhook"],
)
def test_otherwise_no_comparison_is_started(case: Callable[[], Given]) -> None:
    assert not case().plan().all(Compare)


def test_the_proof_takes_the_place_of_a_comparison_unless_the_ledger_differs() -> None:
    drained = given.closed().says(sealed=True, windowState="closed", committed=8).seen(comparison_due=True)
    assert not drained.seen(proof=GOOD_PROOF).plan().all(Compare)
    assert drained.seen(proof=make_proof(committed=7)).plan().all(Compare) == []
    wrong = make_proof(given.LedgerAnswer.DIFFERS)
    assert len(drained.seen(proof=wrong).at(drained.now + timedelta(minutes=1)).plan().all(Compare)) == 1
