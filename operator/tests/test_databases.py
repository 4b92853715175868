"""The operator's calls of DB1 and of the ledger, on a real PostgreSQL."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import psycopg
import pytest
from given import Clock
from intake_operator.addresses import Address
from intake_operator.database.databases import Databases, Login
from intake_operator.database.migrate import Migration, MigrationChangedError, load, look, migrate, version
from intake_operator.decide.scaling import LOOK_BACK
from intake_operator.kube.client import Cluster
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import WHILE_BAD, WHILE_GOOD, LedgerChecks
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.model.proof import Account, DatabaseAccount
from intake_operator.model.sql_version import SqlVersion
from intake_operator.observe import Observer
from intake_operator.reasons import Problem
from psycopg import AsyncConnection

from tests.postgres import INTAKE_SQL, PostgresServer, install_ledger

UID, POOL = "11111111-2222", "taylor-la-night-1"
MIGRATIONS = load(INTAKE_SQL)


def config(**changes: Any) -> dict[str, Any]:
    """The live configuration of an open pool of ten slots."""
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    return {"inventorySize": 10, "batchSize": 5, **window} | changes


@pytest.fixture
def uri(server: PostgresServer) -> Iterator[str]:
    """An empty database, under the name that the operator uses."""
    yield server.create_database("intake")
    server.drop_database("intake")


@pytest.fixture
def host(uri: str) -> str:
    """Where the server listens."""
    return unquote(urlparse(uri).query.removeprefix("host="))


@pytest.fixture
async def databases() -> AsyncIterator[Databases]:
    opened = Databases(MIGRATIONS)
    yield opened
    await opened.close_all()


@pytest.fixture
def ledger_uri(server: PostgresServer) -> Iterator[str]:
    """A ledger with the reference contract."""
    uri = server.create_database("ledger")
    install_ledger(uri)
    yield uri
    server.drop_database("ledger")


class TestMigrations:
    async def test_pgmq_first_then_our_files_by_name_each_once(self, uri: str) -> None:
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            assert MIGRATIONS[0].name == "pgmq"
            assert await look(connection, MIGRATIONS) is None
            await migrate(connection, MIGRATIONS)
            await migrate(connection, MIGRATIONS)
            assert await look(connection, MIGRATIONS) == SqlVersion(version(MIGRATIONS), version(MIGRATIONS))
            rows = await (await connection.execute("SELECT name FROM intake_operator.migrations ORDER BY 1")).fetchall()
        assert [name for (name,) in rows] == sorted(m.name for m in MIGRATIONS)

    async def test_two_operators_at_once_install_once(self, uri: str) -> None:
        async with (
            await AsyncConnection.connect(uri, autocommit=True) as one,
            await AsyncConnection.connect(uri, autocommit=True) as two,
        ):
            await asyncio.gather(migrate(one, MIGRATIONS), migrate(two, MIGRATIONS))
            assert (await look(one, MIGRATIONS)) is not None

    async def test_a_db1_has_all_of_a_version_or_nothing(self, uri: str) -> None:
        broken = (*MIGRATIONS[:2], Migration("0002_broken.sql", "CREATE TABLE intake.half (x int); SELECT 1 / 0"))
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await migrate(connection, broken)
            there = await (await connection.execute("SELECT to_regnamespace('intake')")).fetchone()
            assert there == (None,)
            assert await look(connection, MIGRATIONS) is None
            await migrate(connection, MIGRATIONS)
            assert (await look(connection, MIGRATIONS)) == SqlVersion(version(MIGRATIONS), version(MIGRATIONS))

    async def test_a_newer_file_is_not_run_where_another_has_changed(self, uri: str) -> None:
        new = Migration("9999_new.sql", "CREATE TABLE intake.added (x int)")
        edited = (*MIGRATIONS[:-1], replace(MIGRATIONS[-1], sql="SELECT 1"), new)
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            await migrate(connection, MIGRATIONS)
            refused = ""
            try:
                await migrate(connection, edited)
            except MigrationChangedError as error:
                refused = str(error)
            assert MIGRATIONS[-1].name in refused
            there = await (await connection.execute("SELECT to_regclass('intake.added')")).fetchone()
            assert there == (None,)
            found = await look(connection, edited)
        assert found is not None
        assert (found.name, found.changed, found.lacks) == (version(MIGRATIONS), (MIGRATIONS[-1].name,), ())

    async def test_files_that_were_appended_can_be_run_later(self, uri: str) -> None:
        more = (*MIGRATIONS, Migration("9999_new.sql", "CREATE TABLE intake.added (x int)"))
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            await migrate(connection, MIGRATIONS)
            before = await look(connection, more)
            assert before == SqlVersion(version(MIGRATIONS), version(more))
            await migrate(connection, more)
            assert await look(connection, more) == SqlVersion(version(more), version(more))
            assert (await (await connection.execute("SELECT count(*) FROM intake.added")).fetchone()) == (0,)

    async def test_a_file_that_waits_for_a_lock_gives_up_before_claims_wait_long(self, uri: str) -> None:
        locking = (*MIGRATIONS, Migration("9999_new.sql", "ALTER TABLE intake.pools ADD COLUMN more int"))
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            await migrate(connection, MIGRATIONS)
            async with await AsyncConnection.connect(uri) as claimer:
                await claimer.execute("SELECT FROM intake.pools")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await migrate(connection, locking)
            assert await look(connection, locking) == SqlVersion(version(MIGRATIONS), version(locking))


class TestDatabases:
    async def test_db1_looks_back_as_far_as_bridges_stay(self, databases: Databases, host: str, uri: str) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        await databases.configure(UID, POOL, config())
        await databases.seed(UID, POOL)
        assert (await databases.observe(UID, POOL, host, "")).peak_depth is None
        async with await AsyncConnection.connect(uri) as owner:
            for ago, depth in ((LOOK_BACK - timedelta(seconds=10), 7), (LOOK_BACK + timedelta(seconds=1), 9)):
                await owner.execute(
                    "INSERT INTO intake.engine_metrics"
                    " SELECT %s, clock_timestamp() - %s, 0, 0, 0, 0, 0, %s, 0, 0, 0, 0, 0",
                    (POOL, ago, depth),
                )
        assert (await databases.observe(UID, POOL, host, "")).peak_depth == 7

    async def test_from_an_empty_database_to_an_answer(self, databases: Databases, host: str) -> None:
        fresh = await databases.observe(UID, POOL, host, "")
        assert (fresh.reachable, fresh.migrated, fresh.status) == (True, False, None)
        await databases.migrate(UID)
        migrated = await databases.observe(UID, POOL, host, "")
        assert (migrated.migrated, migrated.status) == (True, None)
        await databases.configure(UID, POOL, config())
        assert not (await databases.observe(UID, POOL, host, "")).ready
        assert await databases.seed(UID, POOL) == 10
        assert await databases.seed(UID, POOL) == 0
        ready = await databases.observe(UID, POOL, host, "")
        assert (ready.ready, ready.sealed, ready.depth, ready.dead_letters) == (True, False, 0, 0)
        await databases.seal(UID, POOL, "test")
        assert (await databases.observe(UID, POOL, host, "")).sealed
        nothing = Account(committed=0, voided=0, slots=0, digest=0)
        account, _ = await databases.account(UID, POOL)
        assert account == DatabaseAccount(0, 0, 0, 0, 0, 0, nothing, ())

    async def test_an_account_is_made_with_what_db1_has_accepted(self, databases: Databases, host: str) -> None:
        """A Secret that was made again has a password that DB1 takes at its next start only.

        This server asks for no password; a host that does not exist stands for a wrong one.
        """
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        await databases.configure(UID, POOL, config())
        await databases.seed(UID, POOL)
        await databases.seal(UID, POOL, "test")
        assert (await databases.observe(UID, POOL, "/nowhere", "")).sealed
        account, _ = await databases.account(UID, POOL)
        assert account.claims == 0

    async def test_the_audit_tells_every_action_with_its_claims_or_slots(
        self, databases: Databases, host: str, uri: str
    ) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        await databases.configure(UID, POOL, config())
        await databases.seed(UID, POOL)
        with psycopg.connect(uri, autocommit=True) as owner:
            owner.execute("SELECT intake.withhold_slots(%s, '{1,2,4}', 'ann', 'house seats')", (POOL,))
            owner.execute("SELECT intake.return_slots(%s, '{4}', 'ann', 'nobody came')", (POOL,))
            owner.execute("SELECT * FROM intake.dead_letter_payloads(%s, '{7,8}', 'bob', 'a refund')", (POOL,))
            owner.execute("SELECT intake.replay(%s, '{7}', 'bob', 'again')", (POOL,))
            owner.execute("SELECT intake.discard(%s, '{7}', 'bob', 'a bot', 'it was looked at')", (POOL,))
        await databases.seal(UID, POOL, "the end")
        lines = [json.loads(line) for line in await databases.audit(UID, POOL)]
        assert [(line["action"], line["claims"], line["slots"], line["evidence"]) for line in lines] == [
            ("seal", None, None, None),
            ("discard", 0, None, "it was looked at"),
            ("replay", 0, None, None),
            ("show payloads", 2, None, None),
            ("return", None, "4", None),
            ("withhold", None, "1-2, 4", None),
        ]

    async def test_a_sealed_pool_is_still_throttled(self, databases: Databases, host: str) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        await databases.configure(UID, POOL, config())
        await databases.seal(UID, POOL, "test")
        await databases.configure(UID, POOL, {"batchSize": 3})
        async with await AsyncConnection.connect(host=host, dbname="intake", user="postgres") as connection:
            row = await (await connection.execute("SELECT intake.configuration(%s)", (POOL,))).fetchone()
        assert row is not None
        assert row[0]["batchSize"] == 3

    async def test_a_db1_that_cannot_be_reached_is_an_observation(self, databases: Databases, tmp_path: Path) -> None:
        seen = await databases.observe(UID, POOL, str(tmp_path), "")
        assert not seen.reachable
        assert seen.error

    async def test_a_lost_connection_heals_on_the_next_pass(self, databases: Databases, host: str, uri: str) -> None:
        await databases.observe(UID, POOL, host, "")
        with psycopg.connect(uri, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'intake-operator'"
            )
        assert not (await databases.observe(UID, POOL, host, "")).reachable
        assert (await databases.observe(UID, POOL, host, "")).reachable

    async def test_a_frozen_db1_does_not_hold_the_pass(self, host: str, uri: str) -> None:
        databases = Databases(MIGRATIONS, timeout=0.5)
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        with psycopg.connect(uri) as other:
            other.execute("LOCK TABLE intake_operator.migrations IN ACCESS EXCLUSIVE MODE")
            seen = await databases.observe(UID, POOL, host, "")
            assert (seen.reachable, seen.error) == (False, "no answer in time")
        assert (await databases.observe(UID, POOL, host, "")).reachable
        await databases.close_all()

    async def test_roles_get_a_verifier_and_the_fingerprint_of_their_secret(
        self, databases: Databases, host: str, uri: str
    ) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        await databases.set_logins(UID, {"claimer": Login("s3cret", "fingerprint-1")})
        assert (await databases.observe(UID, POOL, host, "")).logins["claimer"] == "fingerprint-1"
        with psycopg.connect(uri) as connection:
            row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'claimer'").fetchone()
        assert row is not None
        assert row[0].startswith("SCRAM-SHA-256$")

    async def test_claimers_have_a_limit_that_follows_what_others_need(self, databases: Databases, host: str) -> None:
        fresh = await databases.observe(UID, POOL, host, "")
        assert fresh.connections is None
        await databases.migrate(UID)
        await databases.limit_claimers(UID, 50)
        first = (await databases.observe(UID, POOL, host, "")).connections
        assert first
        assert (first.limit, first.claimers) == (first.common - 50, 0)
        await databases.limit_claimers(UID, 60)
        second = (await databases.observe(UID, POOL, host, "")).connections
        assert second
        assert second.limit == first.limit - 10

    async def test_a_db1_without_a_free_connection_is_reported_as_that(self, databases: Databases) -> None:
        with PostgresServer({"max_connections": "8", "max_wal_senders": "0"}) as tiny, ExitStack() as held:
            tiny.create_database("intake")
            where = unquote(urlparse(tiny.uri()).query.removeprefix("host="))
            for _ in range(8):
                held.enter_context(psycopg.connect(tiny.uri("intake")))
            seen = await databases.observe(UID, POOL, where, "")
        assert not seen.reachable
        assert seen.refused
        assert not seen.login_failed

    @pytest.mark.parametrize("password", ["PASSWORD 'mine'", "PASSWORD NULL"])
    async def test_a_password_that_a_role_gave_itself_is_seen_and_set_again(
        self, databases: Databases, server: PostgresServer, host: str, password: str
    ) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        secret = {"claimer": Login("s3cret", "fingerprint-1"), "bridge": Login("s3cret", "fingerprint-2")}
        await databases.set_logins(UID, secret)
        async with await AsyncConnection.connect(server.uri("intake", "claimer"), autocommit=True) as claimer:
            await claimer.execute(f"ALTER ROLE claimer {password}".encode())
        assert (await databases.observe(UID, POOL, host, "")).logins == {"bridge": "fingerprint-2"}
        await databases.set_logins(UID, {"claimer": secret["claimer"]})
        logins = (await databases.observe(UID, POOL, host, "")).logins
        assert logins == {"claimer": "fingerprint-1", "bridge": "fingerprint-2"}

    async def test_settings_that_a_role_gave_itself_are_seen_and_reset(
        self, databases: Databases, server: PostgresServer, host: str
    ) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        uri = server.uri("intake", "claimer")
        async with await AsyncConnection.connect(server.uri("intake"), autocommit=True) as owner:
            await owner.execute("ALTER ROLE claimer LOGIN")
        async with await AsyncConnection.connect(uri, autocommit=True) as pooled:
            assert (await databases.observe(UID, POOL, host, "")).altered_roles == ()
            await pooled.execute("ALTER ROLE claimer SET default_transaction_read_only = on")
            # After a lost connection it is still known since when the roles were unaltered: older sessions stay.
            async with await AsyncConnection.connect(server.uri("intake"), autocommit=True) as owner:
                await owner.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name = 'intake-operator'"
                )
            assert not (await databases.observe(UID, POOL, host, "")).reachable
            async with await AsyncConnection.connect(uri, autocommit=True) as spoilt:
                assert (await databases.observe(UID, POOL, host, "")).altered_roles == ("claimer",)
                assert await databases.reset_roles(UID, ("claimer",)) == 1
                with pytest.raises(psycopg.OperationalError):
                    await spoilt.execute("SELECT 1")
            assert (await databases.observe(UID, POOL, host, "")).altered_roles == ()
            await pooled.execute("SELECT 1")
            async with await AsyncConnection.connect(uri) as fresh:
                row = await (await fresh.execute("SHOW transaction_read_only")).fetchone()
            assert row == ("off",)

    async def test_an_operator_that_never_saw_the_roles_unaltered_ends_all_their_sessions(
        self, databases: Databases, server: PostgresServer, host: str
    ) -> None:
        await databases.observe(UID, POOL, host, "")
        await databases.migrate(UID)
        async with await AsyncConnection.connect(server.uri("intake"), autocommit=True) as owner:
            await owner.execute("ALTER ROLE claimer LOGIN")
        async with await AsyncConnection.connect(server.uri("intake", "claimer"), autocommit=True) as claimer:
            await claimer.execute("ALTER ROLE claimer SET statement_timeout = 1")
            restarted = Databases(MIGRATIONS)
            assert (await restarted.observe(UID, POOL, host, "")).altered_roles == ("claimer",)
            assert await restarted.reset_roles(UID, ("claimer",)) == 1
            await restarted.close_all()
            with pytest.raises(psycopg.OperationalError):
                await claimer.execute("SELECT 1")


class TestLedger:
    async def test_a_usable_ledger_is_checked_seldom(self, ledger_uri: str) -> None:
        clock = Clock()
        ledgers = LedgerChecks(clock)
        assert (await ledgers.check(UID, Address(ledger_uri, "tickets"), "finalize_transaction")).problem is None
        with psycopg.connect(ledger_uri) as connection:
            connection.execute("DROP FUNCTION finalize_transactions")
            connection.execute("DROP FUNCTION finalize_transaction")
        clock.now = WHILE_GOOD.total_seconds() - 1
        assert (await ledgers.check(UID, Address(ledger_uri, "tickets"), "finalize_transaction")).problem is None
        clock.now = WHILE_GOOD.total_seconds()
        missing = await ledgers.check(UID, Address(ledger_uri, "tickets"), "finalize_transaction")
        assert missing.problem is Problem.LEDGER_FUNCTION_MISSING
        install = "CREATE FUNCTION finalize_transaction(jsonb) RETURNS void LANGUAGE sql AS ''"
        with psycopg.connect(ledger_uri) as connection:
            connection.execute(install)
        clock.now += WHILE_BAD.total_seconds()
        assert (await ledgers.check(UID, Address(ledger_uri, "tickets"), "finalize_transaction")).problem is None

    async def test_a_function_may_name_its_schema(self, ledger_uri: str) -> None:
        with psycopg.connect(ledger_uri) as connection:
            connection.execute("CREATE SCHEMA core")
            connection.execute("CREATE FUNCTION core.sell(jsonb) RETURNS void LANGUAGE sql AS ''")
        assert (await LedgerChecks(Clock()).check(UID, Address(ledger_uri, "tickets"), "core.sell")).problem is None
        assert (await LedgerChecks(Clock()).check(UID, Address(ledger_uri, "tickets"), "sell")).problem is not None

    async def test_a_ledger_that_does_not_answer_does_not_hold_the_pass(self, ledger_uri: str) -> None:
        with psycopg.connect(ledger_uri) as other:
            # The server accepts the connection, and every look-up of a function waits for the lock.
            other.execute("LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE")
            seen = await LedgerChecks(Clock(), timeout=0.5).check(
                UID, Address(ledger_uri, "tickets"), "finalize_transaction"
            )
        assert seen.problem is Problem.LEDGER_UNREACHABLE
        assert "no answer in time" in seen.message

    @pytest.mark.parametrize(
        "uri",
        [
            "postgresql://ledger:hunter2@%zz/db",
            "host=/nowhere password=hunter2",
            "password=hunter2 nonsense",
            "postgresql://ledger:p@hunter2@db.example/db",
        ],
    )
    async def test_a_password_never_shows_in_a_message(self, uri: str) -> None:
        seen = await LedgerChecks(Clock()).check(UID, Address(uri, "tickets"), "finalize_transaction")
        assert seen.problem is Problem.LEDGER_UNREACHABLE
        assert "hunter2" not in seen.message

    @pytest.mark.parametrize("content", [b"", b"\n", "postgresql://u:p@db/ledger".encode("utf-16"), None])
    async def test_a_secret_is_taken_as_the_bridge_takes_it(
        self, event: Callable[..., Event], ledger_uri: str, content: bytes | None
    ) -> None:
        """Blanks around it do not count. A value that is not text is reported, instead of failing every pass."""
        data = f"{ledger_uri}\n".encode() if content is None else content

        class Secrets(Cluster):
            def __init__(self) -> None:
                pass

            async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
                return {"metadata": {"uid": "1"}, "data": {"uri": base64.b64encode(data).decode()}}

        observer = Observer(Secrets(), None, LedgerChecks(Clock()), None, None, None, None, None)  # type: ignore[arg-type]
        spec = event().spec
        assert spec is not None
        ledger, observed = await observer._inputs(event(), spec, Observed())
        assert (ledger, observed.ledger.problem) == (
            (Address(ledger_uri, "tickets"), None) if content is None else (None, Problem.LEDGER_SECRET_KEY_MISSING)
        )

    async def test_the_account_is_the_ledger_s_own(self, ledger_uri: str) -> None:
        assert await read_account(Address(ledger_uri, "tickets"), POOL) == Account(
            committed=0, voided=0, slots=0, digest=0
        )

    async def test_a_ledger_need_not_offer_an_account(self, server: PostgresServer) -> None:
        assert await read_account(Address(server.uri(), "tickets"), POOL) is None


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("postgresql://u:p@core-ledger:5432/db", "core-ledger.tickets.svc"),
        ("postgresql://u:p@db.example.com/db", "db.example.com"),
        ("postgresql://u:p@10.0.0.1/db", "10.0.0.1"),
        ("postgresql://u:p@a,b.other/db", "a.tickets.svc,b.other"),
        ("dbname=db", ""),
        ("host=/run/postgresql dbname=db", "/run/postgresql"),
    ],
)
def test_a_bare_host_is_a_service_beside_the_event(given: str, found: str) -> None:
    told = psycopg.conninfo.conninfo_to_dict(Address(given, "tickets").qualified())
    assert told.get("host", "") == found
