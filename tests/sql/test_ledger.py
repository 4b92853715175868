"""The reference ledger: the outcome of a claim is decided once, and one bad row fails alone."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer, install_ledger
from tests.sql.intake import POOL, Intake


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


def test_i3_the_first_outcome_of_a_claim_is_final(ledger: Ledger) -> None:
    assert [ledger.commit(sale(1)), ledger.commit(sale(1)), ledger.void(sale(1))] == [
        "committed",
        "duplicate",
        "committed",
    ]
    assert [ledger.void(sale(2)), ledger.void(sale(2)), ledger.commit(sale(2))] == ["voided", "voided", "voided"]


def test_a_claim_for_a_sold_slot_leaves_nothing_behind(ledger: Ledger) -> None:
    ledger.commit_all(sale(1), sale(2))
    assert ledger.commit(sale(3, slot_no=1)) == "conflict"
    assert list(ledger.commit_all(sale(4, slot_no=2), sale(5)).values()) == ["conflict", "committed"]
    assert ledger.rows("SELECT committed, voided, slots FROM ledger_proof('drop')") == [(3, 0, 3)]
    assert ledger.column("SELECT user_id FROM ledger_claims('drop', NULL, 100)") == ["u1", "u2", "u5"]
    # Its fate is open: it may be voided, or committed once the other is gone.
    assert ledger.void(sale(3, slot_no=1)) == "voided"
    assert ledger.commit(sale(3, slot_no=1)) == "voided"


def test_a_claim_twice_in_a_set_sells_one_slot(ledger: Ledger) -> None:
    ledger.commit_all(sale(1), sale(1, slot_no=9))
    assert ledger.rows("SELECT committed, slots FROM ledger_proof('drop')") == [(1, 1)]


def test_sets_that_meet_wait_for_each_other(ledger: Ledger, ledger_uri: str) -> None:
    """Two bridges with the same claims, in opposite orders, and some that want each other's slots."""
    sales = [sale(n) for n in range(1, 400)]
    rivals = [sale(1000 - n, slot_no=n, user_id=f"rival {n}") for n in range(1, 400)]

    def commit(payloads: list[dict[str, Any]]) -> Counter[str]:
        with Ledger(ledger_uri) as other:
            return Counter(other.commit_all(*payloads).values())

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(commit, [sales, sales[::-1], rivals, rivals[::-1]]))
    assert all(set(words) <= {"committed", "duplicate", "conflict"} for words in told), told
    assert sum(words["committed"] for words in told) == 399
    assert ledger.rows("SELECT committed, slots FROM ledger_proof('drop')") == [(399, 399)]


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


@pytest.mark.parametrize("sales", [1, 3])
def test_where_no_row_can_be_written_the_error_says_why(
    ledger: Ledger, server: PostgresServer, ledger_migrated: str, sales: int
) -> None:
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("ALTER TABLE ledger.claims ADD CONSTRAINT closed CHECK (user_id = 'u9') NOT VALID")
        with pytest.raises(psycopg.errors.CheckViolation, match='"closed"'):
            ledger.commit_all(*map(sale, range(1, sales + 1)))
        # If one row can be written, the others are conflicts.
        words = list(ledger.commit_all(sale(1), sale(9)).values())
        owner.execute("ALTER TABLE ledger.claims DROP CONSTRAINT closed")
        assert words == ["conflict", "committed"]


def test_a_row_without_a_claim_id_has_no_outcome_and_harms_nobody(ledger: Ledger) -> None:
    assert list(ledger.commit_all(sale(1), sale(2, claim_id="x"), sale(3)).values()) == ["committed", "committed"]


def test_the_writer_reaches_the_ledger_by_its_functions_only(ledger: Ledger) -> None:
    for statement in (
        "SELECT FROM ledger.claims",
        "SELECT FROM ledger.sold_slots",
        "DELETE FROM ledger.claims",
        "SELECT ledger.commit_all('[]')",
    ):
        with pytest.raises(Exception, match="permission denied"):
            ledger.connection.execute(statement.encode())


