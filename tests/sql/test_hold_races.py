"""Holds that are confirmed, extended, released and ended at once: one of them takes effect, and the others see it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.sql.confirm_races import race
from tests.sql.intake import POOL, Answer, Intake, Request, wait_until_blocked

HOLD, EXTEND = 60, 600
MANY = 60


@pytest.fixture
def pool(intake: Intake) -> Intake:
    return intake.open(200, holdSeconds=HOLD, extendSeconds=EXTEND)


@pytest.fixture
def other(uri: str) -> Iterator[Intake]:
    with Intake(uri) as client:
        yield client


def state(intake: Intake, answer: Answer) -> str:
    """What claim_status says of the claim."""
    return str(intake.claim_status(answer.claim_id)["state"])


def about_to_end(intake: Intake, answer: Answer) -> None:
    """Let the hold end in a moment."""
    intake.connection.execute(
        "UPDATE intake.holds SET expires_at = clock_timestamp() + interval '300 ms' WHERE claim_id = %s",
        [answer.claim_id],
    )


def wait_for_the_end(intake: Intake, answer: Answer) -> None:
    """Until the clock of DB1 has passed the end of the hold, as others see it."""
    while not intake.value(
        "SELECT clock_timestamp() > expires_at FROM intake.holds WHERE claim_id = %s", answer.claim_id
    ):
        pass


@contextmanager
def at_once(uri: str, *calls: Callable[[Intake], Any]) -> Iterator[list[Future[Any]]]:
    """Make calls at once, each over a connection of its own that is open before."""
    clients = [Intake(uri) for _ in calls]
    try:
        with ThreadPoolExecutor() as threads:
            yield [threads.submit(call, client) for call, client in zip(calls, clients, strict=True)]
    finally:
        for client in clients:
            client.connection.close()


async def test_i2_of_a_confirmation_and_the_end_of_the_hold_one_wins(pool: Intake, uri: str) -> None:
    result = await race(uri, 400)
    assert result.wrong == []
    assert set(result.answers) <= {"confirmed", "expired", "rolled back"}


def test_i2_a_confirmation_under_way_when_the_hold_ends_stands(pool: Intake, other: Intake, uri: str) -> None:
    answer = pool.claim_several("ann", 2)[0]
    about_to_end(pool, answer)
    with other.connection.transaction():
        assert other.confirm(answer.claim_id, "ann") == "confirmed"
        wait_for_the_end(pool, answer)
        with at_once(uri, Intake.housekeep) as (ending,):
            wait_until_blocked(pool, ending)
            other.connection.execute("COMMIT")
        other.connection.execute("BEGIN")
    assert state(pool, answer) == "queued"
    assert (pool.inventory(), pool.reconcile()) == ((198, 2, 0), [])
    pool.housekeep()
    assert pool.inventory() == (198, 2, 0)


def test_i2_an_extension_under_way_when_the_hold_ends_stands(pool: Intake, other: Intake, uri: str) -> None:
    """Neither housekeeping nor a confirmation takes the hold for expired."""
    answer = pool.claim("ann")
    about_to_end(pool, answer)
    other.connection.execute("BEGIN")
    assert other.extend_hold(answer.claim_id, "ann")[0] == "extended"
    wait_for_the_end(pool, answer)
    with at_once(uri, Intake.housekeep) as (ending,):
        wait_until_blocked(pool, ending)
        with at_once(uri, lambda buyer: buyer.extend_hold(answer.claim_id, "ann")[0]) as (extending,):
            wait_until_blocked(pool, extending)
            other.connection.execute("COMMIT")
    ending.result()
    assert extending.result() == "replayed"
    assert state(pool, answer) == "held"
    assert (pool.confirm(answer.claim_id, "ann"), pool.reconcile()) == ("confirmed", [])


def test_a_confirmation_waits_for_an_extension_that_is_under_way(pool: Intake, other: Intake, uri: str) -> None:
    answer = pool.claim("ann")
    about_to_end(pool, answer)
    other.connection.execute("BEGIN")
    assert other.extend_hold(answer.claim_id, "ann")[0] == "extended"
    wait_for_the_end(pool, answer)
    with at_once(uri, lambda buyer: buyer.confirm(answer.claim_id, "ann")) as (confirming,):
        wait_until_blocked(pool, confirming)
        other.connection.execute("COMMIT")
    assert confirming.result() == "confirmed"
    assert state(pool, answer) == "queued"


@pytest.mark.parametrize("kept", [True, False])
def test_a_confirmation_waits_for_another_one(pool: Intake, other: Intake, uri: str, *, kept: bool) -> None:
    answer = pool.claim("ann", None, {"a": 1})
    other.connection.execute("BEGIN")
    assert other.confirm(answer.claim_id, "ann", {"card": 1}) == "confirmed"
    with at_once(uri, lambda buyer: buyer.confirm(answer.claim_id, "ann", {"card": 1})) as (confirming,):
        wait_until_blocked(pool, confirming)
        other.connection.execute("COMMIT" if kept else "ROLLBACK")
    assert confirming.result() == ("replayed" if kept else "confirmed")
    assert [m["claim_id"] for m in pool.read()] == [answer.claim_id]


def test_i7_of_two_confirmations_with_different_payloads_one_is_refused(pool: Intake, uri: str) -> None:
    def confirm(card: int) -> Callable[[Intake], list[str]]:
        def confirm_all(buyer: Intake) -> list[str]:
            said = []
            for answer, request in holds:
                try:
                    said.append(buyer.confirm(answer.claim_id, request.user or "", {"card": card}))
                except psycopg.Error as error:
                    said.append(str(error.sqlstate))
            return said

        return confirm_all

    requests = [Request(f"u{n}", "r1", 1, {"a": n}) for n in range(MANY)]
    holds = [(each[0], request) for each, request in zip(pool.claim_requests(requests), requests, strict=True)]
    with at_once(uri, confirm(0), confirm(1)) as confirming:
        pass
    said = list(zip(*(each.result() for each in confirming), strict=True))
    assert {frozenset(pair) for pair in said} == {frozenset({"confirmed", "IE009"})}
    payloads = {m["claim_id"]: m["payload"] for m in pool.read(MANY)}
    assert [payloads[answer.claim_id] for answer, _ in holds] == [{"card": pair.index("confirmed")} for pair in said]


def test_i2_a_hold_that_is_confirmed_and_released_at_once_ends_released(pool: Intake, uri: str) -> None:
    """No bridge reads meanwhile, so the release frees the slot before or after the confirmation."""
    requests = [Request(f"u{n}", "r1", 2) for n in range(MANY)]
    holds = [(each[0], request) for each, request in zip(pool.claim_requests(requests), requests, strict=True)]
    with at_once(
        uri,
        lambda buyer: [buyer.confirm(answer.claim_id, request.user or "") for answer, request in holds],
        lambda buyer: [buyer.release(answer.claim_id) for answer, _ in holds],
    ) as (confirming, releasing):
        pass
    assert set(confirming.result()) <= {"confirmed", "released"}
    assert set(releasing.result()) == {"released"}
    assert {state(pool, answer) for answer, _ in holds} == {"released"}
    assert (pool.inventory(), pool.read(), pool.reconcile()) == ((200, 0, 0), [], [])
    for (answer, request), said in zip(holds, confirming.result(), strict=True):
        later = pool.confirm(answer.claim_id, request.user or "")
        assert later == ("replayed" if said == "confirmed" else "released")


def test_i2_seal_waits_for_a_confirmation_and_lets_later_ones_through(pool: Intake, other: Intake, uri: str) -> None:
    early, late = pool.claim("ann"), pool.claim("bob")
    other.connection.execute("BEGIN")
    assert other.confirm(early.claim_id, "ann") == "confirmed"
    with at_once(uri, lambda operator: operator.rows("SELECT intake.seal(%s, 'over')", POOL)) as (sealing,):
        wait_until_blocked(pool, sealing)
        assert pool.confirm(late.claim_id, "bob") == "confirmed"
        assert not sealing.done()
        other.connection.execute("COMMIT")
    sealing.result()
    assert {state(pool, answer) for answer in (early, late)} == {"queued"}
    assert pool.claim("cid").outcome == "closed"


async def test_i2_confirmations_during_a_seal_all_count(pool: Intake, uri: str) -> None:
    requests = [Request(f"u{n}") for n in range(MANY)]
    holds = [(each[0], request) for each, request in zip(pool.claim_requests(requests), requests, strict=True)]
    sealed = asyncio.to_thread(lambda: Intake(uri).rows("SELECT intake.seal(%s, 'over')", POOL))

    def confirm_all() -> list[str]:
        with Intake(uri) as buyer:
            return [buyer.confirm(answer.claim_id, request.user or "") for answer, request in holds]

    said, _ = await asyncio.gather(asyncio.to_thread(confirm_all), sealed)
    assert set(said) == {"confirmed"}
    assert len(pool.read(MANY)) == MANY
    assert pool.reconcile() == []


def test_two_bridges_read_each_confirmed_claim_once(pool: Intake, uri: str) -> None:
    requests = [Request(f"u{n}", "r1", 1, {"a": n}) for n in range(MANY)]
    holds = [(each[0], request) for each, request in zip(pool.claim_requests(requests), requests, strict=True)]
    confirmed: list[Any] = []

    def confirm_all(buyer: Intake) -> None:
        for answer, request in holds[::2]:
            assert buyer.confirm(answer.claim_id, request.user or "", {"card": request.user}) == "confirmed"
            confirmed.append(answer.claim_id)
        confirmed.append(None)

    def read_all(bridge: Intake) -> list[dict[str, Any]]:
        found = []
        while confirmed[-1:] != [None] or bridge.status()["queue"]["inFlight"] < MANY // 2:
            found += bridge.read(3)
        return found

    with at_once(uri, confirm_all, read_all, read_all) as (confirming, *reading):
        pass
    confirming.result()
    messages = [message for each in reading for message in each.result()]
    assert sorted(m["claim_id"] for m in messages) == sorted(confirmed[:-1])
    assert all(m["payload"] == {"card": m["user_id"]} for m in messages)
    assert pool.status()["holds"]["claims"] == MANY // 2
    assert pool.reconcile() == []
