"""seal: on return no claim is running, and none will ever succeed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import psycopg
import pytest

from tests.sql.intake import POOL, Asked, Intake, claims, crowd, lose_unlogged, outcomes, wait_until_blocked


def seal(uri: str) -> list[object]:
    """Seal, and read at once what is on the queue."""
    with Intake(uri) as operator:
        operator.value("SELECT intake.seal(%s, 'window closed')", POOL)
        return operator.column("SELECT (message ->> 'claim_id')::uuid FROM pgmq.q_intake_queue")


def test_i2_seal_waits_for_running_claims_and_lets_none_pass_it(intake: Intake, uri: str) -> None:
    intake.open(10)
    with ThreadPoolExecutor() as threads, Intake(uri) as early, Intake(uri) as late:
        with early.connection.transaction():
            claim = early.claim("early")
            sealing = threads.submit(seal, uri)
            wait_until_blocked(intake, sealing)
            assert not sealing.done(), "seal returned while a claim was running"
            meanwhile = late.claim("late")
            assert not sealing.done(), "seal returned while a claim was running"
        expected = sorted(each.claim_id for each in (claim, meanwhile) if each.claim_id)
        assert sorted(map(str, sealing.result())) == sorted(map(str, expected)), "what was claimed is there on return"
        assert late.claim("later").outcome == "closed"


async def test_i2_nothing_is_claimed_after_seal_returns(intake: Intake, uri: str) -> None:
    intake.open(100_000)
    sealed: list[object] = []
    over, answers = asyncio.Event(), count(1)

    async def wait_at_last(_: Asked) -> None:
        if next(answers) > 1000:
            await over.wait()  # however late the seal comes, some come after it

    async def seal_when_it_is_busy() -> None:
        while not intake.value("SELECT EXISTS (SELECT FROM pgmq.q_intake_queue)"):  # noqa: ASYNC110 - the server's state is the event
            await asyncio.sleep(0)
        sealed.extend(await asyncio.to_thread(seal, uri))
        over.set()

    calls = [(f"u{n}", None) for n in range(1500)]
    history, _ = await asyncio.gather(crowd(uri, 16, calls, wait_at_last), seal_when_it_is_busy())
    assert outcomes(history).keys() == {"claimed", "closed"}
    assert sealed == sorted(answer.claim_id for answer in claims(history) if answer.claim_id)


def test_seal_is_for_good(intake: Intake) -> None:
    intake.open(10)
    intake.value("SELECT intake.seal(%s, 'first')", POOL)
    intake.value("SELECT intake.seal(%s, 'second')", POOL)
    assert intake.rows("SELECT action, reason FROM intake.audit") == [("seal", "first")]
    lose_unlogged(intake.connection)
    intake.seed()
    assert intake.claim("ann").outcome == "closed", "a rebuild does not open it again"
    assert intake.status()["sealed"] is True
    with pytest.raises(psycopg.Error) as caught:
        intake.configure(11)
    assert caught.value.sqlstate == "IE003"


def test_seal_before_the_pool_was_ever_seeded(intake: Intake) -> None:
    intake.configure(10)
    intake.value("SELECT intake.seal(%s, 'deleted early')", POOL)
    intake.seed()
    assert intake.claim("ann").outcome == "closed"


@pytest.mark.parametrize(("pool", "reason", "sqlstate"), [("nowhere", "why", "IE001"), (POOL, "", "IE002")])
def test_seal_refuses(intake: Intake, pool: str, reason: str, sqlstate: str) -> None:
    intake.configure(10)
    with pytest.raises(psycopg.Error) as caught:
        intake.value("SELECT intake.seal(%s, %s)", pool, reason)
    assert caught.value.sqlstate == sqlstate