def test_a_user_sees_only_their_own_sale(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(sale(1, user_id="ann"), sale(2, user_id="ann"), sale(3, user_id="bob"))
    ledger.void(sale(4, user_id="ann"))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as back_end:
        back_end.execute("SET SESSION AUTHORIZATION ledger_reader")

        def seen_by(user: str) -> list[int]:
            with back_end.transaction():
                back_end.execute("SELECT set_config('intake.user_id', %s, true)", (user,))
                slots = [slot for (slot,) in back_end.execute("SELECT slot_no FROM ledger.sold_slots ORDER BY 1")]
                mine = "SELECT slot_no FROM ledger.claims JOIN ledger.sold_slots USING (claim_id) ORDER BY 1"
                assert slots == [slot for (slot,) in back_end.execute(mine.encode())], "each has its claim"
                found = back_end.execute(
                    "SELECT count(*), count(*) FILTER (WHERE user_id = %s) FROM ledger.claims", (user,)
                )
                assert found.fetchone() == (len(slots), len(slots)), "voided claims are not shown"
                return slots

        everything = "SELECT claim_id FROM ledger.claims UNION ALL SELECT claim_id FROM ledger.sold_slots"
        assert back_end.execute(everything).fetchall() == [], "no user, no rows"
        assert (seen_by("ann"), seen_by("bob"), seen_by("eve"), seen_by("")) == ([1, 2], [3], [], [])
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
    ledger.commit_all(*(sale(n) for n in range(1, 6)), sale(6, pool_id="other"))
    ledger.void(sale(7))
    pages = []
    after = None
    while page := ledger.dicts("SELECT * FROM ledger_claims('drop', %s, 4)", after):
        pages.append([(row["slot_nos"], row["state"]) for row in page])
        after = page[-1]["claim_id"]
    assert pages == [[([n], "committed") for n in range(1, 5)], [([5], "committed"), ([], "voided")]]


def test_a_page_has_everything_about_a_claim(ledger: Ledger) -> None:
    ledger.commit(sale(1, request_id="r1"))
    assert ledger.dicts("SELECT * FROM ledger_claims('drop', NULL, 4)") == [
        {
            "claim_id": UUID(sale(1)["claim_id"]),
            "state": "committed",
            "user_id": "u1",
            "request_id": "r1",
            "claimed_at": datetime.fromisoformat(sale(1)["claimed_at"]),
            "slot_nos": [1],
            "resource_ids": [UUID(sale(1)["resource_id"])],
        }
    ]


def test_a_page_splits_no_claim(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    """Claims of several slots too: nothing sells them yet, and readers are ready for them."""
    ledger.commit_all(sale(1), sale(2))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("UPDATE ledger.sold_slots SET slot_no = 9 WHERE slot_no = 1")
        owner.execute(
            "INSERT INTO ledger.sold_slots SELECT 'drop', n, %s, gen_random_uuid() FROM unnest('{4,11}'::int[]) n",
            (sale(1)["claim_id"],),
        )
    page = ledger.dicts("SELECT * FROM ledger_claims('drop', NULL, 1)")
    assert [(row["claim_id"], row["slot_nos"]) for row in page] == [(UUID(sale(1)["claim_id"]), [4, 9, 11])]
    assert len(page[0]["resource_ids"]) == 3
    assert ledger.rows("SELECT committed, slots FROM ledger_proof('drop')") == [(2, 4)]


def test_a_page_costs_what_is_on_it(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(*(sale(n) for n in range(1, 3001)))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("ANALYZE ledger.claims, ledger.sold_slots")
    with psycopg.connect(server.uri(ledger_migrated)) as owner:  # what is counted is this one's alone
        owner.execute("SELECT count(*) FROM ledger_claims('drop', %s, 10)", (sale(1500)["claim_id"],))
        looked = "SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE schemaname = 'ledger'"
        counted = {name: (scans, rows) for name, scans, rows in owner.execute(looked)}
    assert counted == {"claims": (0, 10), "sold_slots": (0, 10)}


def test_a_users_own_sales_are_found_by_index(ledger: Ledger, server: PostgresServer, ledger_migrated: str) -> None:
    ledger.commit_all(*(sale(n) for n in range(1, 3001)))
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("ANALYZE ledger.claims, ledger.sold_slots")
        owner.execute("SET SESSION AUTHORIZATION ledger_reader")
        owner.execute("SET intake.user_id = 'u7'")
        plan = "\n".join(line for (line,) in owner.execute("EXPLAIN SELECT slot_no FROM ledger.sold_slots"))
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252"])
def test_the_digest_is_the_same_in_every_encoding(server: PostgresServer, intake: Intake, encoding: str) -> None:
    intake.open(10)
    for user in ("Zoë", "José", "straße 7", "plain", "a|b"):
        intake.claim(user, user)
    messages = intake.read(5)
    payloads = dict(intake.rows("SELECT message ->> 'claim_id', message FROM pgmq.q_intake_queue"))
    name = f"ledger_{encoding.lower()}"
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'".encode())
    install_ledger(server.uri(name))
    with Ledger(server.uri(name)) as ledger:
        assert ledger.value("SHOW server_encoding") == encoding
        for message in messages[:4]:
            assert ledger.commit(payloads[str(message["claim_id"])]) == "committed"
        assert ledger.void(payloads[str(messages[4]["claim_id"])]) == "voided"
        intake.acknowledge(messages[:4], "committed")
        intake.acknowledge(messages[4:], "voided")
        proof = intake.rows("SELECT committed, voided, slots, digest FROM intake.proof(%s)", POOL)
        assert ledger.rows("SELECT committed, voided, slots, digest FROM ledger_proof(%s)", POOL) == proof
        assert proof[0][:3] == (4, 1, 4)
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
    ],
)
def test_the_digest_differs_where_counts_do_not(
    ledger: Ledger, server: PostgresServer, ledger_migrated: str, change: str
) -> None:
    ledger.commit_all(sale(1), sale(2))
    ledger.void(sale(3))
    before = ledger.rows("SELECT * FROM ledger_proof('drop')")[0]
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        # The two swap their slots: the key is checked row by row.
        owner.execute("ALTER TABLE ledger.sold_slots DROP CONSTRAINT sold_slots_pkey")
        owner.execute(change.encode())
        after = ledger.rows("SELECT * FROM ledger_proof('drop')")[0]
        owner.execute("TRUNCATE ledger.claims, ledger.sold_slots")
        owner.execute("ALTER TABLE ledger.sold_slots ADD PRIMARY KEY (pool_id, slot_no)")
    assert after[:3] == before[:3] == (2, 1, 2)
    assert after[3] != before[3]


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
