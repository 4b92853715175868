"""The reference ledger, read: pages of whole claims, a proof by slot and by claim, and each user's own sales."""

from datetime import datetime
from uuid import UUID

import psycopg
import pytest

from tests.postgres import PostgresServer, install_ledger
from tests.sql.intake import POOL, Intake
from tests.sql.ledger import Ledger, sale, seat


def test_the_writer_reaches_the_ledger_by_its_functions_only(ledger: Ledger) -> None:
    for statement in (
        "SELECT FROM ledger.claims",
        "SELECT FROM ledger.sold_slots",
        "DELETE FROM ledger.claims",
        "SELECT nextval('ledger.order_numbers')",
        "SELECT ledger.commit_all('[]')",
        "SELECT ledger.outcome_of('{}')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ledger.connection.execute(statement.encode())


def test_a_user_sees_only_their_own_sale(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(sale(1, 1, 10, user_id="ann"), sale(2, user_id="ann"), sale(3, user_id="bob"))
    ledger.void(sale(4, user_id="ann"))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as back_end:
        back_end.execute("SET SESSION AUTHORIZATION ledger_reader")

        def seen_by(user: str) -> tuple[int, list[int]]:
            with back_end.transaction():
                back_end.execute("SELECT set_config('intake.user_id', %s, true)", (user,))
                slots = [slot for (slot,) in back_end.execute("SELECT slot_no FROM ledger.sold_slots ORDER BY 1")]
                mine = "SELECT slot_no FROM ledger.claims JOIN ledger.sold_slots USING (claim_id) ORDER BY 1"
                assert slots == [slot for (slot,) in back_end.execute(mine.encode())], "each has its claim"
                found = back_end.execute(
                    "SELECT count(*), count(*) FILTER (WHERE user_id = %s AND receipt ? 'order_no') FROM ledger.claims",
                    (user,),
                ).fetchone()
                assert found is not None
                assert found[0] == found[1], "voided claims, and those of others, are not shown"
                return found[0], slots

        everything = "SELECT claim_id FROM ledger.claims UNION ALL SELECT claim_id FROM ledger.sold_slots"
        assert back_end.execute(everything).fetchall() == [], "no user, no rows"
        assert (seen_by("ann"), seen_by("bob")) == ((2, [1, 2, 10]), (1, [3]))
        assert (seen_by("eve"), seen_by("")) == ((0, []), (0, []))
        assert back_end.execute(everything).fetchall() == [], "the next in this session is not the one before"
        for statement in (
            "DELETE FROM ledger.claims",
            "DELETE FROM ledger.sold_slots",
            "UPDATE ledger.claims SET user_id = 'eve'",
            "SELECT finalize_transaction('{}')",
            "SELECT ledger_claims('drop', NULL, 10)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                back_end.execute(statement.encode())


def test_the_ledger_is_read_page_by_page(ledger: Ledger) -> None:
    ledger.commit_all(*(sale(n, n, n + 10) for n in range(1, 6)), sale(6, pool_id="other"))
    ledger.void(sale(7))
    pages = []
    after = None
    while page := ledger.dicts("SELECT * FROM ledger_claims('drop', %s, 4)", after):
        pages.append([(row["slot_nos"], row["state"]) for row in page])
        after = page[-1]["claim_id"]
    assert pages == [[([n, n + 10], "committed") for n in range(1, 5)], [([5, 15], "committed"), ([], "voided")]]


def test_a_page_has_everything_about_a_claim(ledger: Ledger) -> None:
    ledger.commit(sale(1, 9, 4, 11, request_id="r1"))
    assert ledger.dicts("SELECT * FROM ledger_claims('drop', NULL, 4)") == [
        {
            "claim_id": UUID(sale(1)["claim_id"]),
            "state": "committed",
            "user_id": "u1",
            "request_id": "r1",
            "claimed_at": datetime.fromisoformat(sale(1)["claimed_at"]),
            "slot_nos": [4, 9, 11],
            "resource_ids": [UUID(seat(slot)["resource_id"]) for slot in (4, 9, 11)],
        }
    ]


def test_a_page_costs_what_is_on_it(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(*(sale(n, 2 * n, 2 * n + 1) for n in range(1, 3001)))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("ANALYZE ledger.claims, ledger.sold_slots")
    with psycopg.connect(server.uri(ledger_migrated)) as owner:  # what is counted is this one's alone
        owner.execute("SELECT count(*) FROM ledger_claims('drop', %s, 10)", (sale(1500)["claim_id"],))
        looked = "SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE schemaname = 'ledger'"
        counted = {name: (scans, rows) for name, scans, rows in owner.execute(looked)}
    assert counted == {"claims": (0, 10), "sold_slots": (0, 20)}


def test_a_redelivery_looks_at_its_own_claims_alone(ledger: Ledger) -> None:
    """Also in a session whose plans were made when the tables were small, and before the statistics are of today."""
    known, rival = sale(1, 1, 2), sale(9000, 2, 9000)
    ledger.commit(known)
    for _ in range(8):  # after five, PostgreSQL keeps a plan
        assert ledger.commit_all(known, rival) == ["duplicate", "conflict"]
    claims = [sale(n, 2 * n, 2 * n + 1) for n in range(2, 3002)]
    ledger.commit_all(*claims)
    scans = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'ledger' ORDER BY relname"
    with ledger.connection.transaction():
        assert ledger.commit_all(known, rival) == ["duplicate", "conflict"]
        assert ledger.commit_all(*claims[:40], rival) == ["duplicate"] * 40 + ["conflict"]
        assert ledger.rows(scans) == [("claims", 0), ("sold_slots", 0)]


def test_a_users_own_sales_are_found_by_index(ledger: Ledger, ledger_owner: psycopg.Connection) -> None:
    ledger.commit_all(*(sale(n) for n in range(1, 3001)))
    ledger_owner.execute("ANALYZE ledger.claims, ledger.sold_slots")
    ledger_owner.execute("SET SESSION AUTHORIZATION ledger_reader")
    ledger_owner.execute("SET intake.user_id = 'u7'")
    plan = "\n".join(line for (line,) in ledger_owner.execute("EXPLAIN SELECT slot_no FROM ledger.sold_slots"))
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252"])
def test_the_digest_is_the_same_in_every_encoding(server: PostgresServer, intake: Intake, encoding: str) -> None:
    """Claims of one slot and of three, as DB1 has them on its queue."""
    intake.open(20)
    for user in ("Zoë", "José", "straße 7", "plain", "a|b"):
        intake.claim_several(user, 3 if user < "a" else 1, user, {"name": user})
    messages = intake.read(5)
    claims = dict(intake.rows("SELECT message ->> 'claim_id', message FROM pgmq.q_intake_queue"))
    name = f"ledger_{encoding.lower()}"
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'".encode())
    install_ledger(server.uri(name))
    with Ledger(server.uri(name)) as ledger:
        assert ledger.value("SHOW server_encoding") == encoding
        for message in messages[:4]:
            assert ledger.commit(claims[str(message["claim_id"])]) == "committed"
        assert ledger.void(claims[str(messages[4]["claim_id"])]) == "voided"
        intake.acknowledge(messages[:4], "committed")
        intake.acknowledge(messages[4:], "voided")
        proof = intake.rows("SELECT committed, voided, slots, digest FROM intake.proof(%s)", POOL)
        assert ledger.rows("SELECT committed, voided, slots, digest FROM ledger_proof(%s)", POOL) == proof
        assert proof[0][:3] == (4, 1, 8)
        assert ledger.value("SELECT count(*) FROM ledger.claims WHERE payload ->> 'name' = user_id") == 4
    server.drop_database(name)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger.claims SET user_id = 'thief' WHERE user_id = 'u1'",
        "UPDATE ledger.claims SET user_id = 'thief' WHERE user_id = 'u3'",  # voided
        "UPDATE ledger.sold_slots SET slot_no = 99 WHERE slot_no = 1",
        "UPDATE ledger.sold_slots SET resource_id = gen_random_uuid() WHERE slot_no = 1",
        "UPDATE ledger.sold_slots SET slot_no = 3 - slot_no, resource_id = r FROM (SELECT 3 - slot_no n, resource_id r"
        " FROM ledger.sold_slots) o WHERE o.n = slot_no",
        # A claim gives a seat to another one.
        "UPDATE ledger.sold_slots SET claim_id = (SELECT claim_id FROM ledger.sold_slots WHERE slot_no = 2)"
        " WHERE slot_no = 4",
    ],
)
def test_the_digest_differs_where_counts_do_not(ledger: Ledger, ledger_owner: psycopg.Connection, change: str) -> None:
    ledger.commit_all(sale(1, 1, 4), sale(2))
    ledger.void(sale(3))
    before = ledger.rows("SELECT * FROM ledger_proof('drop')")[0]
    # Two slots are swapped: the key is checked row by row.
    ledger_owner.execute("ALTER TABLE ledger.sold_slots DROP CONSTRAINT sold_slots_pkey")
    ledger_owner.execute(change.encode())
    after = ledger.rows("SELECT * FROM ledger_proof('drop')")[0]
    ledger_owner.execute("TRUNCATE ledger.claims, ledger.sold_slots")
    ledger_owner.execute("ALTER TABLE ledger.sold_slots ADD PRIMARY KEY (pool_id, slot_no)")
    assert after[:3] == before[:3] == (2, 1, 3)
    assert after[3] != before[3]


def test_nothing_notifies(ledger_owner: psycopg.Connection) -> None:
    """A listener would make every commit wait for a lock that the whole server shares."""
    sources = ledger_owner.execute(
        "SELECT string_agg(p.prosrc, ' ') FROM pg_proc p"
        " WHERE p.pronamespace IN ('ledger'::regnamespace, 'public'::regnamespace)"
    ).fetchone()
    triggers = ledger_owner.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone()
    assert "notify" not in str(sources).lower()
    assert triggers == (0,)
