"""The whole matrix: each role, and one without a grant, tries each function, table, view and sequence.

The catalog says what exists, the two tables here say who may use it. What exists and is in neither table fails.
"""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.postgres import PostgresServer
from tests.sql.intake import Intake

C, B, M = "claimer", "bridge", "monitor"
STRANGER = "stranger"
ROLES = (C, B, M, STRANGER)

# Functions of intake by name, and who may call them. No role may call one of intake_private or pgmq.
FUNCTIONS: dict[str, set[str]] = {
    "claim_resource": {C},
    "claim_resources": {C},
    "claim_seats": {C},
    "claim_batch": {C},
    "release_claim": {C},
    "claim_status": {C, M},
    "confirm_claim": {C},
    "extend_hold": {C},
    "read_batch": {B},
    "read_releases": {B},
    "read_quarantined": {B},
    "mark_validated": {B},
    "mark_committing": {B},
    "extend": {B},
    "acknowledge": {B},
    "give_back": {B},
    "dead_letter": {B},
    "dead_letters": {B, M},
    "replay": {B},
    "discard": {B},
    "report_worker": {B},
    "record_metrics": {B},
    "housekeep": {B},
    "lease_tokens": {B},
    "return_tokens": {B},
    "configuration": {B, M},
    "engine_status": {M},
    "proof": {M},
    "reconcile": {M},
    "audit_log": {M},
    "settled_claims": {M},
    "claims_at": {M},
    # Called by the operator, as the owner.
    "altered_roles": set(),
    "configure": set(),
    "connections": set(),
    "dead_letter_payloads": set(),
    "end_overdue": set(),
    "end_restore": set(),
    "known_logins": set(),
    "find_slots": set(),
    "limit_claimers": set(),
    "reset_role": set(),
    "restore": set(),
    "return_slots": set(),
    "seal": set(),
    "seed": set(),
    "set_login": set(),
    "stock": set(),
    "withheld_slots": set(),
    "withhold_slots": set(),
}
# Tables and views of intake, and who may read them. No role writes, or uses a sequence or anything of pgmq.
RELATIONS: dict[str, set[str]] = {
    "allocations": {M},
    "audit": set(),
    "ended_holds": set(),
    "engine_config": set(),
    "engine_metrics": {M},
    "free_numbers": set(),
    "holds": set(),
    "inventory": set(),
    "number_progress": set(),
    "quarantine": set(),
    "releases": set(),
    "restores": set(),
    "claimed_slots": set(),
    "intents": set(),
    "logins": set(),
    "pools": set(),
    "slots": set(),
    "token_buckets": set(),
    "withheld": set(),
    "workers": set(),
}
WRITING = ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", "LOCK TABLE {}", "TRUNCATE {}", "COPY {} FROM STDIN")
SEQUENCES = ("SELECT last_value FROM {}", "SELECT nextval('{}')", "SELECT setval('{}', 1)")
# PostgreSQL refuses what views cannot do before it checks the right.
NOT_FOR_VIEWS = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.WrongObjectType)


@pytest.fixture
def stranger(intake: Intake, migrated: str) -> Iterator[str]:
    """A new role with USAGE on the schemas and no other right."""
    name, database = sql.Identifier(STRANGER), sql.Identifier(migrated)
    for statement in (
        "CREATE ROLE {} LOGIN",
        "GRANT CONNECT ON DATABASE {database} TO {}",
        "GRANT USAGE ON SCHEMA intake, intake_private, pgmq TO {}",
    ):
        intake.connection.execute(sql.SQL(statement).format(name, database=database))
    yield STRANGER
    intake.connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
    intake.connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("role", ROLES)
def test_a_role_calls_its_functions_and_no_other(
    intake: Intake, server: PostgresServer, migrated: str, role: str
) -> None:
    functions = intake.rows(
        "SELECT n.nspname, p.proname, p.oid::regprocedure::text, p.proargtypes::regtype[]::text[] FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('intake', 'intake_private', 'pgmq')"
        " AND p.prokind = 'f'"
    )
    assert {name for schema, name, *_ in functions if schema == "intake"} == FUNCTIONS.keys(), "who may call it?"
    wrong = []
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for schema, name, signature, types in functions:
            allowed = schema == "intake" and role in FUNCTIONS[name]
            if may_call(connection, sql.Identifier(schema, name), types) != allowed:
                wrong.append(signature)
    assert wrong == []


