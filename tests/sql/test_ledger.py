"""The reference ledger: a claim's fate is decided once, and one bad row fails alone."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer
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


def test_a_user_sees_only_his_own_sale(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(sale(1, user_id="ann"), sale(2, user_id="ann"), sale(3, user_id="bob"))
    ledger.void(sale(4, user_id="ann"))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as back_end:
        back_end.execute("SET SESSION AUTHORIZATION ledger_reader")

        def seen_by(user: str) -> list[int]:
            with back_end.transaction():
                back_end.execute("SELECT set_config('intake.user_id', %s, true)", (user,))
                return [slot for (slot,) in back_end.execute("SELECT slot_no FROM ledger.sales ORDER BY 1")]

        everything = "SELECT slot_no FROM ledger.sales"
        assert back_end.execute(everything).fetchall() == [], "for nobody, nothing"
        assert (seen_by("ann"), seen_by("bob"), seen_by("eve"), seen_by("")) == ([1, 2], [3], [], [])
        assert back_end.execute(everything).fetchall() == [], "the next in this session is not the one before"
        for statement in (
            "DELETE FROM ledger.sales",
            "UPDATE ledger.sales SET user_id = 'eve'",
            "SELECT finalize_transaction('{}')",
            "SELECT ledger_claims('drop', NULL, 10)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                back_end.execute(statement.encode())


def test_the_ledger_is_read_page_by_page(ledger: Ledger) -> None:
    ledger.commit_all(*(sale(n) for n in range(1, 6)), sale(6, pool_id="other"))
    ledger.void(sale(7))
    pages = []
    after = None
    while page := ledger.dicts("SELECT * FROM ledger_claims('drop', %s, 4)", after):
        pages.append([(row["slot_no"], row["state"]) for row in page])
        after = page[-1]["claim_id"]
    assert pages == [[(n, "committed") for n in range(1, 5)], [(5, "committed"), (7, "voided")]]


def test_nothing_notifies(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    """A listener would make every commit wait for a lock that the whole server shares."""
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        sources = owner.execute(
            "SELECT string_agg(p.prosrc, ' ') FROM pg_proc p"
            " WHERE p.pronamespace IN ('ledger'::regnamespace, 'public'::regnamespace)"
        ).fetchone()
        triggers = owner.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone()
    assert "notify" not in str(sources).lower()
    assert triggers == (0,)
