"""DB1's log, with the settings that the operator starts it with: no user id gets there, and nothing of a payload."""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from intake_operator.children.database import settings
from intake_operator.model.spec import Database
from psycopg import sql

from tests.postgres import INTAKE_SQL, PostgresServer, install_intake
from tests.sql.intake import POOL, Intake

USER = "telltale"
ROLES = ("claimer", "bridge", "monitor")


# Payloads that cannot be read, are none, or are too large: literals in a statement, as a careless client writes them.
PAYLOADS = (
    f"""'{{"card": {USER}}}'""",
    f"""'{{"card": "{USER}\\u0000"}}'""",
    f"""'{{"card": "{USER}\\ud800"}}'""",
    f"""'["{USER}"]'""",
    f"""jsonb_build_object('card', repeat('{USER}', 1000))""",
    f"""'{{"card": "{USER}"}}' || 1""",
)
ORDERS = (
    f"SELECT * FROM intake.claim_resource('{POOL}', 'ann', 'r1', {{}})",
    f"SELECT * FROM intake.claim_resources('{POOL}', 'ann', 2, 'r1', {{}})",
    f"SELECT * FROM intake.claim_seats('{POOL}', 'ann', '{{{{x}}}}', 'r1', {{}})",
    f"SELECT * FROM intake.claim_batch('{POOL}', '{{{{ann}}}}', NULL, NULL, ARRAY[{{}}]::jsonb[])",
    f"SELECT intake.confirm_claim('{POOL}', uuidv7(), 'ann', {{}})",
)


@pytest.fixture(scope="module")
def db1() -> Iterator[PostgresServer]:
    """DB1 as the operator starts it, for an event that has every message on that it may have."""
    told = {"log_checkpoints": "on", "log_autovacuum_min_duration": "0s"}
    with PostgresServer(settings(Database(parameters=told))) as server:
        install_intake(server.create_database("intake"))
        with Intake(server.uri("intake")) as owner:
            owner.open(10, claimsPerUser=2)
        yield server


def as_role(db1: PostgresServer, role: str) -> Intake:
    """A session of a role's."""
    return Intake(db1.uri("intake", role))


def fails(session: Intake, statement: str, *arguments: Any) -> str:
    """The error of a statement, as its client gets it."""
    with pytest.raises(psycopg.Error) as caught:
        session.connection.execute(statement.encode(), arguments or None)
    return str(caught.value)


def claim_of(user: str) -> str:
    """A claim with its user as a literal, as a careless client writes it."""
    return f"SELECT * FROM intake.claim_resource('{POOL}', '{user}')"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT intake.claim_status('{POOL}', '{USER}'::uuid)",  # the value, in the message itself
        f"SELECT intake.claim_resource('{POOL}', 'O'{USER}')",  # a syntax error near it
        f"SELECT intake.claim_resource('{POOL}', \"{USER}\")",  # no such column
        f"SELECT intake.no_such_function('{USER}')",
        f"SELECT '{{\"user_id\": {USER}}}'::jsonb",
        f"SELECT 1 / 0 WHERE '{USER}' <> ''",
        f"DO $$ BEGIN RAISE LOG '{USER}'; RAISE EXCEPTION '{USER}'; END $$",
        *[call.format(payload) for call in ORDERS for payload in PAYLOADS],
        f"SELECT intake.mark_validated('{POOL}', '{{1}}', '{{1}}', ARRAY['{{\"x\": {USER}}}'::jsonb])",
        f"SELECT intake.acknowledge('{POOL}', '{{1}}', '{{1}}', '{{committed}}', ARRAY['{{\"x\": {USER}}}'::jsonb])",
        f"COPY intake.holds FROM STDIN; {USER}",
    ],
)
def test_a_statement_that_fails(db1: PostgresServer, role: str, statement: str) -> None:
    with as_role(db1, role) as session:
        assert fails(session, statement)
    assert USER not in db1.log()


def test_a_statement_that_fails_with_parameters(db1: PostgresServer) -> None:
    with as_role(db1, "claimer") as session:
        assert fails(session, "SELECT intake.claim_status(%s, %s::uuid)", POOL, USER)
        assert fails(session, "SELECT * FROM intake.claim_resource(%s, %s)", POOL, USER * 100)
    with as_role(db1, "bridge") as session:
        errors = [f"the ledger says: {USER}"]
        assert fails(session, "SELECT intake.give_back(%s, '{1}', '{1}', '{}'::float8[], %s)", POOL, errors)
    assert USER not in db1.log()


def test_a_payload_in_a_statement_of_the_owner_that_fails(db1: PostgresServer) -> None:
    """Whose errors are logged: without the statement, and without what they quote of it."""
    with as_role(db1, "postgres") as owner:
        for call in ORDERS:
            for payload in PAYLOADS:
                assert fails(owner, call.format(payload))
    log = db1.log()
    assert "invalid input syntax for type json" in log
    assert "payload has" in log
    assert USER not in log


def test_a_payload_as_a_parameter(db1: PostgresServer) -> None:
    """A refused size, a repeat with another, a batch with a bad one, a text that is no JSON."""
    large, other = json.dumps({"card": USER * 1000}), json.dumps({"card": f"{USER}-2"})
    for role in ("claimer", "postgres"):
        with as_role(db1, role) as session:
            session.rows("SELECT * FROM intake.claim_resource(%s, %s, 'p', %s)", POOL, f"{role}-1", '{"card": 1}')
            claim = "SELECT * FROM intake.claim_resource(%s, %s, 'p', %s)"
            for payload in (large, other, f"[{USER}]", f'"{USER}"', f'{{"{USER}": "\\u0000"}}'):
                assert fails(session, claim, POOL, f"{role}-1", payload)
                batch = "SELECT * FROM intake.claim_batch(%s, %s, NULL, NULL, ARRAY['{}', %s]::jsonb[])"
                if payload != other:
                    assert fails(session, batch, POOL, [f"{role}-2", f"{role}-3"], payload)
    assert USER not in db1.log()