def may_call(connection: psycopg.Connection, function: sql.Identifier, types: list[str]) -> bool:
    """Whether a call with nothing but NULLs gets as far as the function."""
    names = [sql.Identifier(f"a{n}") for n in range(len(types))]
    # From a subquery: a strict function of constant NULLs is not called, and its right is not checked.
    call = sql.SQL("SELECT {}({}) FROM (SELECT {} OFFSET 0) x").format(
        function,
        sql.SQL(", ").join(names),
        sql.SQL(", ").join(
            sql.SQL("NULL::{} AS {}").format(sql.SQL(kind), name) for kind, name in zip(types, names, strict=True)
        ),
    )
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(call)
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error:
        return True  # it ran, and refused its arguments
    return True


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_its_views_and_touches_no_table(
    intake: Intake, server: PostgresServer, migrated: str, role: str
) -> None:
    intake.open(1)  # which makes a sequence
    relations = intake.rows(
        "SELECT n.nspname, c.relname, c.oid::regclass::text, c.relkind::text FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('intake', 'intake_private', 'pgmq', 'public')"
        " AND c.relkind IN ('r', 'v', 'm', 'f', 'S', 'p')"
    )
    assert "intake.numbers_1" in {name for _, _, name, _ in relations}
    known = {relation for schema, relation, _, kind in relations if schema == "intake" and kind != "S"}
    assert known == RELATIONS.keys(), "who may read it?"
    may: set[tuple[str, str]] = set()
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for _, _, name, kind in relations:
            for statement in SEQUENCES if kind == "S" else ("SELECT FROM {}", *WRITING):
                try:
                    with connection.transaction(force_rollback=True):
                        connection.execute(statement.format(name).encode())
                except (psycopg.errors.InsufficientPrivilege, *NOT_FOR_VIEWS):
                    continue
                may.add((statement, name))
        for statement in (
            "CREATE TABLE public.mine ()",
            "CREATE TABLE intake.mine ()",
            "CREATE TEMPORARY TABLE mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    assert may == {("SELECT FROM {}", f"intake.{name}") for name, roles in RELATIONS.items() if role in roles}


@pytest.mark.parametrize("role", [C, B, M])
def test_no_role_reaches_the_internal_functions(
    intake: Intake, server: PostgresServer, migrated: str, role: str
) -> None:
    internal = intake.column("SELECT proname FROM pg_proc WHERE pronamespace = 'intake_private'::regnamespace")
    assert internal
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        for name in internal:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema intake_private"):
                connection.execute(sql.SQL("SELECT {}()").format(sql.Identifier("intake_private", name)))


def test_a_role_without_a_grant_cannot_even_connect(server: PostgresServer, migrated: str, intake: Intake) -> None:
    intake.connection.execute("CREATE ROLE outsider LOGIN")
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server.uri(migrated, "outsider"))
    finally:
        intake.connection.execute("DROP ROLE outsider")


def test_public_has_no_rights(intake: Intake) -> None:
    schemas = "('intake', 'intake_private', 'pgmq')"
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
        " FROM pg_proc p"
        " WHERE p.pronamespace IN ('intake'::regnamespace, 'intake_private'::regnamespace)"
    )
    for signature, definer, settings, comment in functions:
        assert comment, signature
        # A function that is not SECURITY DEFINER runs in the search_path of one; it may have settings for the planner.
        theirs = [each for each in settings or () if not each.startswith("enable_")]
        assert "search_path=pg_catalog, pg_temp" in theirs if definer else theirs == [], signature
    tables = intake.rows(
        "SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c"
        " WHERE c.relnamespace = 'intake'::regnamespace AND c.relkind IN ('r', 'v')"
    )
    assert [name for name, comment in tables if not comment] == []


@pytest.mark.parametrize(("role", "limits"), [("claimer", ["5s", "15s"]), ("monitor", ["5s", "0"])])
def test_no_role_can_keep_a_claim_or_a_read_open(
    server: PostgresServer, migrated: str, role: str, limits: list[str]
) -> None:
    with psycopg.connect(server.uri(migrated, role), autocommit=True) as connection:
        settings = ("idle_in_transaction_session_timeout", "transaction_timeout")
        found = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in settings]
    assert found == [(limit,) for limit in limits]
