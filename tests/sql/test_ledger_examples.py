"""The statements of docs/ledger.md, run on a real PostgreSQL."""

import re
from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg
import pytest

from tests.postgres import REPOSITORY, PostgresServer
from tests.sql.test_ledger import Ledger, sale


@pytest.fixture
def ledger(ledger_uri: str) -> Ledger:
    return Ledger(ledger_uri)


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

    def test_the_outcomes_are_those_of_the_reference(self, old: Callable[[str], Ledger], ledger: Ledger) -> None:
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

    def test_its_policy_shows_users_only_their_own_sales(self, old: Callable[[str], Ledger]) -> None:
        ledger = old("Rights")
        ledger.commit_all(sale(1, user_id="ann"), sale(2, user_id="bob"))
        ledger.connection.execute("GRANT SELECT ON box_office TO ledger_reader")
        ledger.connection.execute("SET ROLE ledger_reader")
        ledger.connection.execute("SET intake.user_id = 'ann'")
        assert ledger.column("SELECT seat_no FROM box_office") == [1]
        ledger.connection.execute("RESET ROLE")

    def test_errors_of_the_bridge_role_are_not_logged(
        self, old: Callable[[str], Ledger], server: PostgresServer, ledger_migrated: str
    ) -> None:
        ledger = old("What its log gets to know")
        try:
            with psycopg.connect(server.uri(ledger_migrated, "ledger_writer"), autocommit=True) as bridge:
                for statement in ("SELECT 'telltale'::int", "SELECT 1 / 0 WHERE 'telltale' <> ''"):
                    with pytest.raises(psycopg.DataError):
                        bridge.execute(statement.encode())
        finally:
            ledger.connection.execute("ALTER ROLE ledger_writer RESET ALL")
        assert "telltale" not in server.log()


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
