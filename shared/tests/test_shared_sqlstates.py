"""What the SQLSTATE of a failed ledger statement speaks of."""

import pytest
from intake_shared.sqlstates import Subject, subject


@pytest.mark.parametrize(
    ("sqlstate", "speaks_of"),
    [
        (None, Subject.LEDGER),
        ("08006", Subject.LEDGER),
        ("25006", Subject.LEDGER),
        ("42883", Subject.LEDGER),
        ("57P01", Subject.LEDGER),
        ("57014", Subject.LOCK),
        ("40001", Subject.LOCK),
        ("55P03", Subject.LOCK),
        ("22P05", Subject.CLAIM),
        ("23505", Subject.CLAIM),
        ("P0001", Subject.CLAIM),
        ("", Subject.CLAIM),
    ],
)
def test_the_longest_prefix_decides_and_the_rest_is_the_claim_s(sqlstate: str | None, speaks_of: Subject) -> None:
    assert subject(sqlstate) is speaks_of
