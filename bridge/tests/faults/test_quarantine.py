"""A claim that kills the process, as a bug or a lack of memory would: it is the only dead letter."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from mutants import DEADLY, MUTANTS
from sale import POOL, Claim, Sale
from webhook_server import WebhookServer
from worker_processes import WorkerProcess, WorkerProcesses

KILLER = "killer"
# Seven leases of a second each that have to run out, and some hundreds of claims that are read one by one.
PATIENCE_SECONDS = 120.0


class Fleet:
    """Bridges, each of which is started again when it ends."""

    def __init__(self, processes: WorkerProcesses, environment: Mapping[str, str]) -> None:
        self._processes = processes
        self._environment = environment
        self.keepers: list[asyncio.Task[None]] = []
        self.alive: list[WorkerProcess] = []
        self.deaths = 0

    def add(self, bridges: int) -> None:
        """So many more."""
        self.keepers += [asyncio.create_task(self._keep()) for _ in range(bridges)]

    async def _keep(self) -> None:
        while True:
            process = await self._processes.start(self._environment)
            self.alive.append(process)
            await process.ended.wait()
            self.alive.remove(process)
            self.deaths += 1


@asynccontextmanager
async def fleet(sale: Sale, logs: Path, bridges: int, mutant: str | None = None) -> AsyncIterator[Fleet]:
    """Bridges that die of the killer."""
    async with WorkerProcesses(logs, mutant) as processes:
        running = Fleet(processes, sale.environment(INTAKE_HTTP_PORT="0", KILLER=KILLER))
        running.add(bridges)
        try:
            yield running
        finally:
            for keeper in running.keepers:
                keeper.cancel()
            await asyncio.gather(*running.keepers, return_exceptions=True)


async def claim_of_the_killer(sale: Sale) -> Claim:
    """One claim among the others."""
    (row,) = await sale.rows("SELECT * FROM intake.claim_resource(%s, %s)", POOL, KILLER)
    claim = Claim(row["claim_id"], KILLER, (row["slot_no"],))
    sale.claims.append(claim)
    return claim


async def drained(sale: Sale) -> None:
    """Wait for the end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await sale.queue():  # noqa: ASYNC110 - other processes empty it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("path", "bridges"), [("rpc", 1), ("rpc", 2), ("webhook", 2), ("void", 2)])
async def test_a_claim_that_kills_its_bridge_is_the_only_dead_letter(
    sale: Sale, webhook: WebhookServer, tmp_path: Path, path: str, bridges: int
) -> None:
    await sale.configure(batchSize=500, visibilityTimeoutSeconds=1)
    if path == "webhook":
        await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(250)
    killer = await claim_of_the_killer(sale)
    await sale.claim(249)
    if path == "void":
        await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 500)", POOL)
        for claim in sale.claims:
            assert await sale.release(claim) == "releasing"
    async with fleet(sale, tmp_path, bridges) as running:
        await drained(sale)
        assert running.deaths == 6, "three with others, three alone"
    (letter,) = (await sale.dead()).values()
    assert letter["claim_id"] == killer.claim_id
    assert letter["reason"].startswith("it was read alone 3 times, and each time its bridge stopped before the end")
    status = await sale.status()
    assert (status["committed"], status["voided"]) == ((0, 499) if path == "void" else (499, 0))
    if path == "webhook":
        assert letter["state"] == "committing"
        assert letter["reason"].endswith("It may be committed: ask the ledger")
        assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []
    else:
        await sale.check()


def _mutants(test: str) -> list[ParameterSet]:
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(None, id="as-written")] + [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == test
    ]


@pytest.mark.parametrize("mutant", _mutants(DEADLY))
async def test_while_a_message_is_read_alone_its_bridge_has_nothing_else_in_hand(
    sale: Sale, tmp_path: Path, mutant: str | None
) -> None:
    await sale.configure(batchSize=2, visibilityTimeoutSeconds=60)
    await claim_of_the_killer(sale)
    async with WorkerProcesses(tmp_path, mutant) as processes:
        environment = sale.environment(INTAKE_HTTP_PORT="0", KILLER=KILLER)
        for death in range(6):
            bridge = await processes.start(environment)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not bridge.ended.is_set():
                    # Once it is read alone the rush goes on: there is always a batch to be read beside it.
                    if death >= 3 and len(await sale.queue()) < 20:
                        await sale.claim(20)
                    await asyncio.sleep(0.01)
            left = await sale.rows(
                "SELECT message ->> 'user_id' AS of FROM pgmq.q_intake_queue WHERE headers ? 'worker'"
            )
            assert [row["of"] for row in left] == [KILLER]
            await sale.intake.execute("UPDATE pgmq.q_intake_queue SET vt = clock_timestamp() WHERE headers ? 'worker'")
        bridge = await processes.start(environment)
        await drained(sale)
        bridge.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bridge.ended.wait()
    assert len(await sale.dead()) == 1
    await sale.check()


async def test_i2_a_fleet_that_is_killed_again_and_again_makes_no_dead_letters(sale: Sale, tmp_path: Path) -> None:
    await sale.configure(batchSize=150, visibilityTimeoutSeconds=1)
    await sale.claim(300)
    async with fleet(sale, tmp_path, 2) as running:
        # Three times with all of them in hand, and then as they are read one by one.
        async with sale.ledger.transaction(force_rollback=True):
            await sale.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")
            for _ in range(3):
                await _struck(sale, running, lambda in_hand, _: in_hand == 300)
        for sold in range(30, 300, 30):
            await _struck(sale, running, lambda _, left, sold=sold: left <= 300 - sold)  # type: ignore[misc]
        await drained(sale)
        # Each time one at the least: the other may be on its way back, and one has room for all of them.
        assert running.deaths >= 3 + 9
    assert await sale.dead() == {}
    assert len(await sale.sales()) == 300
    await sale.check()


async def _struck(sale: Sale, running: Fleet, when: Callable[[int, int], bool]) -> None:
    """Kill all bridges once so many messages are in their hands, or left."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            (row,) = await sale.rows(
                "SELECT count(*) FILTER (WHERE headers ? 'worker' AND vt > clock_timestamp()) AS in_hand, "
                "count(*) AS remaining FROM pgmq.q_intake_queue"
            )
            if running.alive and when(row["in_hand"], row["remaining"]):
                break
            await asyncio.sleep(0.01)
    victims = list(running.alive)
    for process in victims:
        process.signal(signal.SIGKILL)
    for process in victims:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await process.ended.wait()
