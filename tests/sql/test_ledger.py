"""The reference ledger: a claim's fate is decided once, and one bad row fails alone."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.sql.intake import Intake


def sale(number: int, **other: Any) -> dict[str, Any]:
    return {
        "claim_id": f"01900000-0000-7000-8000-{number:012}",
        "pool_id": "drop",
        "user_id": f"u{number}",
        "slot_no": number,
        "resource_id": f"02900000-0000-8000-8000-{number:012}",
        "request_id": None,
        "claimed_at": "2026-12-01T18:00:00+00:00",
    } | other


@pytest.fixture
def ledger(ledger_uri: str) -> "Ledger":
    return Ledger(ledger_uri)


class Ledger(Intake):
    """The three calls of the contract."""

    def commit(self, payload: dict[str, Any]) -> str:
        return str(self.value("SELECT finalize_transaction(%s)", Jsonb(payload)))

    def void(self, payload: dict[str, Any]) -> str:
        return str(self.value("SELECT void_claim(%s)", Jsonb(payload)))

    def commit_all(self, *payloads: dict[str, Any]) -> dict[UUID, str]:
        rows = self.rows("SELECT claim_id, outcome FROM finalize_transactions(%s)", Jsonb(payloads))
        assert len(dict(rows)) == len(rows), "one outcome for each claim"
        return dict(rows)


def test_i3_the_first_word_on_a_claim_is_the_last(ledger: Ledger) -> None:
    assert [ledger.commit(sale(1)), ledger.commit(sale(1)), ledger.void(sale(1))] == [
        "committed",
        "duplicate",
        "committed",
    ]
    assert [ledger.void(sale(2)), ledger.void(sale(2)), ledger.commit(sale(2))] == ["voided", "voided", "voided"]


def test_i1_the_ledger_itself_refuses_a_slot_twice(ledger: Ledger) -> None:
    assert ledger.commit(sale(1)) == "committed"
    assert ledger.commit(sale(2, slot_no=1)) == "conflict"
    assert ledger.commit(sale(3, slot_no=1, pool_id="other")) == "committed"
    assert ledger.void(sale(4, slot_no=5)) == "voided"
    assert ledger.commit(sale(5, slot_no=5)) == "committed", "a voided claim leaves its slot to the next"


@pytest.mark.parametrize("field", ["pool_id", "user_id", "slot_no", "resource_id"])
def test_i4_a_known_claim_with_another_content_is_a_conflict(ledger: Ledger, field: str) -> None:
    ledger.commit(sale(1))
    other = {"pool_id": "x", "user_id": "x", "slot_no": 99, "resource_id": str(uuid4())}[field]
    assert ledger.commit(sale(1, **{field: other})) == "conflict"
    assert list(ledger.commit_all(sale(1, **{field: other})).values()) == ["conflict"]


def test_a_set_has_one_outcome_for_each_claim(ledger: Ledger) -> None:
    ledger.commit(sale(1))
    ledger.void(sale(2))
    assert list(ledger.commit_all(sale(1), sale(2), sale(3), sale(4, slot_no=3), sale(3)).values()) == [
        "duplicate",
        "voided",
        "committed",
        "conflict",
    ]
    assert ledger.commit_all() == {}


@pytest.mark.parametrize("field", ["pool_id", "user_id", "slot_no", "resource_id"])
@pytest.mark.parametrize("rubbish", [None, {"a": 1}])
def test_a_bad_row_fails_alone(ledger: Ledger, field: str, rubbish: object) -> None:
    bad = sale(2, **{field: rubbish})
    expected = "committed" if rubbish and field in {"pool_id", "user_id"} else "conflict"
    assert list(ledger.commit_all(sale(1), bad, sale(3)).values()) == ["committed", expected, "committed"]


def test_a_row_without_a_claim_id_has_no_outcome_and_harms_nobody(ledger: Ledger) -> None:
    assert list(ledger.commit_all(sale(1), sale(2, claim_id="x"), sale(3)).values()) == ["committed", "committed"]


def test_the_writer_reaches_the_ledger_by_its_functions_only(ledger: Ledger) -> None:
    for statement in ("SELECT FROM ledger.sales", "DELETE FROM ledger.sales", "SELECT ledger.record_once('{}', 'x')"):
        with pytest.raises(Exception, match="permission denied"):
            ledger.connection.execute(statement.encode())
