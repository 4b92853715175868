"""What PostgreSQL lets PUBLIC do, and what is left of it: nothing that blocks claims or fills the disk."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

from tests.postgres import PostgresServer
from tests.sql.intake import Intake, Request, claims, crowd, lose_unlogged, wait_until_blocked

# VOLATILE functions that PUBLIC may call all the same, each with the reason.
OWN_SESSION = "its own session, and nothing else"
CHANCE = "a number"
KEPT = {
    "array_sample": CHANCE,
    "array_shuffle": CHANCE,
    "clock_timestamp": "the time",
    "current_query": OWN_SESSION,
    "gen_random_uuid": CHANCE,
    "pg_advisory_unlock_all": "asyncpg and Npgsql call it when a pool gets a connection back; it unlocks nothing",
    "pg_is_in_recovery": "how Npgsql, pgpool and HAProxy find the primary",
    "pg_sleep": "a long query waits as well; end_overdue() ends both",
    "pg_sleep_for": "as pg_sleep",
    "pg_sleep_until": "as pg_sleep",
    "pg_xact_status": "a client that lost its connection asks whether its commit went through",
    "random": CHANCE,
    "random_normal": CHANCE,
    "set_config": "SET as a function: asyncpg calls it when it connects, so do Django and PostgREST",
    "setseed": OWN_SESSION,
    "timeofday": "the time",
    "txid_status": "as pg_xact_status",
    "uuidv4": CHANCE,
    "uuidv7": CHANCE,
}
ROLES = ("claimer", "bridge", "monitor")
HOUSEKEEPER = "SELECT pg_try_advisory_lock(hashtextextended('intake.housekeeper/' || %s, 0))"


@pytest.fixture
def claimer(intake: Intake, server: PostgresServer, migrated: str) -> Iterator[Intake]:
    """A web back end that was taken over by an attacker."""
    with Intake(server.uri(migrated, "claimer")) as client:
        yield client


@pytest.mark.parametrize("role", ROLES)
def test_public_may_call_what_was_reviewed_and_nothing_else(intake: Intake, role: str) -> None:
    # Before you add to KEPT, here and in 0001: what does it lock, what does it write, and for how long?
    found = intake.rows(
        "SELECT p.proname, p.oid::regprocedure::text FROM pg_proc p"
        " WHERE p.provolatile = 'v' AND p.pronamespace <> 'intake'::regnamespace"
        " AND has_function_privilege(%s, p.oid, 'EXECUTE')",
        role,
    )
    own = {"pg_try_advisory_lock(bigint)"} if role == "bridge" else set()
    assert {signature for name, signature in found if name not in KEPT} == own
    assert {name for name, _ in found if name in KEPT} == KEPT.keys()


def test_each_form_of_an_advisory_lock_is_refused_to_a_claimer(intake: Intake, claimer: Intake) -> None:
    forms = intake.rows(
        "SELECT p.proname, p.pronargs FROM pg_proc p"
        " WHERE p.proname ~ 'advisory' AND p.proname <> 'pg_advisory_unlock_all'"
    )
    assert len(forms) >= 20
    for name, arguments in forms:
        call = sql.SQL("SELECT {}({})").format(sql.Identifier(name), sql.SQL(", ").join([sql.Literal(1)] * arguments))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            claimer.connection.execute(call)


def test_a_claimer_that_knows_our_advisory_locks_blocks_nobody(intake: Intake, claimer: Intake) -> None:
    """50 of 50 numbers were burnt by rollbacks: without recycle_numbers() every claim is `busy` for ever."""
    intake.open(50)
    with intake.connection.transaction(force_rollback=True):
        assert [intake.claim(f"u{n}").outcome for n in range(50)] == ["claimed"] * 50
    grab(
        claimer,
        "SELECT pg_advisory_lock(hashtext('intake_private.recycle_numbers'), n) FROM generate_series(1, 1000) n",
    )
    assert [intake.claim(f"v{n}").outcome for n in range(50)] == ["claimed"] * 50


def test_a_claimer_that_knows_our_advisory_locks_does_not_block_the_rebuild(intake: Intake, claimer: Intake) -> None:
    intake.open(3)
    intake.claim("ann")
    lose_unlogged(intake.connection)
    grab(claimer, "SELECT pg_advisory_lock_shared(hashtext('intake.seed'), n) FROM generate_series(1, 1000) n")
    intake.connection.execute("SET lock_timeout = '2s'")
    intake.housekeep()
    assert intake.inventory() == (2, 1, 0)


def grab(claimer: Intake, statement: str) -> None:
    """Try to take the lock."""
    try:
        claimer.connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        claimer.connection.rollback()


def test_one_bridge_at_a_time_does_the_housekeeping(
    intake: Intake, claimer: Intake, server: PostgresServer, migrated: str
) -> None:
    intake.open(3)
    with Intake(server.uri(migrated, "bridge")) as one, Intake(server.uri(migrated, "bridge")) as other:
        assert one.value(HOUSEKEEPER, one.pool) is True
        assert other.value(HOUSEKEEPER, other.pool) is False
        assert one.housekeep() == 0
        one.value("SELECT intake.record_metrics(%s)", one.pool)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        claimer.value(HOUSEKEEPER, claimer.pool)


# What drivers and poolers send by themselves: when they connect, and when a pool gets a connection back.
CLIENTS = {
    "asyncpg": (
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        "SELECT t.oid, t.typname, t.typtype, t.typlen, t.typelem, pg_catalog.format_type(t.oid, NULL)"
        " FROM pg_catalog.pg_type t",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
    ),
    "Npgsql": (
        "SELECT version(); SELECT pg_is_in_recovery(); SHOW default_transaction_read_only",
        "SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid FROM ("
        " SELECT typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull,"
        " typ.typelem AS elemtypoid, proc.proname::regproc AS typreceive"
        " FROM pg_type AS typ LEFT JOIN pg_class AS cls ON cls.oid = typ.typrelid"
        " LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive"
        " LEFT JOIN pg_range ON pg_range.rngtypid = typ.oid"
        ") AS t JOIN pg_namespace AS ns ON ns.oid = typnamespace",
        "DISCARD ALL",
        "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all();"
        " DISCARD SEQUENCES; DISCARD TEMP",
    ),
    "PgBouncer, pgpool": ("SELECT 1", "SELECT pg_is_in_recovery()", "ABORT", "DISCARD ALL"),
    "pgJDBC": (
        "SET extra_float_digits = 3",
        "SET application_name = 'PostgreSQL JDBC Driver'",
        "SHOW transaction_read_only",
        "SELECT t.typname, t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid"
        " WHERE n.nspname <> 'pg_toast'",
        "SELECT nspname, current_schemas(true), pg_catalog.pg_get_keywords() FROM pg_namespace",
    ),
    "SQLAlchemy, Django, Rails, pgx": (
        "SELECT pg_catalog.version()",
        "SELECT current_schema()",
        "SHOW standard_conforming_strings",
        "SELECT set_config('TimeZone', 'UTC', false)",
        "SET client_min_messages TO warning",
        "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype FROM pg_type AS t"
        " LEFT JOIN pg_range AS r ON oid = rngtypid",
        "SELECT pg_backend_pid(), inet_server_addr(), current_setting('server_version_num')",
    ),
    "psql": ("SELECT rolname, pg_catalog.pg_table_is_visible(1259) FROM pg_catalog.pg_roles", "SHOW search_path"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("intake")
def test_clients_connect_and_reset_as_before(server: PostgresServer, migrated: str, role: str, client: str) -> None:
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for statement in CLIENTS[client]:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_cancel_backend(pg_backend_pid())",
        "SELECT count(*) FROM pg_locks",
        "SELECT query FROM pg_stat_activity",
        "SELECT pg_export_snapshot()",
        "SELECT pg_logical_emit_message(false, 'x', 'y')",
        "SELECT pg_notify('x', 'y')",
        "SELECT lo_creat(-1)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT query_to_xml('SELECT 1', false, false, '')",
        "SELECT * FROM pg_partition_tree('intake.claimed_slots')",
        "DO $$ BEGIN END $$",
        "DO LANGUAGE plpgsql $$ BEGIN END $$",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE TABLE pg_temp.mine ()",
        "CREATE TEMPORARY SEQUENCE mine",
        "CREATE TEMPORARY VIEW mine AS SELECT 1",
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine ()",
        "ALTER ROLE claimer VALID UNTIL 'yesterday'",
        "ALTER ROLE claimer NOLOGIN",
        "ALTER ROLE claimer CONNECTION LIMIT 0",
        "COMMENT ON ROLE claimer IS 'mine'",
        "GRANT claimer TO bridge",
        "SET temp_file_limit = -1",
        "ALTER ROLE claimer SET temp_file_limit = -1",
        "LOAD 'mine'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/mine'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT * FROM pg_ls_waldir()",
        "SELECT pg_log_backend_memory_contexts(pg_backend_pid())",
        "SELECT pg_stat_reset()",
    ],
)
def test_a_claimer_is_refused(claimer: Intake, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        claimer.connection.execute(statement.encode())


def test_a_claimer_cannot_take_its_own_rights_away(claimer: Intake, intake: Intake) -> None:
    intake.open(1)
    for statement in ("DROP OWNED BY claimer", "REVOKE USAGE ON SCHEMA intake FROM claimer"):
        with suppress(psycopg.errors.InsufficientPrivilege):
            claimer.connection.execute(statement.encode())
    assert claimer.claim("ann").outcome == "claimed"


@pytest.mark.parametrize("database", ["postgres", "template1"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("intake")
def test_no_role_connects_to_another_database(server: PostgresServer, role: str, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.uri(database, role))


@pytest.mark.parametrize(
    "statement",
    [
        "DECLARE c CURSOR WITH HOLD FOR SELECT repeat('x', 1000) FROM generate_series(1, 100000)",
        "SELECT count(*) FROM (SELECT n FROM generate_series(1, 1000000) n ORDER BY md5(n::text) OFFSET 0) x",
    ],
)
def test_a_claimer_does_not_fill_the_disk_with_temporary_files(claimer: Intake, statement: str) -> None:
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="temp_file_limit"):
        claimer.connection.execute(statement.encode())


def test_the_largest_calls_of_a_claimer_need_no_temporary_file(claimer: Intake, intake: Intake) -> None:
    intake.open(1200)
    callers = [(f"{n:04}" + "\U0001f3ab" * 40, f"{n:04}" + "\U0001f3ab" * 40) for n in range(1000)]
    assert {answer.outcome for answer in claimer.claim_batch(list(callers))} == {"claimed"}
    assert {answer.outcome for answer in claimer.claim_batch(list(callers))} == {"replayed"}
    assert len(claimer.claim_several("ann", 100, "x")) == 100
    assert len(claimer.request_status("ann", "x")) == 100


def test_the_largest_orders_of_a_claimer_need_no_temporary_file(claimer: Intake, intake: Intake) -> None:
    """4000 slots with the longest labels and attributes, and payloads of the default limit; then of the hard one."""
    intake.configure(4200, ownResources=True, maxPayloadBytes=65536)
    rows = intake.rows("SELECT gen_random_uuid(), n || repeat(chr(127915), 190) FROM generate_series(1, 4200) n")
    intake.stock(1, [(resource, label) for resource, label in rows])
    intake.connection.execute("UPDATE intake.inventory SET attributes = jsonb_build_object('x', repeat('y', 1000))")
    intake.seed()
    users = [f"{n:04}" + "\U0001f3ab" * 196 for n in range(1000)]
    requests = [Request(user, user, 4, {"x": "y" * 4000}) for user in users]
    for outcome in ("claimed", "replayed"):
        answers = claimer.claim_requests(requests)
        assert Counter(answer.outcome for each in answers for answer in each) == {outcome: 4000}
    large = [Request("zed", f"r{n}", 1, {"x": "y" * 65000}) for n in range(100)]
    assert {each[0].outcome for each in claimer.claim_requests(large)} == {"claimed"}
    assert {each[0].outcome for each in claimer.claim_requests(large)} == {"replayed"}
    assert len(claimer.claim_several("ann", 100, "x", {"x": "y" * 65000})) == 100
    assert len(claimer.request_status("ann", "x")) == 100


@pytest.mark.parametrize("what", ["SELECT FROM {}", "SELECT FROM {} FOR UPDATE", "DELETE FROM {}"])
def test_configure_does_not_wait_for_a_prepared_statement(claimer: Intake, intake: Intake, what: str) -> None:
    """PREPARE locks a table until the transaction ends, and asks for no right to it: the name is enough."""
    intake.open(10)
    with claimer.connection.transaction():
        claimer.connection.execute(f"PREPARE mine AS {what.format('intake.engine_config')}".encode())
        intake.connection.execute("SET lock_timeout = '2s'")
        generation = intake.configure(20, batchSize=7)
        assert intake.seed() == 10
        assert intake.configure(20, batchSize=8) == generation + 1


def test_configure_is_one_at_a_time(intake: Intake, uri: str) -> None:
    with Intake(uri) as first, Intake(uri) as second, ThreadPoolExecutor() as executor:
        with first.connection.transaction():
            first.configure(10)
            other = executor.submit(second.configure, 20)
            wait_until_blocked(intake, other)
            assert not other.done()
        assert other.result(timeout=30) == 2
    assert intake.status()["inventory"]["size"] == 20


@pytest.fixture
def impatient(intake: Intake) -> Iterator[Intake]:
    """A DB1 in which the bound of a claimer's transaction is over at once."""
    original: str = intake.value("SELECT pg_get_functiondef('intake.end_overdue'::regproc)")
    assert original.count("'20 s'") == 1
    intake.connection.execute(original.replace("'20 s'", "'0 s'").encode())
    yield intake
    intake.connection.execute(original.encode())


