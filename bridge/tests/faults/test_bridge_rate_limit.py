"""I10 with real workers that join, die and freeze: commits in any window <= maxPerSecond x window + capacity.

Counted are the rows of a real ledger by its clock, which is also DB1's. However slow the machine is, it can only spread
them: the bound has no tolerance in it. That the fleet also gets its rate is for a clock that a test moves
(tests/sql/test_rate_limit.py) and for `make bench-bridge`.
"""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from intake_bridge.adapters.database import Database
from intake_bridge.domain.outcomes import Outcome, Result, Transport, of_transport
from intake_bridge.domain.throttle import Throttle
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import NoTracing
from intake_bridge.rate_limiter import RateLimiter
from mutants import FLEET, FROZEN, MUTANTS
from rate_check import check_windows, watch
from sale import POOL, Sale
from webhook_server import WebhookServer
from worker_processes import WorkerProcess, WorkerProcesses

from tests.patience import PATIENCE_SECONDS

RATE = 200


def _mutants(test: str, *values: int) -> list[ParameterSet]:
    """Each mutant that this test must catch."""
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [
        pytest.param(*values, name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == test
    ]


@pytest.mark.parametrize(("workers", "mutant"), [(1, None), (2, None), (5, None), *_mutants(FLEET, 2)])
async def test_i10_holds_in_the_ledger_while_workers_join_and_die(
    sale: Sale, tmp_path: Path, workers: int, mutant: str | None
) -> None:
    await watch(sale)
    await sale.configure(maxPerSecond=RATE, visibilityTimeoutSeconds=1)
    await sale.claim(300)
    async with WorkerProcesses(tmp_path, mutant) as processes:
        environment = sale.environment(INTAKE_HTTP_PORT="0")
        fleet = [await processes.start(environment) for _ in range(workers)]
        for sold in (50, 120, 190):

            async def reached(sold: int = sold) -> bool:
                return len(await sale.sales()) >= sold

            await sale.until(reached, f"{sold} are sold")
            fleet.pop(0).signal(signal.SIGKILL)
            fleet.append(await processes.start(environment))
        await sale.until_drained()
        await _retire(*fleet)
    await sale.check()
    await check_windows(sale, RATE)


@pytest.mark.parametrize("mutant", [None, *_mutants(FROZEN)])
async def test_i10_tokens_of_a_worker_that_was_frozen_are_not_used(
    sale: Sale, tmp_path: Path, mutant: str | None
) -> None:
    """It goes on after others have its tokens, and still holds its messages: nothing but the clock can stop it."""
    await sale.configure(maxPerSecond=RATE, visibilityTimeoutSeconds=60)
    await sale.claim(10)
    async with WorkerProcesses(tmp_path, mutant) as processes:
        environment = sale.environment(INTAKE_HTTP_PORT="0")
        frozen = await processes.start(environment | {"FAULTS": "commit:before:stop"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            await frozen.stopped.wait()
        in_hand = {key for key, row in (await sale.queue()).items() if row["read_ct"] == 1}
        assert in_hand

        async def forgotten() -> bool:
            await sale.rows("SELECT FROM intake.lease_tokens(%s, 1)", POOL)
            return (await sale.rows("SELECT FROM intake.token_buckets, unnest(leases) l WHERE l.tokens > 1")) == []

        await sale.until(forgotten, "its lease runs out")
        frozen.signal(signal.SIGCONT)
        await sale.until_drained()
        await _retire(frozen)
    await sale.check()
    archived = await sale.rows("SELECT (message ->> 'claim_id')::uuid AS claim_id, read_ct FROM pgmq.a_intake_queue")
    assert {row["claim_id"] for row in archived if row["read_ct"] == 1}.isdisjoint(in_hand), "read again, leased again"


async def test_i10_a_call_without_an_end_keeps_its_token(sale: Sale) -> None:
    await sale.configure(maxPerSecond=RATE)
    database = Database(POOL, lambda: _uri(sale), "test")
    await database.open()
    clock = asyncio.get_running_loop().time
    rate_limiter = RateLimiter(database, clock, Throttle(clock), Metrics("test", NoTracing()))
    rate_limiter.follow(await database.configuration())
    permit = await rate_limiter.acquire(8, lambda: True)
    assert permit is not None
    async with permit:
        lost = of_transport(Transport.TIMEOUT, "no answer")
        permit.record_answers([Outcome(Result.COMMITTED)] * (permit.size - 3) + [lost] * 3)
    assert await sale.rows("SELECT l.tokens FROM intake.token_buckets, unnest(leases) l") == [{"tokens": 3}]
    await database.close()


async def test_i10_a_webhook_call_is_a_commit(sale: Sale, webhook: WebhookServer) -> None:
    await watch(sale)
    await sale.configure(maxPerSecond=RATE, commitTarget={"webhook": {"url": webhook.single}})
    called = list[float]()

    def sell(_: object) -> dict[str, str]:
        called.append(time.time())
        return {"outcome": "committed"}

    webhook.behaviour = sell
    await sale.claim(120)
    async with sale.worker("one"), sale.worker("two"):
        await sale.until_drained()
    await check_windows(sale, RATE, called)


async def test_without_a_limit_the_token_bucket_is_not_asked(sale: Sale) -> None:
    await sale.intake.execute("REVOKE EXECUTE ON FUNCTION intake.lease_tokens, intake.return_tokens FROM bridge")
    await sale.claim(5)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()


async def test_a_changed_rate_reaches_a_batch_that_waits(sale: Sale) -> None:
    await sale.configure(maxPerSecond=1)
    await sale.claim(450)
    async with sale.worker():

        async def one() -> bool:
            return len(await sale.sales()) >= 1

        await sale.until(one, "it has begun, at a rate at which it would take longer than anybody waits")
        await sale.configure(maxPerSecond=100_000)
        await sale.until_drained()
        await sale.configure(maxPerSecond=1)
        await sale.claim(450)
        await sale.configure(maxPerSecond=None)
        await sale.until_drained()
    await sale.check()


async def test_a_pause_reaches_a_batch_that_waits_for_tokens(sale: Sale) -> None:
    await sale.configure(maxPerSecond=1)
    await sale.claim(50)
    async with sale.worker():

        async def one() -> bool:
            return len(await sale.sales()) >= 1

        async def all_back() -> bool:
            return all(row["visible"] for row in (await sale.queue()).values())

        await sale.until(one, "it has begun")
        await sale.configure(paused=True)
        await sale.until(all_back, "what waits goes back to the queue")
        assert await sale.queue(), "not because all were sold meanwhile"
        await sale.configure(paused=False, maxPerSecond=None)
        await sale.until_drained()
    await sale.check()


async def _uri(sale: Sale) -> str:
    return sale.environment()["INTAKE_DATABASE_URI"]


async def _retire(*fleet: WorkerProcess) -> None:
    for process in fleet:
        process.signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for process in fleet:
            await process.ended.wait()
