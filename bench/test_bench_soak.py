"""The soak: its verdicts, and a short run of the real thing."""

from dataclasses import replace

import pytest

from bench.soak import soak
from bench.soak_report import Books, Look, Soak, quarters, report, verdicts

GOOD = Soak(
    seconds=40,
    rate=10,
    claims=400,
    looks=[Look(float(n), 3, 50.0 if n > 9 else 30.0, 9.0, 8.0) for n in range(40)],
    violations=[],
    books=Books(400, (400, 0, 400, 7), (400, 0, 400, 7)),
)


def growing(mib: float) -> list[Look]:
    return [replace(look, bridge=50 + mib * look.at / 40) for look in GOOD.looks]


@pytest.mark.parametrize(
    ("soaked", "good"),
    [
        (GOOD, True),
        (replace(GOOD, looks=growing(4.0)), True),
        (replace(GOOD, looks=growing(10.0)), False),
        (replace(GOOD, looks=[*GOOD.looks, replace(GOOD.looks[0], depth=101)]), False),
        (replace(GOOD, violations=["I1: slot 7 is held twice"]), False),
        (replace(GOOD, claims=401), False),
        (replace(GOOD, books=Books(400, (400, 0, 400, 7), (399, 0, 399, 6))), False),
    ],
)
def test_a_soak_is_good_when_memory_is_flat_and_the_books_agree(soaked: Soak, good: bool) -> None:
    assert all(each.good for each in verdicts(soaked)) is good
    assert ("**no**" in report(soaked)) is not good


def test_the_first_quarter_counts_for_nothing() -> None:
    assert quarters([9, 9, 1, 1, 2, 2, 3, 3]) == (1, 3)
    assert quarters([5]) == (5, 5)


def test_a_short_soak_ends_with_the_books_in_agreement() -> None:
    found = soak(5, 40)
    assert found.claims > 0
    assert found.violations == []
    assert found.books.intake == found.books.ledger
    assert found.books.intake[0] == found.books.claims == found.claims
    assert min(look.bridge for look in found.looks) > 1
    assert min(look.intake for look in found.looks) > 0.1
