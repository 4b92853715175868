"""lock_exclusively() gets its table: no session blocks it for ever, and none waits behind it for long."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest

from tests.postgres import PostgresServer, install_intake
from tests.sql.intake import POOL, Intake, lose_unlogged, wait_until_blocked

HELD_UP = "IE008"
# What a claimer may say of its own session: the limits of its role are only defaults.
WITHOUT_LIMITS: LiteralString = "SET transaction_timeout = 0; SET idle_in_transaction_session_timeout = 0"

type Uris = Callable[[str], str]


@pytest.fixture
def as_role(server: PostgresServer, migrated: str, intake: Intake) -> Uris:
    """DB1 for one of its roles."""
    return lambda role: server.uri(migrated, role)


@contextmanager
def stubborn(uri: str) -> Iterator[Intake]:
    """A claimer that has lifted its limits, within a transaction that it does not end."""
    with Intake(uri) as claimer:
        claimer.connection.execute(WITHOUT_LIMITS)
        claimer.connection.execute("BEGIN")
        yield claimer


def alone(uri: str, call: LiteralString, *arguments: object) -> object:
    """One call of the operator."""
    with Intake(uri) as operator:
        return operator.value(call, *arguments)


def looks_through(reader: Intake) -> bool:
    """Whether a read was answered in time, as far as locks are concerned."""
    try:
        return bool(reader.status()["ready"])
    except psycopg.errors.LockNotAvailable:
        return False


class TestAClaimerThatDoesNotEnd:
    """Each caller of lock_exclusively(), blocked by a claimer that has lifted the limits of its role."""

    def test_i2_is_ended_by_the_seal_while_others_read(self, intake: Intake, uri: str, as_role: Uris) -> None:
        intake.open(10)
        with ThreadPoolExecutor() as threads, stubborn(as_role("claimer")) as claimer, Intake(uri) as reader:
            assert claimer.claim("telltale").outcome == "claimed"
            # A server that is slow with everything else still ends an attempt after a tenth of this.
            reader.connection.execute("SET lock_timeout = '1 s'")
            sealing = threads.submit(alone, uri, "SELECT intake.seal(%s, 'over')", POOL)
            looks = 0
            while not sealing.done():
                assert looks_through(reader), "a reader waited behind the seal"
                looks += 1
            sealing.result()
            assert looks
            with pytest.raises(psycopg.OperationalError):
                claimer.rows("SELECT 1")
        assert intake.value("SELECT count(*) FROM pgmq.q_intake_queue") == 0, "what was ended has claimed nothing"
        assert intake.claim("late").outcome == "closed"
        (told,) = intake.rows("SELECT detail FROM intake.audit")
        assert [each["role"] for each in told[0]["ended"]] == ["claimer"]
        assert "telltale" not in str(told)

    def test_is_ended_by_a_change_of_the_limit(self, intake: Intake, uri: str, as_role: Uris) -> None:
        intake.open(10)
        with ThreadPoolExecutor() as threads, stubborn(as_role("claimer")) as claimer, Intake(uri) as operator:
            assert claimer.claim("ann").outcome == "claimed"
            threads.submit(operator.configure, 10, claimsPerUser=1).result()
        assert intake.claim("ann").outcome == "claimed"
        assert intake.claim("ann").outcome == "limit_reached"

    def test_is_ended_by_a_rebuild(self, intake: Intake, uri: str, as_role: Uris) -> None:
        intake.open(10)
        claim = intake.claim("ann")
        lose_unlogged(intake.connection)
        with ThreadPoolExecutor() as threads, stubborn(as_role("claimer")) as claimer:
            assert claimer.release(claim.claim_id) == "not_ready"
            threads.submit(alone, uri, "SELECT intake.seed(%s)", POOL).result()
        assert intake.inventory() == (9, 1, 0)

    def test_is_ended_with_a_lock_that_it_has_without_any_right(self, uri: str, as_role: Uris) -> None:
        """PREPARE locks the tables of its statement before rights are checked."""
        with stubborn(as_role("claimer")) as claimer:
            claimer.connection.execute("PREPARE held AS DELETE FROM intake.pools")
            ended = alone(uri, "SELECT intake_private.lock_exclusively('intake.pools', '100 ms', '20 s')")
        assert isinstance(ended, list)
        assert [each["role"] for each in ended] == ["claimer"]

    def test_is_ended_under_the_name_of_a_member_too(self, intake: Intake, uri: str, server: PostgresServer) -> None:
        intake.open(10)
        intake.connection.execute("CREATE ROLE shop LOGIN IN ROLE claimer")
        try:
            with stubborn(server.uri(intake.connection.info.dbname, "shop")) as claimer:
                assert claimer.claim("ann").outcome == "claimed"
                ended = alone(uri, "SELECT intake_private.lock_exclusively('intake.pools', '100 ms', '20 s')")
            assert isinstance(ended, list)
            assert [each["role"] for each in ended] == ["shop"]
        finally:
            intake.connection.execute("DROP ROLE shop")


def test_a_claimer_that_changes_its_password_does_not_block_its_limit(intake: Intake, uri: str, as_role: Uris) -> None:
    with ThreadPoolExecutor() as threads, stubborn(as_role("claimer")) as claimer:
        claimer.connection.execute("ALTER ROLE claimer PASSWORD 'mine'")
        threads.submit(alone, uri, "SELECT intake.limit_claimers(7)").result()
    try:
        assert intake.value("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'claimer'") == 7
        assert intake.value("SELECT claimer_limit FROM intake.connections()") == 7
    finally:
        intake.value("SELECT intake.limit_claimers(-1)")


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE RULE mine AS ON INSERT TO intake.engine_config DO ALSO NOTHING",
        "CREATE RULE mine AS ON INSERT TO pg_catalog.pg_db_role_setting DO ALSO NOTHING",
        "CREATE TRIGGER m BEFORE INSERT ON intake.claimed_slots EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "COMMENT ON TABLE intake.pools IS 'mine'",
    ],
)
def test_a_claimer_that_defines_something_is_refused_before_it_waits_for_a_lock(
    intake: Intake, as_role: Uris, definition: LiteralString
) -> None:
    """A session that waits for a table blocks all later ones; rights are checked after the lock."""
    intake.open(10)
    table = definition.partition(" ON ")[2].removeprefix("INSERT TO ").removeprefix("TABLE ").split()[0]
    with stubborn(as_role("claimer")) as holder, Intake(as_role("claimer")) as claimer:
        holder.connection.execute(f"PREPARE held AS SELECT FROM {table}".encode())
        claimer.connection.execute("SET lock_timeout = '5 s'")
        told = "it was let do it"
        try:
            claimer.connection.execute(definition)
        except psycopg.Error as error:
            told = str(error)
        assert "role claimer may not define anything in this database" in told
    assert intake.claim("ann").outcome == "claimed"


def test_a_claimer_that_waits_for_the_database_alone_is_ended_and_logins_go_on(
    intake: Intake, uri: str, as_role: Uris
) -> None:
    """DROP DATABASE waits before it is refused, and no login gets past it."""
    intake.open(10)
    database = intake.connection.info.dbname
    with (
        ThreadPoolExecutor() as threads,
        Intake(as_role("bridge")) as bridge,
        stubborn(as_role("claimer")) as holder,
        Intake(as_role("claimer")) as claimer,
    ):
        claimer.connection.execute(WITHOUT_LIMITS)
        claimer.connection.execute("SET lock_timeout = '15 s'")
        holder.connection.execute(f"ALTER ROLE claimer IN DATABASE {database} SET application_name = 'mine'".encode())
        dropping = threads.submit(claimer.connection.execute, f"DROP DATABASE {database}".encode())
        wait_until_blocked(intake, dropping)
        bridge.value("SELECT intake.housekeep(%s)", POOL)
        assert isinstance(dropping.exception(), psycopg.errors.AdminShutdown), "it waits on, or is refused"
        with Intake(as_role("monitor")) as late:
            assert late.status()["ready"]


async def test_i2_claims_that_follow_each_other_closely_do_not_block_the_seal(
    intake: Intake, uri: str, as_role: Uris
) -> None:
    """Each transaction is longer than an attempt and within its limits, and there is always one."""
    intake.open(10_000)

    async def shop(number: int) -> None:
        turn = 0
        while True:
            try:
                async with (
                    await psycopg.AsyncConnection.connect(as_role("claimer")) as connection,
                    connection.transaction(),
                ):
                    turn += 1
                    user = f"u{number}-{turn}"
                    cursor = await connection.execute("SELECT outcome FROM intake.claim_resource(%s, %s)", (POOL, user))
                    if await cursor.fetchone() == ("closed",):
                        return
                    await connection.execute("SELECT pg_sleep(0.3)")
            except psycopg.OperationalError:
                continue

    sealing = asyncio.to_thread(alone, uri, "SELECT intake.seal(%s, 'over')", POOL)
    await asyncio.gather(sealing, *(shop(number) for number in range(6)))
    assert intake.status()["sealed"]


def test_locks_of_other_roles_are_reported_and_left_alone(intake: Intake, uri: str, as_role: Uris) -> None:
    intake.open(10)
    with ThreadPoolExecutor() as threads, stubborn(as_role("claimer")) as claimer, Intake(as_role("monitor")) as looker:
        claimer.claim("telltale")
        pid = looker.value("SELECT pg_backend_pid()")
        with looker.connection.transaction():
            looker.status()
            locking = threads.submit(
                alone, uri, "SELECT intake_private.lock_exclusively('intake.pools', '100 ms', '1 s')"
            )
            error = locking.exception()
            assert isinstance(error, psycopg.Error), "the lock was had"
            assert looker.status()["ready"], "it was not ended"
    told = str(error)
    assert error.sqlstate == HELD_UP
    assert f"role monitor, pid {pid}, idle in transaction" in told
    assert "pg_terminate_backend" in told
    assert "claimer" not in told, "the claimer has been ended"
    assert "telltale" not in told


def test_a_lock_that_is_free_is_taken_at_once_and_kept(intake: Intake, uri: str) -> None:
    intake.open(10)
    with ThreadPoolExecutor() as threads, intake.connection.transaction(), Intake(uri) as other:
        before = intake.value("SELECT current_setting('lock_timeout')")
        assert intake.value("SELECT intake_private.lock_exclusively('intake.pools')") == []
        assert intake.value("SELECT current_setting('lock_timeout')") == before
        claiming = threads.submit(other.claim, "ann")
        wait_until_blocked(intake, claiming)
        assert not claiming.done()
        intake.connection.execute("ROLLBACK")
        assert claiming.result().outcome == "claimed"


def test_a_prepared_transaction_is_reported_at_once() -> None:
    """DB1 is configured without them. If that is changed, no session would ever end this one."""
    with PostgresServer({"max_prepared_transactions": "1"}) as server:
        install_intake(uri := server.create_database("intake"))
        with Intake(uri) as intake, Intake(server.uri("intake", "claimer")) as claimer:
            intake.open(10)
            claimer.connection.execute("BEGIN")
            claimer.claim("ann")
            claimer.connection.execute("PREPARE TRANSACTION 'telltale'")
            with pytest.raises(psycopg.Error) as caught:
                intake.value("SELECT intake.seal(%s, 'over')", POOL)
            assert caught.value.sqlstate == HELD_UP
            assert "role claimer" in str(caught.value)
            assert "ROLLBACK PREPARED" in str(caught.value)
            assert "telltale" not in str(caught.value), "a name that a claimer has chosen"
            number = str(caught.value).partition("transaction = '")[2].partition("'")[0]
            gid = intake.value("SELECT gid FROM pg_prepared_xacts WHERE transaction::text = %s", number)
            intake.connection.execute(psycopg.sql.SQL("ROLLBACK PREPARED {}").format(psycopg.sql.Literal(gid)))
            intake.value("SELECT intake.seal(%s, 'over')", POOL)
            assert intake.value("SELECT count(*) FROM pgmq.q_intake_queue") == 0