def test_a_constraint_that_is_broken(db1: PostgresServer) -> None:
    """The owner's own mistakes are logged, without the row."""
    with as_role(db1, "postgres") as owner:
        owner.rows("SELECT * FROM intake.claim_resource(%s, %s)", POOL, USER)
        elsewhere = "(jsonb_populate_record(h, '{\"slot_no\": 9}')).*"
        taken = "intake.claimed_slots"
        again = f"INSERT INTO {taken} SELECT {elsewhere} FROM {taken} h WHERE h.user_id = '{USER}'"
        assert USER in fails(owner, again), "the client gets it"
        assert "Failing row" in fails(owner, f"INSERT INTO intake.claimed_slots (user_id) VALUES ('{USER}')")
    log = db1.log()
    assert "duplicate key value violates unique constraint" in log
    assert USER not in log


def test_locks_that_are_waited_for_cancelled_and_in_a_circle(db1: PostgresServer) -> None:
    with (
        ThreadPoolExecutor() as threads,
        as_role(db1, "claimer") as one,
        as_role(db1, "claimer") as two,
        as_role(db1, "postgres") as owner,
    ):
        one.connection.execute("BEGIN")
        two.connection.execute("BEGIN")
        one.connection.execute(claim_of(f"{USER}-1").encode())
        two.connection.execute(claim_of(f"{USER}-2").encode())
        waiting = threads.submit(one.connection.execute, claim_of(f"{USER}-2").encode())
        wait_for(owner, one)
        # A deadlock: the session that detects it after a second is refused, and the other goes on.
        circle = threads.submit(two.connection.execute, claim_of(f"{USER}-1").encode())
        lost = [type(future.exception()) for future in (waiting, circle)]
        assert psycopg.errors.DeadlockDetected in lost
        one.connection.execute("ROLLBACK")
        two.connection.execute("ROLLBACK")
        one.connection.execute("BEGIN")
        one.connection.execute(claim_of(f"{USER}-3").encode())
        late = threads.submit(two.connection.execute, claim_of(f"{USER}-3").encode())
        owner.value("SELECT pg_cancel_backend(%s)", wait_for(owner, two))
        assert isinstance(late.exception(), psycopg.errors.QueryCanceled)
        owner.value("SELECT pg_terminate_backend(%s, 10000)", one.connection.info.backend_pid)
    assert USER not in db1.log()


def test_a_process_that_is_killed_in_a_statement(db1: PostgresServer) -> None:
    """The server names what the process was running, in the DETAIL."""
    with ThreadPoolExecutor() as threads, as_role(db1, "claimer") as victim:
        pid = victim.connection.info.backend_pid
        running = threads.submit(victim.connection.execute, f"SELECT pg_sleep(600), '{USER}'".encode())
        with as_role(db1, "postgres") as owner:
            while owner.value("SELECT state FROM pg_stat_activity WHERE pid = %s", pid) != "active":
                pass
        os.kill(pid, signal.SIGKILL)
        assert isinstance(running.exception(), psycopg.OperationalError)
    while not answers(db1):
        pass
    assert f"(PID {pid}) was terminated by signal 9" in db1.log()
    assert USER not in db1.log()


def answers(db1: PostgresServer) -> bool:
    """Whether it takes connections, as it does again after a crash."""
    try:
        as_role(db1, "postgres").connection.close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("file", sorted(INTAKE_SQL.glob("*.sql")), ids=lambda path: path.stem)
def test_what_we_raise_ourselves_names_no_user(file: Path) -> None:
    """The operator's own errors are logged, and are in conditions."""
    code = re.sub(r"--.*", "", file.read_text())
    raised = re.findall(r"\bRAISE (?:EXCEPTION|LOG|WARNING|NOTICE)\b.*?;\n", code, flags=re.DOTALL)
    for each in raised:
        values = re.sub(r"'(?:[^']|'')*'", "''", each)
        assert not re.search(r"user_id|request_id|payload|message", values), each


@pytest.mark.parametrize("setting", ["log_min_messages", "log_min_error_statement", "log_error_verbosity"])
@pytest.mark.parametrize("role", ROLES)
def test_no_role_turns_its_log_up(db1: PostgresServer, role: str, setting: str) -> None:
    with as_role(db1, role) as session:
        name, value = sql.Identifier(setting), "verbose" if setting == "log_error_verbosity" else "debug1"
        for change in ("SET {} = {}", f"ALTER ROLE {role} SET {{}} = {{}}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.connection.execute(sql.SQL(change).format(name, sql.Literal(value)))
        session.connection.execute(f"ALTER ROLE {role} RESET ALL".encode())
    with as_role(db1, role) as session:
        assert session.value("SELECT current_setting('log_min_messages')") == "fatal"


def wait_for(owner: Intake, session: Intake) -> int:
    """Until a session waits for a lock; its process."""
    pid = session.connection.info.backend_pid
    query = "SELECT coalesce((SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s), false)"
    while not owner.value(query, pid):
        pass
    return pid