def test_housekeeping_ends_claimers_that_lift_their_time_limits(
    impatient: Intake, claimer: Intake, server: PostgresServer, migrated: str
) -> None:
    """Every number was burnt while a transaction on intake.pools is open: `busy` for all, until it ends."""
    impatient.open(5)
    with Intake(server.uri(migrated, "monitor")) as monitor, Intake(server.uri(migrated, "claimer")) as idle:
        idle.value("SELECT 1")
        monitor.connection.autocommit = False
        monitor.value("SELECT 1")
        for name in ("transaction_timeout", "idle_in_transaction_session_timeout"):
            claimer.value("SELECT set_config(%s, '0', false)", name)
        with impatient.connection.transaction(force_rollback=True):
            assert [impatient.claim(f"u{n}").outcome for n in range(5)] == ["claimed"] * 5
            claimer.connection.autocommit = False
            claimer.value("SELECT count(*) FROM intake.claim_status('drop', 'ann', 'r')")
            # From here on the numbers are undecided, and the claimer is one of the blockers that may still claim them.
            with Intake(impatient.uri) as other:
                other.housekeep()
        pid = claimer.connection.info.backend_pid
        impatient.housekeep()
        assert is_ended(claimer)
        while impatient.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid):
            pass
        impatient.housekeep()
        assert [impatient.claim(f"v{n}").outcome for n in range(5)] == ["claimed"] * 5
        assert not is_ended(idle), "it has no transaction"
        assert not is_ended(monitor), "it is no claimer"


def is_ended(client: Intake) -> bool:
    """Whether the server has ended its session."""
    try:
        client.value("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_housekeeping_leaves_claims_of_a_moment_alone(intake: Intake, claimer: Intake) -> None:
    intake.open(5)
    with claimer.connection.transaction():
        assert claimer.claim("ann").outcome == "claimed"
        intake.housekeep()
    assert intake.inventory() == (4, 1, 0)


async def test_the_crowd_sells_out_with_what_is_left_to_it(
    intake: Intake, server: PostgresServer, migrated: str
) -> None:
    intake.open(40, claimsPerUser=1)
    history = await crowd(server.uri(migrated, "claimer"), 8, [(f"u{n}", f"r{n}") for n in range(60)])
    await asyncio.to_thread(intake.housekeep)
    again = [(a.user, a.request) for a in history if a.answer and a.answer.outcome == "busy"]
    history += await crowd(server.uri(migrated, "claimer"), 2, again)
    assert len(claims(history)) == 40
    assert intake.reconcile() == []
