"""A role may change its own settings and password. The operator notices it, and sets them right."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.postgres import PostgresServer
from tests.sql.intake import Intake

ROLES = ("claimer", "bridge", "monitor")
VERIFIER = f"SCRAM-SHA-256$4096:{'c2FsdA=='}${'A' * 43}=:{'B' * 42}A="
# Each of them locks out, or spoils, every session of the role that begins later.
SPOILING = [
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    "ALTER ROLE CURRENT_USER SET statement_timeout = 1",
    "ALTER ROLE CURRENT_USER SET synchronous_commit = off",
    "ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nowhere'",
    "ALTER ROLE CURRENT_USER SET role = 'none'",
    "ALTER ROLE CURRENT_USER IN DATABASE {database} SET default_transaction_isolation = serializable",
    "ALTER ROLE CURRENT_USER IN DATABASE postgres SET work_mem = '1GB'",
    "ALTER ROLE CURRENT_USER SET search_path = nowhere",
]


@pytest.fixture
def intake(intake: Intake) -> Iterator[Intake]:
    """Roles belong to the server: as they should be, before and after."""
    set_right(intake)
    yield intake
    set_right(intake)


def set_right(intake: Intake) -> None:
    for role in ROLES:
        intake.value("SELECT intake.reset_role(%s, 'infinity')", role)


def altered(intake: Intake) -> list[str]:
    return intake.column("SELECT intake.altered_roles()")


def settings(server: PostgresServer, database: str, role: str) -> dict[str, str]:
    """What a new session of a role has, and not from the server."""
    with psycopg.connect(server.uri(database, role)) as connection:
        return dict(
            connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE source ~ '^(user|database|database user)$'"
            ).fetchall()
        )


def works(client: Intake) -> bool:
    """Whether its session is still there."""
    try:
        client.value("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("statement", SPOILING)
def test_a_setting_that_a_role_gave_itself_is_noticed_and_taken_back(
    intake: Intake, server: PostgresServer, migrated: str, role: str, statement: str
) -> None:
    right = settings(server, migrated, role)
    assert altered(intake) == []
    with Intake(server.uri(migrated, role)) as itself:
        itself.connection.execute(statement.format(database=migrated).encode())
    assert altered(intake) == [role]
    intake.value("SELECT intake.reset_role(%s, now())", role)
    assert altered(intake) == []
    assert settings(server, migrated, role) == right


def test_a_limit_that_a_claimer_took_off_its_role_comes_back(
    intake: Intake, server: PostgresServer, migrated: str
) -> None:
    with Intake(server.uri(migrated, "claimer")) as itself:
        itself.connection.execute("ALTER ROLE claimer RESET ALL")
        itself.connection.execute("ALTER ROLE claimer SET transaction_timeout = 0")
        itself.connection.execute(f"ALTER ROLE claimer IN DATABASE {migrated} SET work_mem = '1GB'".encode())
    assert "temp_file_limit" in settings(server, migrated, "claimer"), "this one is not its own to take off"
    assert altered(intake) == ["claimer"]
    intake.value("SELECT intake.reset_role('claimer', now())")
    assert settings(server, migrated, "claimer") == {
        "idle_in_transaction_session_timeout": "5s",
        "log_min_messages": "fatal",
        "temp_file_limit": "1MB",
        "transaction_timeout": "15s",
        "work_mem": "16MB",
    }


def test_sessions_that_began_with_wrong_settings_end_and_others_stay(
    intake: Intake, server: PostgresServer, migrated: str
) -> None:
    uri = server.uri(migrated, "claimer")
    with Intake(uri) as before, Intake(server.uri(migrated, "bridge")) as bridge:
        seen = intake.value("SELECT clock_timestamp()")
        before.connection.execute("ALTER ROLE claimer SET default_transaction_read_only = on")
        with Intake(uri) as pooled, Intake(server.uri(migrated, "bridge")) as other:
            assert pooled.value("SHOW transaction_read_only") == "on"
            assert intake.value("SELECT intake.reset_role('claimer', %s)", seen) == 1
            assert not works(pooled)
            assert all(works(client) for client in (before, bridge, other))
        assert intake.value("SELECT intake.reset_role('claimer', NULL)") == 1
        assert not works(before)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER ROLE claimer SET work_mem = '1GB'",
        "ALTER ROLE claimer PASSWORD 'mine'",
        "PREPARE mine AS SELECT FROM pg_db_role_setting",
        "PREPARE mine AS DELETE FROM pg_authid",
    ],
)
def test_a_claimer_with_an_open_change_of_its_role_blocks_nobody(
    intake: Intake, server: PostgresServer, migrated: str, statement: str
) -> None:
    with Intake(server.uri(migrated, "claimer")) as itself:
        itself.connection.autocommit = False
        for name in ("transaction_timeout", "idle_in_transaction_session_timeout"):
            itself.value("SELECT set_config(%s, '0', false)", name)
        itself.connection.execute(statement.encode())
        for role in ("claimer", "bridge"):
            intake.value("SELECT intake.reset_role(%s, 'infinity')", role)
            intake.value("SELECT intake.set_login(%s, %s, 'f')", role, VERIFIER)
        assert not works(itself)
    assert altered(intake) == []


def test_a_password_that_a_role_gave_itself_is_noticed(intake: Intake, server: PostgresServer, migrated: str) -> None:
    def known() -> list[tuple[str, str]]:
        return intake.rows("SELECT * FROM intake.known_logins()")

    for change in ("PASSWORD 'mine'", "PASSWORD NULL"):
        intake.value("SELECT intake.set_login('claimer', %s, 'fingerprint')", VERIFIER)
        assert known() == [("claimer", "fingerprint")]
        with Intake(server.uri(migrated, "claimer")) as itself:
            itself.connection.execute(f"ALTER ROLE claimer {change}".encode())
        assert known() == [], change
    intake.connection.execute("ALTER ROLE claimer NOLOGIN")
    intake.value("SELECT intake.set_login('claimer', %s, 'other')", VERIFIER)
    assert known() == [("claimer", "other")]
    written = intake.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'claimer'")
    assert written == VERIFIER
    assert intake.value("SELECT count(*) FROM intake.logins l WHERE l::text LIKE '%%' || %s || '%%'", VERIFIER) == 0
