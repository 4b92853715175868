"""The statements of docs/ledger.md, run on a real PostgreSQL."""

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.postgres import REPOSITORY, PostgresServer
from tests.sql.ledger import Ledger, sale

PAID = {"payment_id": "pay_7", "score": 3}


class TestTheExamplesOfTheDocs:
    """docs/ledger.md, its statements run in their order on the old tables that it speaks of."""

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
            ledger.commit(sale(1, 1, 2, validation=PAID))
        for slots in ((2, 3), (3, 2), (1,)):
            with pytest.raises(psycopg.errors.UniqueViolation):
                ledger.commit(sale(2, *slots))
        ledger.commit(sale(3, 3))
        assert orders(ledger) == [("u1", "pay_7", "drop", [1, 2]), ("u3", None, "drop", [3])]

    @pytest.mark.parametrize("heading", ["Faster: the set form", "Proof: two functions to read"])
    def test_the_outcomes_are_those_of_the_reference(
        self, old: Callable[[str], Ledger], ledger: Ledger, heading: str
    ) -> None:
        fitted = old(heading)
        for each in (fitted, ledger):
            whole = sale(1, 1, 2, validation=PAID)
            assert [each.commit(whole), each.commit(sale(1, 2, 1)), each.void(whole)] == [
                "committed",
                "duplicate",
                "committed",
            ]
            assert [each.void(sale(2)), each.commit(sale(2)), each.void(sale(2))] == ["voided"] * 3
            assert [each.commit(sale(3, 4, 2)), each.void(sale(3, 4, 2))] == ["conflict", "voided"]
            for other in (sale(1, 1, 2, user_id="thief"), sale(1, 1), sale(1, 1, 2, 3), sale(1, 1, 4)):
                assert [each.commit(other), each.void(other)] == ["conflict"] * 2
            assert each.commit_all(sale(5, 4, 5), sale(4, 6), sale(6, 7, 5), whole, sale(2)) == [
                "committed",
                "committed",
                "conflict",
                "duplicate",
                "voided",
            ]
            with pytest.raises((psycopg.DataError, psycopg.IntegrityError)):
                each.commit(sale(9, seats=[]))
        assert orders(fitted) == [
            ("u1", "pay_7", "drop", [1, 2]),
            ("u4", None, "drop", [6]),
            ("u5", None, "drop", [4, 5]),
        ], "what was sold is in the old tables"
        if heading.startswith("Proof"):
            for query in ("SELECT * FROM ledger_proof('drop')", "SELECT * FROM ledger_claims('drop', NULL, 100)"):
                assert fitted.rows(query) == ledger.rows(query)

    def test_every_form_with_a_receipt_gives_the_order_number_back(self, old: Callable[[str], Ledger]) -> None:
        ledger = old("The receipt: the order number goes back to the buyer")
        ledger.commit_all(sale(1, 1, 2), sale(5, 4, 5))
        ledger.void(sale(2))
        numbers = dict(ledger.rows("SELECT customer, order_no FROM orders"))
        again = [ledger.commit_with_receipt(claim) for claim in (sale(1, 1, 2), sale(5, 4, 5), sale(2), sale(6, 7, 5))]
        told = [("duplicate", numbers["u1"]), ("duplicate", numbers["u5"]), ("voided", None), ("conflict", None)]
        assert [(outcome, receipt and receipt["order_no"]) for outcome, receipt in again] == told
        (new, known) = ledger.commit_all_with_receipts(sale(8, 8, 9, validation=PAID), sale(5, 4, 5))
        assert (known, new[0]) == (again[1], "committed")
        assert ledger.rows("SELECT customer, payment_id FROM orders WHERE order_no = %s", new[1]["order_no"]) == [
            ("u8", "pay_7")
        ]
        assert ledger.commit_with_receipt(sale(8, 8, 9)) == ("duplicate", new[1])

    def test_its_policy_shows_users_only_their_own_sales(self, old: Callable[[str], Ledger]) -> None:
        ledger = old("Rights")
        ledger.commit_all(sale(1, 1, 3, user_id="ann"), sale(2, user_id="bob"))
        ledger.connection.execute("GRANT SELECT ON orders, box_office TO ledger_reader")
        ledger.connection.execute("SET ROLE ledger_reader")
        ledger.connection.execute("SET intake.user_id = 'ann'")
        assert ledger.column("SELECT seat_no FROM box_office") == [1, 3]
        assert ledger.column("SELECT customer FROM orders") == ["ann"]
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


def orders(ledger: Ledger) -> list[tuple[str, str | None, str, list[int]]]:
    """The orders in the old tables: customer, payment, event and seats."""
    return ledger.rows(
        "SELECT customer, payment_id, event_code, array_agg(seat_no ORDER BY seat_no)"
        " FROM orders JOIN box_office USING (order_no) GROUP BY 1, 2, 3 ORDER BY 1"
    )


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
