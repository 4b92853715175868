"""A claim whose presence ends the process, as a defect or a lack of memory would: it ends alone, and buries nobody."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from mutants import DEADLY, MUTANTS
from nursery import Child, Nursery
from scene import POOL, Claim, Scene
from webhook_server import WebhookServer

KILLER = "killer"
# Seven leases of a second each that have to run out, and some hundreds of claims that are read one by one.
PATIENCE_SECONDS = 120.0


class Fleet:
    """Bridges, each of which is started again when it ends."""

    def __init__(self, nursery: Nursery, environment: Mapping[str, str]) -> None:
        self._nursery = nursery
        self._environment = environment
        self.keepers: list[asyncio.Task[None]] = []
        self.alive: list[Child] = []
        self.deaths = 0

    def add(self, bridges: int) -> None:
        """So many more."""
        self.keepers += [asyncio.create_task(self._keep()) for _ in range(bridges)]

    async def _keep(self) -> None:
        while True:
            child = await self._nursery.start(self._environment)
            self.alive.append(child)
            await child.ended.wait()
            self.alive.remove(child)
            self.deaths += 1


@asynccontextmanager
async def fleet(scene: Scene, logs: Path, bridges: int, mutant: str | None = None) -> AsyncIterator[Fleet]:
    """Bridges that die of the killer."""
    async with Nursery(logs, mutant) as nursery:
        running = Fleet(nursery, scene.environment(INTAKE_HTTP_PORT="0", KILLER=KILLER))
        running.add(bridges)
        try:
            yield running
        finally:
            for keeper in running.keepers:
                keeper.cancel()
            await asyncio.gather(*running.keepers, return_exceptions=True)


async def claim_of_the_killer(scene: Scene) -> Claim:
    """One claim among the others."""
    (row,) = await scene.rows("SELECT * FROM intake.claim_resource(%s, %s)", POOL, KILLER)
    claim = Claim(row["claim_id"], KILLER, row["slot_no"])
    scene.claims.append(claim)
    return claim


async def drained(scene: Scene) -> None:
    """Wait for the end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await scene.queue():  # noqa: ASYNC110 - other processes empty it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("path", "bridges"), [("rpc", 1), ("rpc", 2), ("webhook", 2), ("void", 2)])
async def test_a_claim_that_ends_its_bridge_is_a_dead_letter_and_buries_nobody(
    scene: Scene, webhook: WebhookServer, tmp_path: Path, path: str, bridges: int
) -> None:
    await scene.configure(batchSize=500, visibilityTimeoutSeconds=1)
    if path == "webhook":
        await scene.configure(commitTarget={"webhook": {"url": webhook.single}})
    await scene.claim(250)
    killer = await claim_of_the_killer(scene)
    await scene.claim(249)
    if path == "void":
        await scene.rows("SELECT FROM intake.read_batch(%s, 'gone', 500)", POOL)
        for claim in scene.claims:
            assert await scene.release(claim) == "releasing"
    async with fleet(scene, tmp_path, bridges) as running:
        await drained(scene)
        assert running.deaths == 6, "three with others, three alone"
    (letter,) = (await scene.dead()).values()
    assert letter["claim_id"] == killer.claim_id
    assert letter["reason"].startswith("it was read alone 3 times, and each time its bridge stopped before the end")
    status = await scene.status()
    assert (status["committed"], status["voided"]) == ((0, 499) if path == "void" else (499, 0))
    if path == "webhook":
        assert letter["state"] == "committing"
        assert letter["reason"].endswith("It may be committed: ask the ledger")
        assert await scene.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []
    else:
        await scene.check()


def _mutants(test: str) -> list[ParameterSet]:
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(None, id="as-written")] + [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == test
    ]


@pytest.mark.parametrize("mutant", _mutants(DEADLY))
async def test_while_a_message_is_read_alone_its_bridge_has_nothing_else_in_hand(
    scene: Scene, tmp_path: Path, mutant: str | None
) -> None:
    await scene.configure(batchSize=2, visibilityTimeoutSeconds=60)
    await claim_of_the_killer(scene)
    async with Nursery(tmp_path, mutant) as nursery:
        environment = scene.environment(INTAKE_HTTP_PORT="0", KILLER=KILLER)
        for death in range(6):
            bridge = await nursery.start(environment)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not bridge.ended.is_set():
                    # Once it is read alone the rush goes on: there is always a batch to be read beside it.
                    if death >= 3 and len(await scene.queue()) < 20:
                        await scene.claim(20)
                    await asyncio.sleep(0.01)
            left = await scene.rows(
                "SELECT message ->> 'user_id' AS of FROM pgmq.q_intake_queue WHERE headers ? 'worker'"
            )
            assert [row["of"] for row in left] == [KILLER]
            await scene.intake.execute("UPDATE pgmq.q_intake_queue SET vt = clock_timestamp() WHERE headers ? 'worker'")
        bridge = await nursery.start(environment)
        await drained(scene)
        bridge.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bridge.ended.wait()
    assert len(await scene.dead()) == 1
    await scene.check()


async def test_i2_a_fleet_that_is_killed_again_and_again_buries_nobody(scene: Scene, tmp_path: Path) -> None:
    await scene.configure(batchSize=150, visibilityTimeoutSeconds=1)
    await scene.claim(300)
    async with fleet(scene, tmp_path, 2) as running:
        # Three times with all of them in hand, and then as they are read one by one.
        async with scene.ledger.transaction(force_rollback=True):
            await scene.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")
            for _ in range(3):
                await _struck(scene, running, lambda in_hand, _: in_hand == 300)
        for sold in range(30, 300, 30):
            await _struck(scene, running, lambda _, left, sold=sold: left <= 300 - sold)  # type: ignore[misc]
        await drained(scene)
        # Each time one at the least: the other may be on its way back, and one has room for all of them.
        assert running.deaths >= 3 + 9
    assert await scene.dead() == {}
    assert len(await scene.sales()) == 300
    await scene.check()


async def _struck(scene: Scene, running: Fleet, when: Callable[[int, int], bool]) -> None:
    """Kill all bridges once so many messages are in their hands, or left."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            (row,) = await scene.rows(
                "SELECT count(*) FILTER (WHERE headers ? 'worker' AND vt > clock_timestamp()) AS in_hand, "
                "count(*) AS remaining FROM pgmq.q_intake_queue"
            )
            if running.alive and when(row["in_hand"], row["remaining"]):
                break
            await asyncio.sleep(0.01)
    struck = list(running.alive)
    for child in struck:
        child.signal(signal.SIGKILL)
    for child in struck:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await child.ended.wait()
