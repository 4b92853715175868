"""The reference ledger: a claim's fate is decided once, and one bad row fails alone."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import REPOSITORY, PostgresServer
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


class TestTheExamplesOfTheDocs:
    """docs/ledger.md, its statements run in their order on the old table that it speaks of."""

    @pytest.fixture
    def old(self, server: PostgresServer) -> Iterator[Callable[[str], Ledger]]:
        """Runs the page up to and including a heading, as the ledger's owner."""
        uri = server.create_database("twenty_years_old")
        with Ledger(uri) as owner:

            def up_to(heading: str) -> Ledger:
                for title, statements in examples():
                    for statement in statements:
                        owner.connection.execute(statement.encode())
                    if title == heading:
                        return owner
                raise AssertionError(f"docs/ledger.md has no heading {heading!r}")

            yield up_to
        server.drop_database("twenty_years_old")

    def test_the_smallest_form_sells_once_and_no_seat_twice(self, old: Callable[[str], Ledger]) -> None:
        ledger = old("The smallest: one function that returns void")
        for _ in range(2):
            ledger.commit(sale(1))
        with pytest.raises(psycopg.errors.UniqueViolation):
            ledger.commit(sale(2, slot_no=1))
        assert ledger.rows("SELECT event_code, seat_no, customer FROM box_office") == [("drop", 1, "u1")]

    def test_the_fates_are_the_reference_s(self, old: Callable[[str], Ledger], ledger: Ledger) -> None:
        fitted = old("Proof: two functions to read")
        for each in (fitted, ledger):
            assert [each.commit(sale(1)), each.commit(sale(1)), each.void(sale(1))] == [
                "committed",
                "duplicate",
                "committed",
            ]
            assert [each.void(sale(2)), each.commit(sale(2))] == ["voided", "voided"]
            assert [each.commit(sale(3, slot_no=1)), each.void(sale(3, slot_no=1))] == ["conflict", "voided"]
            assert each.commit(sale(1, user_id="thief")) == "conflict"
            assert sorted(each.commit_all(sale(5), sale(4), sale(6, slot_no=5), sale(1), sale(2)).items()) == sorted(
                (UUID(sale(number)["claim_id"]), word)
                for number, word in [
                    (1, "duplicate"),
                    (2, "voided"),
                    (4, "committed"),
                    (5, "committed"),
                    (6, "conflict"),
                ]
            )
        for query in ("SELECT * FROM ledger_proof('drop')", "SELECT * FROM ledger_claims('drop', NULL, 100)"):
            assert fitted.rows(query) == ledger.rows(query)
        assert fitted.column("SELECT seat_no FROM box_office ORDER BY 1") == [1, 4, 5], (
            "what was sold is in the old table"
        )

    def test_its_policy_shows_a_customer_only_what_is_his(self, old: Callable[[str], Ledger]) -> None:
        ledger = old("Rights")
        ledger.commit_all(sale(1, user_id="ann"), sale(2, user_id="bob"))
        ledger.connection.execute("GRANT SELECT ON box_office TO ledger_reader")
        ledger.connection.execute("SET ROLE ledger_reader")
        ledger.connection.execute("SET intake.user_id = 'ann'")
        assert ledger.column("SELECT seat_no FROM box_office") == [1]
        ledger.connection.execute("RESET ROLE")


def examples() -> list[tuple[str, list[str]]]:
    """The statements under each heading of the second level: indented, beginning with a verb that changes something."""
    _, *sections = re.split(
        r"^## ", (REPOSITORY / "docs" / "ledger.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    found = []
    for section in sections:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, flags=re.MULTILINE)
        statements = [s for block in blocks for s in re.split(r"\n\n(?=    [A-Z])", block.strip("\n"))]
        found.append((title, [s for s in statements if re.match(r"\s+(CREATE|ALTER|DROP)\b", s)]))
    return found
