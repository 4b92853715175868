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
from intake_bridge.metering import Metering
from intake_bridge.observability.metrics import Metrics
from intake_bridge.observability.tracing import NoTracing
from metered import check_windows, watch
from mutants import FLEET, FROZEN, MUTANTS
from nursery import Child, Nursery
from scene import POOL, Scene
from webhook_server import WebhookServer

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
    scene: Scene, tmp_path: Path, workers: int, mutant: str | None
) -> None:
    await watch(scene)
    await scene.configure(maxPerSecond=RATE, visibilityTimeoutSeconds=1)
    await scene.claim(300)
    async with Nursery(tmp_path, mutant) as nursery:
        environment = scene.environment(INTAKE_HTTP_PORT="0")
        fleet = [await nursery.start(environment) for _ in range(workers)]
        for sold in (50, 120, 190):

            async def reached(sold: int = sold) -> bool:
                return len(await scene.sales()) >= sold

            await scene.until(reached, f"{sold} are sold")
            fleet.pop(0).signal(signal.SIGKILL)
            fleet.append(await nursery.start(environment))
        await scene.until_drained()
        await _retire(*fleet)
    await scene.check()
    await check_windows(scene, RATE)


@pytest.mark.parametrize("mutant", [None, *_mutants(FROZEN)])
async def test_i10_tokens_of_a_worker_that_was_frozen_are_not_used(
    scene: Scene, tmp_path: Path, mutant: str | None
) -> None:
    """It goes on after others have its tokens, and still holds its messages: nothing but the clock can stop it."""
    await scene.configure(maxPerSecond=RATE, visibilityTimeoutSeconds=60)
    await scene.claim(10)
    async with Nursery(tmp_path, mutant) as nursery:
        environment = scene.environment(INTAKE_HTTP_PORT="0")
        frozen = await nursery.start(environment | {"INTAKE_FAULTS": "commit:before:stop"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            await frozen.stopped.wait()
        in_hand = {key for key, row in (await scene.queue()).items() if row["read_ct"] == 1}
        assert in_hand

        async def forgotten() -> bool:
            await scene.rows("SELECT FROM intake.lease_tokens(%s, 1)", POOL)
            return (await scene.rows("SELECT FROM intake.token_buckets, unnest(leases) l WHERE l.tokens > 1")) == []

        await scene.until(forgotten, "its lease runs out")
        frozen.signal(signal.SIGCONT)
        await scene.until_drained()
        await _retire(frozen)
    await scene.check()
    archived = await scene.rows("SELECT (message ->> 'claim_id')::uuid AS claim_id, read_ct FROM pgmq.a_intake_queue")
    assert {row["claim_id"] for row in archived if row["read_ct"] == 1}.isdisjoint(in_hand), "read again, leased again"


async def test_i10_a_call_without_an_end_keeps_its_token(scene: Scene) -> None:
    await scene.configure(maxPerSecond=RATE)
    database = Database(POOL, lambda: _uri(scene), "test")
    await database.open()
    clock = asyncio.get_running_loop().time
    metering = Metering(database, clock, Throttle(clock), Metrics("test", NoTracing()))
    metering.follow(await database.configuration())
    passage = await metering.passage(8, lambda: True)
    assert passage is not None
    async with passage:
        lost = of_transport(Transport.TIMEOUT, "no answer")
        passage.answered([Outcome(Result.COMMITTED)] * (passage.size - 3) + [lost] * 3)
    assert await scene.rows("SELECT l.tokens FROM intake.token_buckets, unnest(leases) l") == [{"tokens": 3}]
    await database.close()


async def test_i10_a_webhook_call_is_a_commit(scene: Scene, webhook: WebhookServer) -> None:
    await watch(scene)
    await scene.configure(maxPerSecond=RATE, commitTarget={"webhook": {"url": webhook.single}})
    called = list[float]()

    def sell(_: object) -> dict[str, str]:
        called.append(time.time())
        return {"outcome": "committed"}

    webhook.behaviour = sell
    await scene.claim(120)
    async with scene.worker("one"), scene.worker("two"):
        await scene.until_drained()
    await check_windows(scene, RATE, called)


async def test_without_a_limit_the_meter_is_not_asked(scene: Scene) -> None:
    await scene.intake.execute("REVOKE EXECUTE ON FUNCTION intake.lease_tokens, intake.return_tokens FROM bridge")
    await scene.claim(5)
    async with scene.worker():
        await scene.until_drained()
    await scene.check()


async def test_a_changed_rate_reaches_a_batch_that_waits(scene: Scene) -> None:
    await scene.configure(maxPerSecond=1)
    await scene.claim(450)
    async with scene.worker():

        async def one() -> bool:
            return len(await scene.sales()) >= 1

        await scene.until(one, "it has begun, at a rate at which it would take longer than anybody waits")
        await scene.configure(maxPerSecond=100_000)
        await scene.until_drained()
        await scene.configure(maxPerSecond=1)
        await scene.claim(450)
        await scene.configure(maxPerSecond=None)
        await scene.until_drained()
    await scene.check()


async def test_a_pause_reaches_a_batch_that_waits_for_tokens(scene: Scene) -> None:
    await scene.configure(maxPerSecond=1)
    await scene.claim(50)
    async with scene.worker():

        async def one() -> bool:
            return len(await scene.sales()) >= 1

        async def all_back() -> bool:
            return all(row["visible"] for row in (await scene.queue()).values())

        await scene.until(one, "it has begun")
        await scene.configure(paused=True)
        await scene.until(all_back, "what waits goes back to the queue")
        assert await scene.queue(), "not because all were sold meanwhile"
        await scene.configure(paused=False, maxPerSecond=None)
        await scene.until_drained()
    await scene.check()


async def _uri(scene: Scene) -> str:
    return scene.environment()["INTAKE_DATABASE_URI"]


async def _retire(*fleet: Child) -> None:
    for child in fleet:
        child.signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for child in fleet:
            await child.ended.wait()
