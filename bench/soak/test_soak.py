"""The soak: its rules, and a short real run."""

from dataclasses import replace

import pytest

from bench.soak.report import Counts, Reading, Soak, checks, quarters, report
from bench.soak.run import soak

GOOD = Soak(
    seconds=40,
    rate=10,
    claims=400,
    readings=[Reading(float(n), 3, 50.0 if n > 9 else 30.0, 9.0, 8.0) for n in range(40)],
    violations=[],
    counts=Counts(400, (400, 0, 400, 7), (400, 0, 400, 7)),
)


def growing(mib: float) -> list[Reading]:
    return [replace(reading, bridge=50 + mib * reading.at / 40) for reading in GOOD.readings]


@pytest.mark.parametrize(
    ("soaked", "good"),
    [
        (GOOD, True),
        (replace(GOOD, readings=growing(4.0)), True),
        (replace(GOOD, readings=growing(10.0)), False),
        (replace(GOOD, readings=[*GOOD.readings, replace(GOOD.readings[0], depth=101)]), False),
        (replace(GOOD, violations=["I1: slot 7 is claimed twice"]), False),
        (replace(GOOD, claims=401), False),
        (replace(GOOD, counts=Counts(400, (400, 0, 400, 7), (399, 0, 399, 6))), False),
    ],
)
def test_a_soak_is_good_when_memory_is_flat_and_both_databases_agree(soaked: Soak, good: bool) -> None:
    assert all(each.good for each in checks(soaked)) is good
    assert ("**no**" in report(soaked)) is not good


def test_the_first_quarter_is_ignored() -> None:
    assert quarters([9, 9, 1, 1, 2, 2, 3, 3]) == (1, 3)
    assert quarters([5]) == (5, 5)


def test_a_short_soak_ends_with_both_databases_in_agreement() -> None:
    found = soak(5, 40)
    assert found.claims > 0
    assert found.violations == []
    assert found.counts.database == found.counts.ledger
    assert found.counts.database[0] == found.counts.claims == found.claims
    assert min(reading.bridge for reading in found.readings) > 1
    assert min(reading.database for reading in found.readings) > 0.1
