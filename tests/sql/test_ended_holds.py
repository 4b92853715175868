"""Somebody who holds, drops and holds again: rows do not grow without end, and the limit and I7 hold meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.intake import POOL, Intake, Request, lose_unlogged, wait_until_blocked

HOLD = 60


@pytest.fixture
def other(uri: str) -> Any:  # noqa: ANN401 - a generator of Intake
    with Intake(uri) as client:
        yield client


def age(intake: Intake) -> None:
    """Let the time pass for which ended holds are remembered."""
    intake.connection.execute("UPDATE intake.holds SET ended_at = ended_at - interval '20 minutes'")


def rows(intake: Intake) -> tuple[int, int]:
    """(rows of holds, rows of claimed slots)."""
    (found,) = intake.rows("SELECT (SELECT count(*) FROM intake.holds), (SELECT count(*) FROM intake.claimed_slots)")
    return found[0], found[1]


def proof(intake: Intake) -> tuple[int, int, int, int]:
    """(claims, expired, released, held)."""
    (found,) = intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
    return found["claims"], found["expired"], found["released"], found["held"]


def unique_keys(intake: Intake) -> list[str]:
    """The unique keys that are taken."""
    return intake.column("SELECT unique_key FROM intake.claimed_slots")


def test_ended_holds_are_forgotten_and_stay_counted(intake: Intake) -> None:
    intake.open(20, holdSeconds=HOLD)
    released, expired = intake.claim_several("ann", 4, "r1"), intake.claim("bob", "r1")
    intake.release(released[0].claim_id)
    intake.expire_holds()
    intake.housekeep()
    held, confirmed = intake.claim("cid", "r1"), intake.claim("dan", "r1")
    intake.confirm(confirmed.claim_id, "dan")
    assert rows(intake) == (3, 7), "answered for a while"
    age(intake)
    intake.housekeep()
    assert rows(intake) == (1, 2)
    assert proof(intake) == (4, 1, 1, 1)
    status = intake.status()
    assert [status[key] for key in ("claims", "expired", "released", "held")] == [4, 1, 1, 1]
    assert intake.confirm(expired.claim_id, "bob") == "unknown"
    assert intake.claim_status(expired.claim_id)["state"] == intake.release(expired.claim_id) == "unknown"
    assert intake.request_status("ann", "r1") == []
    lose_unlogged(intake.connection)
    intake.seed()
    assert (proof(intake), rows(intake), intake.reconcile()) == ((4, 1, 1, 1), (1, 2), [])
    assert intake.claim("bob", "r1").outcome == "held", "unknown, so it is a new claim"
    assert intake.claim("cid", "r1").claim_id == held.claim_id
    assert (proof(intake), intake.reconcile()) == ((5, 1, 1, 2), [])


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_rows_do_not_grow_with_the_claims_of_a_user(intake: Intake, limit: int | None) -> None:
    intake.open(10, holdSeconds=HOLD, claimsPerUser=limit)
    bound = 0 if limit is None else 2
    for n in range(12):
        for k in range(4):
            answer = intake.claim("ann", f"r{n}-{k}")
            assert answer.outcome == "held"
            assert intake.release(answer.claim_id) == "released"
        age(intake)
        intake.housekeep()
        assert rows(intake) == (bound, bound)
    assert proof(intake) == (48, 0, 48, 0)
    for n in range(limit or 4):
        assert intake.claim("ann", f"s{n}").outcome == "held"
    if limit:
        assert intake.claim("ann", "t").outcome == "limit_reached"
    assert intake.reconcile() == []


def test_a_row_that_stays_is_not_looked_at_in_each_call(intake: Intake) -> None:
    intake.open(10, holdSeconds=HOLD, claimsPerUser=1)
    for n in range(4):
        intake.release(intake.claim(f"u{n}").claim_id)
    age(intake)
    intake.housekeep()
    assert rows(intake) == (4, 4)
    assert intake.value("SELECT count(*) FROM intake.holds WHERE ended_at < now() - interval '15 minutes'") == 0


def test_the_limit_holds_when_the_first_claim_of_a_user_is_over(intake: Intake) -> None:
    intake.open(10, holdSeconds=HOLD, claimsPerUser=1)
    intake.release(intake.claim("ann").claim_id)
    assert intake.claim("ann").outcome == "held"
    age(intake)
    intake.housekeep()
    assert intake.claim("ann").outcome == "limit_reached"
    assert intake.claim_batch([("ann", None)])[0].outcome == "limit_reached"


def test_the_limit_holds_when_the_last_claim_of_a_user_is_over(intake: Intake, other: Intake, uri: str) -> None:
    """Two claims at once take the same key, so one of them waits for the other and sees it."""
    intake.open(10, holdSeconds=HOLD, claimsPerUser=1)
    for _ in range(3):
        intake.release(intake.claim("ann").claim_id)
    with Intake(uri) as late, ThreadPoolExecutor() as threads:
        with other.connection.transaction():
            assert other.claim("ann").outcome == "held"
            age(intake)
            intake.housekeep()
            claiming = threads.submit(late.claim, "ann")
            wait_until_blocked(intake, claiming)
        assert claiming.result().outcome == "limit_reached"
    assert unique_keys(intake) == ["1", "3", "4"]


def test_several_slots_of_an_ended_hold_stay_or_go_together(intake: Intake) -> None:
    intake.open(20, holdSeconds=HOLD, claimsPerUser=4)
    for n in (2, 3, 4):
        intake.release(intake.claim_several("ann", n)[0].claim_id)
    age(intake)
    intake.housekeep()
    assert rows(intake) == (2, 6), "2 with the first key, 4 with the last"
    assert (intake.reconcile(), proof(intake)) == ([], (3, 0, 3, 0))


def test_keys_are_not_changed_while_claims_are_forgotten(intake: Intake, other: Intake) -> None:
    """configure() gives every claim a key of the other kind: before or after, and housekeeping knows which."""
    intake.open(10, holdSeconds=HOLD)
    before = intake.value("SELECT to_jsonb(c) FROM intake.engine_config c")

    def forget(bridge: Intake) -> None:
        bridge.value(
            "SELECT intake_private.forget_ended_holds(jsonb_populate_record(NULL::intake.engine_config, %s))",
            Jsonb(before),
        )

    intake.release(intake.claim("ann", "r1").claim_id)
    intake.claim("ann", "r2")
    with Intake(intake.uri) as operator, ThreadPoolExecutor() as threads:
        with other.connection.transaction():
            forget(other)
            switching = threads.submit(operator.configure, 10, holdSeconds=HOLD, claimsPerUser=1)
            wait_until_blocked(intake, switching)
            assert not switching.done(), "the keys changed while they were looked at"
        switching.result()
    age(intake)
    forget(intake)
    assert unique_keys(intake) == ["1", "2"]
    assert intake.claim("ann").outcome == "limit_reached"


def test_i7_limit_and_requests_hold_while_rows_are_forgotten(intake: Intake, uri: str) -> None:
    """Every user calls twice at once, with the same requests; what has ended before the round is forgotten in it."""
    limit, rounds, users = 2, 12, ["ann", "bob", "cid"]
    intake.open(12, holdSeconds=HOLD, claimsPerUser=limit)

    def buy(user: str, round_no: int) -> None:
        with Intake(uri) as buyer:
            for n in range(6):
                answer = buyer.claim(user, f"{round_no}-{n}")
                assert buyer.value(
                    "SELECT count(*) FROM intake.claimed_slots WHERE user_id = %s AND status <> 'V'", user
                ) in range(limit + 1)
                if n % 2:
                    buyer.release(answer.claim_id) if answer.claim_id else None

    def forget(stop: list[bool]) -> None:
        with Intake(uri) as bridge:
            for _ in count():
                bridge.housekeep()
                if stop:
                    return

    for round_no in range(rounds):
        age(intake)
        stop: list[bool] = []
        with ThreadPoolExecutor() as threads:
            forgetting = threads.submit(forget, stop)
            try:
                for buying in [threads.submit(buy, user, round_no) for user in users * 2]:
                    buying.result()
            finally:
                stop.append(True)
            forgetting.result()
        assert intake.reconcile() == []
        for (claim_id,) in intake.rows("SELECT claim_id FROM intake.holds WHERE ended IS NULL"):
            intake.release(claim_id)
    age(intake)
    intake.housekeep()
    assert rows(intake) == (2 * len(users), 2 * len(users))


def test_thousands_of_ended_holds_of_one_user_are_forgotten_by_key(intake: Intake) -> None:
    """The keys of a user are read once, not once for each hold."""
    holds = 600
    intake.open(10, holdSeconds=HOLD, claimsPerUser=1)
    intake.value(
        "SELECT count(intake.release_claim('drop', (intake.claim_resource('drop', 'ann')).claim_id, 'no'))"
        " FROM generate_series(1, %s)",
        holds,
    )
    intake.claim_requests([Request(f"u{n}") for n in range(9)])
    age(intake)
    intake.connection.execute("SELECT pg_stat_force_next_flush()")
    before = intake.value(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'claimed_slots_unique_key'"
    )
    intake.housekeep()
    intake.connection.execute("SELECT pg_stat_force_next_flush()")
    after = intake.value(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'claimed_slots_unique_key'"
    )
    assert after - before < 10 * holds
    assert rows(intake) == (2 + 9, 2 + 9)
