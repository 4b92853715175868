"""Each role tries each function and each table; PUBLIC has nothing."""

import psycopg
import pytest
from psycopg import sql

from tests.postgres import PostgresServer
from tests.sql.intake import Intake

ROLES = ("claimer", "bridge", "monitor")
MAY_CALL = {
    "claimer": {"claim_resource", "claim_status"},
    "bridge": {
        "read_batch", "mark_validated", "mark_committing", "extend", "acknowledge", "give_back", "dead_letter",
        "dead_letters", "replay", "discard", "configuration", "report_worker", "record_metrics", "housekeep",
    },
    "monitor": {"engine_status", "reconcile", "proof", "claim_status", "configuration", "dead_letters"},
}  # fmt: skip
# A view is refused what views cannot do before anybody asks who wants it.
NOT_FOR_VIEWS = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.WrongObjectType)
MAY_READ: dict[str, set[str]] = {
    "claimer": set(),
    "bridge": set(),
    "monitor": {"intake.allocations", "intake.engine_metrics"},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_calls_its_functions_and_no_other(
    intake: Intake, server: PostgresServer, migrated: str, role: str
) -> None:
    functions = intake.rows(
        "SELECT n.nspname, p.proname, p.oid::regprocedure::text, p.proargtypes::regtype[]::text[] FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('intake', 'pgmq') AND p.prokind = 'f'"
    )
    assert {name for schema, name, *_ in functions if schema == "intake"} > MAY_CALL[role]
    allowed = set()
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for schema, name, signature, types in functions:
            names = [sql.Identifier(f"a{n}") for n in range(len(types))]
            # From a subquery: a strict function of constant NULLs is never called, and then nobody asks who may.
            call = sql.SQL("SELECT {}({}) FROM (SELECT {} OFFSET 0) x").format(
                sql.Identifier(schema, name),
                sql.SQL(", ").join(names),
                sql.SQL(", ").join(
                    sql.SQL("NULL::{} AS {}").format(sql.SQL(kind), name)
                    for kind, name in zip(types, names, strict=True)
                ),
            )
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(call)
                refused = False
            except psycopg.errors.InsufficientPrivilege:
                refused = True
            except psycopg.Error:
                refused = False  # it ran, and did not like its arguments
            if not refused:
                assert schema == "intake", signature
                allowed.add(name)
    assert allowed == MAY_CALL[role]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_its_views_and_touches_no_table(
    intake: Intake, server: PostgresServer, migrated: str, role: str
) -> None:
    relations = intake.rows(
        "SELECT c.oid::regclass::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('intake', 'pgmq', 'public') AND c.relkind IN ('r', 'v', 'S', 'p')"
    )
    may: set[str] = set()
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for name, kind in relations:
            for statement in (
                ["SELECT last_value FROM {}", "SELECT nextval('{}')", "SELECT setval('{}', 1)"]
                if kind == "S"
                else [
                    "SELECT FROM {}",
                    "DELETE FROM {}",
                    "INSERT INTO {} DEFAULT VALUES",
                    "LOCK TABLE {}",
                    "TRUNCATE {}",
                ]
            ):
                try:
                    with connection.transaction(force_rollback=True):
                        connection.execute(statement.format(name).encode())
                except (psycopg.errors.InsufficientPrivilege, *NOT_FOR_VIEWS):
                    continue  # refused, or not a thing that can be written
                assert statement.startswith("SELECT FROM"), f"{role}: {statement} on {name}"
                may.add(name)
        for statement in (
            "CREATE TABLE public.mine ()",
            "CREATE TABLE intake.mine ()",
            "CREATE TEMPORARY TABLE mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    assert may == MAY_READ[role]


def test_a_role_without_a_grant_cannot_even_connect(server: PostgresServer, migrated: str, intake: Intake) -> None:
    intake.connection.execute("CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server.uri(migrated, "stranger"))
    finally:
        intake.connection.execute("DROP ROLE stranger")


def test_public_holds_nothing(intake: Intake) -> None:
    schemas = "('intake', 'pgmq')"
    assert intake.column(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,"
        " aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        f" WHERE n.nspname IN {schemas} AND a.grantee = 0"
    ) == []  # fmt: skip
    assert intake.column(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
        " aclexplode(c.relacl) a"
        f" WHERE n.nspname IN {schemas} AND a.grantee = 0"
    ) == []  # fmt: skip


def test_what_is_created_later_is_not_public_either(intake: Intake) -> None:
    with intake.connection.transaction(force_rollback=True):
        intake.connection.execute("CREATE FUNCTION intake.later() RETURNS int LANGUAGE sql RETURN 1")
        assert intake.value("SELECT has_function_privilege('claimer', 'intake.later()', 'EXECUTE')") is False


def test_every_definer_function_pins_its_search_path_and_every_function_says_what_it_is(intake: Intake) -> None:
    functions = intake.rows(
        "SELECT p.oid::regprocedure::text, p.prosecdef, p.proconfig, obj_description(p.oid, 'pg_proc')"
        " FROM pg_proc p WHERE p.pronamespace = 'intake'::regnamespace"
    )
    for signature, definer, settings, comment in functions:
        assert comment, signature
        assert settings == ["search_path=pg_catalog, pg_temp"] if definer else settings is None, signature
    tables = intake.rows(
        "SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c"
        " WHERE c.relnamespace = 'intake'::regnamespace AND c.relkind IN ('r', 'v')"
    )
    assert [name for name, comment in tables if not comment] == []


def test_a_claimer_cannot_keep_a_claim_open(server: PostgresServer, migrated: str) -> None:
    with psycopg.connect(server.uri(migrated, "claimer"), autocommit=True) as connection:
        limits = ("idle_in_transaction_session_timeout", "transaction_timeout")
        assert [connection.execute("SELECT current_setting(%s)", [x]).fetchone() for x in limits] == [("5s",), ("15s",)]
