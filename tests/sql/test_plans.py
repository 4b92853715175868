"""The plans of the hot statements, as the functions really run them: by index, whatever the statistics say."""

import re
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer
from tests.sql.intake import POOL, Answer, Intake, Request

HOT = (
    "claimed_slots",
    "holds",
    "q_intake_dlq",
    "free_numbers",
    "q_intake_queue",
    "a_intake_queue",
    "a_intake_dlq",
    "slots",
    "inventory",
    "releases",
)


@pytest.fixture
def planned(intake: Intake) -> "Planned":
    return Planned(intake)


class Planned:
    """A connection that records the plans it runs after watch()."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.plans: list[str] = []
        intake.connection.execute("LOAD 'auto_explain'")

    def watch(self) -> None:
        """From here on, record. The session keeps the plans that it has made before."""
        settings = {"log_nested_statements": "on", "log_level": "notice", "log_analyze": "on", "log_timing": "off"}
        for setting, value in (settings | {"log_min_duration": "0"}).items():
            self.intake.value("SELECT set_config(%s, %s, false)", f"auto_explain.{setting}", value)
        self.intake.connection.add_notice_handler(lambda notice: self.plans.append(notice.message_primary or ""))

    def scans(self) -> list[str]:
        """The scans of our tables that were executed since the last call, as `how table`."""
        text = "\n".join(self.plans)
        self.plans.clear()
        found = re.findall(
            r"((?:Seq|Bitmap Heap|Index Only|Index) Scan)(?: Backward)?(?: using (\w+))? on (\w+)[^\n]*"
            r"\(actual rows=[\d.]+ loops=\d+\)",
            text,
        )
        return [f"{index or how} on {table}" for how, index, table in found if table in HOT]

    def whole_tables(self) -> list[str]:
        """Those of the scans that read a table with many rows from end to end."""
        return [scan for scan in self.scans() if "Seq Scan" in scan and scan.endswith(ENOUGH)]


def fill(intake: Intake, claims: int, **settings: object) -> None:
    intake.open(claims * 2, **settings)
    for n in range(claims):
        intake.claim(f"u{n}", f"r{n}")


@pytest.mark.parametrize("statistics", ["never", "now"])
@pytest.mark.parametrize("limit", [None, 1, 5])
def test_a_claim_reads_by_index_only(planned: Planned, statistics: str, limit: int | None) -> None:
    fill(planned.intake, 600, claimsPerUser=limit)
    if statistics == "now":
        planned.intake.connection.execute("VACUUM ANALYZE intake.claimed_slots")
    planned.watch()
    for user, request in (("new", "new"), ("u1", "r1"), ("u1", "other"), ("anonymous", None)):
        planned.intake.claim(user, request)
        scans = planned.scans()
        by_key = {"claimed_slots_unique_key on claimed_slots", "claimed_slots_pkey on claimed_slots"}
        assert {scan for scan in scans if "claimed_slots" in scan} <= by_key, (user, request, scans)
        assert [scan for scan in scans if "Seq Scan" in scan or scan.endswith(" slots")] == [], (user, request, scans)


@pytest.mark.parametrize("settings", [{}, {"holdSeconds": 600}])
def test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one(planned: Planned, settings: dict[str, object]) -> None:
    # The session that serves the first claim keeps its plans while the pool fills.
    planned.intake.connection.execute("VACUUM ANALYZE intake.holds")
    fill(planned.intake, 600, claimsPerUser=1, **settings)
    planned.watch()
    planned.intake.claim("late", "late")
    scans = planned.scans()
    assert "claimed_slots_unique_key on claimed_slots" in scans
    assert [scan for scan in scans if "Seq Scan" in scan] == []


def test_a_sold_out_answer_costs_a_few_probes(planned: Planned) -> None:
    planned.intake.open(600, claimsPerUser=1)
    for n in range(601):
        planned.intake.claim(f"u{n}", f"r{n}")
    planned.watch()
    assert planned.intake.claim("late", "late").outcome == "sold_out"
    scans = planned.scans()
    assert len(scans) <= 3, scans
    assert [scan for scan in scans if "Seq Scan on claimed_slots" in scan] == []


def test_reading_and_acknowledging_a_batch_goes_by_key(planned: Planned) -> None:
    fill(planned.intake, 20)
    planned.intake.connection.execute(
        "INSERT INTO pgmq.q_intake_queue (vt, message) SELECT clock_timestamp(), m.message"
        " FROM pgmq.q_intake_queue m, generate_series(1, 2500)"
    )
    planned.intake.connection.execute("VACUUM ANALYZE pgmq.q_intake_queue")
    planned.watch()
    messages = planned.intake.read(20)
    read = planned.scans()
    planned.intake.change("mark_validated", messages)
    marked = planned.scans()
    planned.intake.acknowledge(messages, "committed")
    acknowledged = planned.scans()
    by_key = "q_intake_queue_pkey on q_intake_queue"
    assert {scan for scan in read if "queue" in scan} == {"q_intake_queue_vt_idx on q_intake_queue", by_key}
    for scans in (marked, acknowledged):
        assert {scan for scan in scans if "queue" in scan} == {by_key}
    assert "claimed_slots_pkey on claimed_slots" in acknowledged
    assert planned.intake.value("SELECT count(*) FROM pgmq.a_intake_queue") == 20


@pytest.mark.parametrize(
    "function", ["mark_validated", "mark_committing", "extend", "give_back", "dead_letter", "acknowledge"]
)
def test_a_large_batch_of_a_short_queue_is_not_compared_with_all_that_is_in_flight(
    planned: Planned, function: str
) -> None:
    planned.intake.open(6000)
    for thousand in range(6):
        planned.intake.claim_batch([(f"u{thousand * 1000 + n}", None) for n in range(1000)])
    planned.intake.connection.execute("VACUUM ANALYZE")
    messages = planned.intake.read(3000)[:500]
    planned.watch()
    arrays: dict[str, list[list[object]]] = {
        "give_back": [[0.0] * 500, [None] * 500],
        "dead_letter": [["why"] * 500],
        "acknowledge": [["committed"] * 500],
    }
    planned.intake.change(function, messages, *arrays.get(function, []))
    assert "Rows Removed by Join Filter" not in "\n".join(planned.plans)
    assert {scan for scan in planned.scans() if scan.endswith("q_intake_queue")} == {
        "q_intake_queue_pkey on q_intake_queue"
    }


@pytest.mark.parametrize("statistics", ["never", "now"])
def test_a_read_visits_only_the_messages_that_it_leases(planned: Planned, statistics: str) -> None:
    fill(planned.intake, 2000)
    assert len(planned.intake.read(1500)) == 1500
    if statistics == "now":
        planned.intake.connection.execute("VACUUM ANALYZE pgmq.q_intake_queue")
    planned.watch()
    assert len(planned.intake.read(20)) == 20
    (plan,) = (plan for plan in planned.plans if "LockRows" in plan)
    visited = re.findall(r"using q_intake_queue_vt_idx on q_intake_queue[^\n]*actual rows=([\d.]+)", plan)
    assert [float(rows) for rows in visited] == [20]
    assert "Rows Removed" not in plan, plan


def test_a_claim_of_a_user_with_many_claims_does_not_read_them(planned: Planned) -> None:
    planned.intake.open(2000)
    for n in range(1000):
        planned.intake.claim("house", f"r{n}")
    planned.watch()
    planned.intake.claim("house", "new")
    rows = [int(n) for n in re.findall(r"claimed_slots_unique_key[^\n]*actual rows=(\d+)", "\n".join(planned.plans))]
    assert rows == [0], f"the probe for {POOL}'s request looked at {rows} claims"


BIG = 15_000
ENOUGH = ("q_intake_queue", "a_intake_queue", "claimed_slots", " slots", "holds")


def large(intake: Intake, statistics: str) -> list[Answer]:
    """A pool in mid-sale: thousands queued, leased, archived, committed, voided and released."""
    intake.configure(3 * BIG, ownResources=True, claimsPerUser=4)
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, %s) n", 3 * BIG)
    intake.stock(1, [(resource, label) for resource, label in rows])
    intake.seed()
    if statistics == "of the empty tables":
        intake.connection.execute("ANALYZE")
    answers: list[Answer] = []
    for n in range(0, 2 * BIG, 1000):
        if n == BIG and statistics == "while they filled":
            intake.connection.execute("VACUUM ANALYZE")  # as autovacuum does, once a minute
        answers += intake.claim_batch([(f"u{n + k}", f"r{n + k}") for k in range(1000)])
    messages = intake.read(10_000) + intake.read(BIG - 10_000)
    intake.acknowledge(messages[: BIG // 2], "committed")
    intake.acknowledge(messages[BIG // 2 :], "voided")
    if statistics == "of the full tables":
        intake.connection.execute("VACUUM ANALYZE")
    return answers


@pytest.mark.parametrize(
    "statistics", ["never gathered", "of the empty tables", "while they filled", "of the full tables"]
)
def test_no_hot_statement_reads_a_table_from_end_to_end(planned: Planned, statistics: str) -> None:
    answers = large(planned.intake, statistics)
    committed, voided, queued = answers[0], answers[BIG - 1], answers[-1]
    assert scanned_tables(planned, "force_generic_plan", [committed, voided, queued]) == {}
    committed, voided, queued = answers[1], answers[BIG - 2], answers[-2]
    assert scanned_tables(planned, "force_custom_plan", [committed, voided, queued]) == {}


@pytest.mark.parametrize("statistics", ["never", "now"])
def test_a_status_reads_only_the_ends_of_the_queue(planned: Planned, statistics: str) -> None:
    fill(planned.intake, 600)
    planned.intake.read(5)
    if statistics == "now":
        planned.intake.connection.execute("VACUUM ANALYZE")
    planned.watch()
    assert planned.intake.status()["queue"]["depth"] == 600
    scans = planned.scans()
    # Which index scan it is depends on what the tables were before; never is the queue or the archive read to its end.
    assert {"Seq Scan on claimed_slots", "Bitmap Heap Scan on claimed_slots"} & set(scans)
    queue = {"q_intake_queue_pkey", "q_intake_queue_vt_idx", "Bitmap Heap Scan"}
    assert {scan for scan in scans if scan.endswith("q_intake_queue")} <= {f"{how} on q_intake_queue" for how in queue}
    archive = {"a_intake_queue_void", "Bitmap Heap Scan"}
    assert {scan for scan in scans if scan.endswith("a_intake_queue")} <= {
        f"{how} on a_intake_queue" for how in archive
    }


def scanned_tables(planned: Planned, plans: str, claims: list[Answer]) -> dict[str, list[str]]:
    """Call everything that is called all the time; what was read from end to end, by call."""
    intake = planned.intake
    intake.value("SELECT set_config('plan_cache_mode', %s, false)", plans)
    intake.connection.execute("DISCARD PLANS")
    planned.watch()
    scanned: dict[str, list[str]] = {}

    def look(what: str) -> None:
        if found := planned.whole_tables():
            scanned[what] = found

    for user, request in (
        (f"new {plans}", "new"),
        ("u1", "r1"),
        ("u2", plans),
        (f"u{BIG - 1}", plans),
        ("nameless", None),
    ):
        intake.claim(user, request)
        look(f"claim_resource {user} {request}")
        other = request and f"{request} of two"
        intake.claim_several(user, 2, other)
        look(f"claim_resources {user} {request}")
        intake.claim_several(user, 2, other)
        look(f"claim_resources {user} {request} again")
        intake.claim_seats(user, [f"seat {3 * BIG}", f"seat {3 * BIG - 1}"], request and f"{request} by name")
        look(f"claim_seats {user} {request}")
    intake.claim_batch([(f"u{n}", f"again {plans}") for n in range(5)] + [(f"v{n}", None) for n in range(50)])
    look("claim_batch")
    for claim in claims:
        intake.claim_status(claim.claim_id)
        look("claim_status by claim")
    for n in (0, BIG - 1, 2 * BIG - 1, 10 * BIG):
        intake.request_status(f"u{n}", f"r{n}")
        look("claim_status by request")
    for claim in claims:
        intake.release(claim.claim_id)
        look("release_claim")
    messages = intake.read(50)
    look("read_batch")
    for message in messages[:5]:
        intake.release(message["claim_id"])
        look("release_claim after a read")
    releases = intake.read_releases(5)
    look("read_releases")
    intake.read_quarantined()
    look("read_quarantined")
    for function in ("mark_validated", "mark_committing", "extend"):
        intake.change(function, messages[5:])
        look(function)
    intake.change("give_back", messages[5:10], [0.0] * 5, ["why"] * 5)
    look("give_back")
    intake.change("dead_letter", messages[10:15], ["why"] * 5)
    look("dead_letter")
    intake.acknowledge(releases, "voided")
    look("acknowledge voided")
    intake.acknowledge(messages[15:], "committed")
    look("acknowledge committed")
    return scanned | scanned_by_people(planned, claims)


def scanned_by_people(planned: Planned, claims: list[Answer]) -> dict[str, list[str]]:
    """The same for dead letters and for the comparison with the ledger."""
    intake = planned.intake
    scanned: dict[str, list[str]] = {}

    def look(what: str) -> None:
        if found := planned.whole_tables():
            scanned[what] = found

    letters = intake.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    intake.rows("SELECT intake.replay(%s, %s, 'ops', 'why')", POOL, letters[:2])
    look("replay")
    intake.rows("SELECT intake.discard(%s, %s, 'ops', 'why')", POOL, letters[2:])
    look("discard")
    for after in (None, 100):
        assert len(intake.rows("SELECT * FROM intake.settled_claims(%s, %s, 50)", POOL, after)) == 50
        look(f"settled_claims after {after}")
    assert len(intake.rows("SELECT * FROM intake.claims_at(%s, %s)", POOL, [c.claim_id for c in claims])) == 3
    look("claims_at")
    return scanned


HELD = 6000


@pytest.mark.parametrize("statistics", ["never gathered", "of the empty tables", "of the full tables"])
def test_no_hot_statement_of_holds_reads_a_table_from_end_to_end(planned: Planned, statistics: str) -> None:
    intake = planned.intake.open(4 * HELD, claimsPerUser=20, holdSeconds=600, extendSeconds=60)
    if statistics == "of the empty tables":
        intake.connection.execute("ANALYZE")
    held: list[Answer] = []
    for n in range(0, HELD, 1000):
        each = intake.claim_requests([Request(f"u{n + k}", "r", 1 + k % 2) for k in range(1000)])
        held += [told[0] for told in each]
    # Holds that have ended, on the queue, and waiting.
    intake.connection.execute("UPDATE intake.holds SET expires_at = now() WHERE message ->> 'user_id' ~ '^u[12]'")
    intake.housekeep()
    waiting = [(answer.claim_id, f"u{n}") for n, answer in enumerate(held) if f"u{n}"[1] not in "12"]
    for claim, user in waiting[:500]:
        assert intake.confirm(claim, user) == "confirmed"
    if statistics == "of the full tables":
        intake.connection.execute("VACUUM ANALYZE")
    assert scanned_by_holds(planned, "force_generic_plan", waiting[500:600], held[1].claim_id) == {}
    assert scanned_by_holds(planned, "force_custom_plan", waiting[600:700], held[1].claim_id) == {}


def scanned_by_holds(
    planned: Planned, plans: str, waiting: list[tuple[UUID | None, str]], ended: UUID | None
) -> dict[str, list[str]]:
    """Call everything that holds need all the time; what was read from end to end, by call."""
    intake = planned.intake
    intake.value("SELECT set_config('plan_cache_mode', %s, false)", plans)
    intake.connection.execute("DISCARD PLANS")
    planned.watch()
    scanned: dict[str, list[str]] = {}

    def look(what: str) -> None:
        if found := planned.whole_tables():
            scanned[what] = found

    (one, user), (two, _), (three, third) = waiting[:3]
    for what in ("a claim", "the same again"):
        intake.claim_several(f"new {plans}", 2, "r")
        look(what)
        intake.claim_requests([Request(f"{plans} {n}", "r", 2) for n in range(20)])
        look(f"{what} in a batch")
    for what in ("", " again"):
        intake.extend_hold(one, user)
        look(f"extend_hold{what}")
    for what in ("", " again"):
        intake.confirm(one, user)
        look(f"confirm_claim{what}")
    intake.confirm(one, "nobody")
    look("confirm_claim of another user")
    intake.confirm(ended, "u1")
    look("confirm_claim of what has ended")
    intake.release(two)
    look("release_claim of a hold")
    for claim in (one, two, three):
        intake.claim_status(claim)
        look(f"claim_status by claim {claim}")
    intake.request_status(third, "r")
    look("claim_status by request")
    overdue = [claim for claim, _ in waiting[50:]]
    intake.connection.execute("UPDATE intake.holds SET expires_at = now() WHERE claim_id = ANY (%s)", (overdue,))
    planned.scans()
    assert intake.value("SELECT intake_private.expire_holds(c) FROM intake.engine_config c") == len(overdue)
    look("expire_holds")
    return scanned


COSTLY_ROWS = {
    "cpu_tuple_cost": "1000",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
    "min_parallel_index_scan_size": "0",
}


@pytest.mark.parametrize("proof", ["intake.proof", "ledger_proof"])
def test_a_proof_uses_parallel_workers(
    intake: Intake, server: PostgresServer, ledger_migrated: str, ledger_uri: str, proof: str
) -> None:
    """A hash of every claim: the one long query of a sale, on both sides."""
    fill(intake, 30)
    (claims,) = intake.column("SELECT jsonb_agg(message) FROM pgmq.q_intake_queue")
    with Intake(ledger_uri) as writer:
        outcomes = writer.column("SELECT outcome FROM finalize_transactions(%s)", Jsonb(claims))
    assert outcomes == ["committed"] * 30
    with Intake(intake.uri if proof == "intake.proof" else server.uri(ledger_migrated)) as reader:
        # A few rows are worth a worker, whatever the statistics say and by whichever scan they are read.
        for name, value in COSTLY_ROWS.items():
            reader.value("SELECT set_config(%s, %s, false)", name, value)
        planned = Planned(reader)
        planned.watch()
        reader.connection.execute(f"SELECT * FROM {proof}('{POOL}')".encode())
        assert any(re.search(r"Workers Launched: [1-9]", plan) for plan in planned.plans), planned.plans


def rows_read(intake: Intake, table: str) -> int:
    """How many rows all statements of this session have read of a table."""
    intake.connection.execute("SELECT pg_stat_force_next_flush()")
    return int(
        intake.value(
            "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = %s",
            table,
        )
    )


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_reads_of_all_slots_only_those_that_it_claims(intake: Intake, own: bool) -> None:
    intake.configure(20_000, ownResources=own)
    if own:
        rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, 20000) n")
        intake.stock(1, [(resource, label) for resource, label in rows])
    intake.seed()
    before = rows_read(intake, "slots")
    answers = intake.claim_requests([Request(f"u{n}", f"r{n}", 2) for n in range(50)])
    assert [each[0].outcome for each in answers] == ["claimed"] * 50
    assert rows_read(intake, "slots") - before <= 200


def test_a_batch_does_not_read_the_whole_free_list_for_each_claim(intake: Intake) -> None:
    intake.open(8_000, holdSeconds=60)
    for n in range(0, 80, 20):
        intake.claim_requests([Request(f"u{n + k}", f"r{n + k}", 100) for k in range(20)])
    intake.expire_holds()
    intake.housekeep()
    before = rows_read(intake, "free_numbers")
    answers = intake.claim_requests([Request(f"late{n}", f"r{n}", 2) for n in range(50)])
    assert [each[0].outcome for each in answers] == ["held"] * 50
    assert rows_read(intake, "free_numbers") - before <= 50_000


def test_rows_that_are_appended_are_not_compared_with_all_that_are_stocked(intake: Intake) -> None:
    """A table is copied in many calls, within one transaction and so without statistics."""
    intake.configure(20_000, ownResources=True)
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, 4000) n")
    intake.stock(1, [(resource, label) for resource, label in rows[:3500]])
    before = rows_read(intake, "inventory")
    intake.stock(3501, [(resource, label) for resource, label in rows[3500:]])
    assert rows_read(intake, "inventory") - before <= 1000
    before = rows_read(intake, "inventory")
    intake.stock(1, [(resource, label) for resource, label in rows[:500]])  # a copy that is repeated
    assert rows_read(intake, "inventory") - before <= 1000
