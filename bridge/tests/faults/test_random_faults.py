"""Any faults at any points, of two or three workers at once, while the configuration changes under them.

The suite runs the same few schedules every time. For as many others as there is time for:

    uv run pytest bridge/tests/faults/test_random_faults.py --hypothesis-profile long
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from fault_points import Action, Fault, Position, Step
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interrupted_sale import ROLES, InterruptedSale, Kind, open_interrupted_sale
from sale import Templates
from worker_processes import WorkerProcess, WorkerProcesses

from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, install_ledger
from tests.profiles import chosen

FAULTS = st.lists(
    st.builds(Fault, st.sampled_from(Step), st.sampled_from(Position), st.sampled_from(Action), st.integers(1, 3)),
    min_size=2,
    max_size=6,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "batchSize": st.sampled_from([1, 2, 3, 100]),
        "paused": st.booleans(),
        "maxPerSecond": st.sampled_from([None, 50, 500]),
        "visibilityTimeoutSeconds": st.sampled_from([1, 2, 60]),
    },
)
EVENTS = st.one_of(
    st.tuples(st.just("configure"), CHANGES),
    st.tuples(st.just("claim"), st.sampled_from(["plain", "flaky", "declined"])),
    st.tuples(st.sampled_from(["release", "end leases", "replay", "go on", "start", "terminate"]), st.none()),
)
SCHEDULES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(Kind),
        "workers": st.lists(FAULTS, min_size=2, max_size=3),
        # Small batches: many calls, and so many faults that come about.
        "start": st.fixed_dictionaries({"batchSize": st.integers(1, 4), "maxPerSecond": st.sampled_from([None, 200])}),
        "events": st.lists(EVENTS, min_size=2, max_size=10),
    }
)


MORE = ("plain 4", "plain 5", "plain 6", "flaky 2", "flaky 3", "declined 2")


class Run:
    """One schedule: each event happens as soon as something has moved since the last one."""

    def __init__(self, interrupted: InterruptedSale) -> None:
        self._interrupted_sale = interrupted
        self._workers: list[WorkerProcess] = []
        self._terminated: set[WorkerProcess] = set()
        self._interrupted = 0
        self._moved: tuple[int, ...] = ()

    async def run(self, schedule: dict[str, Any]) -> None:
        """To the end, at which every claim is as it must be."""
        sale = self._interrupted_sale.sale
        await self._interrupted_sale.set_up((*ROLES, *MORE))
        # A lost reply may count as a failure of each claim of the batch: enough retries for all that are lost here.
        await sale.configure(maxRetries=50, visibilityTimeoutSeconds=1, **schedule["start"])
        self._workers = [await self._interrupted_sale.worker(*faults) for faults in schedule["workers"]]
        for what, how in schedule["events"]:
            await self._while(self._nothing_moves)
            await self._event(what, how)
        await sale.configure(paused=False, visibilityTimeoutSeconds=1, batchSize=100, maxPerSecond=None)
        await self._interrupted_sale.end_leases()
        await self._while(self._something_is_queued)
        if unlucky := await self._unlucky():
            # By chance: six times a bridge was interrupted while it had this message, three times alone.
            faults = sum(line["message"].startswith("fault: ") for process in self._workers for line in process.lines())
            assert faults >= 6, unlucky
            await self._replay(unlucky)
            await self._while(self._something_is_queued)
        # A frozen worker goes on at the end, perhaps to the next point where it freezes.
        for process in self._workers:
            self._terminate(process)
        await self._while(self._any_lives, one_must_work=False)
        assert {process.exit_code for process in self._workers} <= {0, -signal.SIGKILL}
        assert not sum(process.logged("a batch failed, its messages are given back") for process in self._workers)
        await self._interrupted_sale.check()

    async def _while(self, condition: Callable[[], Awaitable[bool]], one_must_work: bool = True) -> None:
        """Wait. Leases of interrupted workers end at once, and there is always a worker that runs."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await condition():
                interrupted = sum(process.killed or process.stopped.is_set() for process in self._workers)
                if interrupted > self._interrupted:
                    await self._interrupted_sale.end_leases()
                self._interrupted = interrupted
                if one_must_work and not any(self._free()):
                    self._workers.append(await self._interrupted_sale.worker())
                await asyncio.sleep(0.02)

    def _free(self) -> Iterator[WorkerProcess]:
        return (process for process in self._workers if not process.ended.is_set() and not process.stopped.is_set())

    async def _nothing_moves(self) -> bool:
        queue, places = await self._interrupted_sale.sale.queue(), await self._interrupted_sale.places()
        reads = sum(row["read_ct"] for row in queue.values())
        before, self._moved = self._moved, (reads, len(queue), len(places), self._interrupted)
        idle = self._interrupted_sale.sale.config.get("paused") or not queue
        return before == self._moved and not idle

    async def _something_is_queued(self) -> bool:
        return bool(await self._interrupted_sale.sale.queue())

    async def _any_lives(self) -> bool:
        self._go_on()
        return not all(process.ended.is_set() for process in self._workers)

    def _go_on(self) -> None:
        for process in self._workers:
            if process.stopped.is_set():
                process.signal(signal.SIGCONT)

    async def _unlucky(self) -> list[int]:
        """Dead letters of messages whose bridges all died."""
        letters = (await self._interrupted_sale.sale.dead()).values()
        return [each["msg_id"] for each in letters if each["reason"].startswith("it was read alone 3 times")]

    async def _replay(self, letters: list[int]) -> None:
        sale = self._interrupted_sale.sale
        await sale.rows("SELECT intake.replay(%s, %s, 'somebody', 'try again')", sale.pool, letters)

    async def _event(self, what: str, how: Any) -> None:  # noqa: ANN401 - as the strategy made it
        interrupted = self._interrupted_sale
        match what:
            case "configure":
                await interrupted.sale.configure(**how)
            case "claim" if not interrupted.sale.config.get("paused"):
                await interrupted.claim(f"{how} {len(interrupted.by_role)}")
            case "release":
                await interrupted.sale.release(interrupted.by_role["fickle"])
            case "end leases":
                await interrupted.end_leases()
            case "replay":
                await self._replay([letter["msg_id"] for letter in (await interrupted.sale.dead()).values()])
            case "go on":
                self._go_on()
            case "start":
                self._workers.append(await interrupted.worker())
            case "terminate":
                for process in list(self._free())[:1]:
                    self._terminate(process)

    def _terminate(self, process: WorkerProcess) -> None:
        """Once: one that is about to exit handles no second signal, and would be ended by it."""
        if process not in self._terminated:
            self._terminated.add(process)
            process.signal(signal.SIGTERM)


def test_any_faults_in_any_order_leave_every_claim_where_it_must_be(
    server: PostgresServer, templates: Templates, tmp_path: Path
) -> None:
    intake = server.create_database("intake_of_random_faults", "intake_template")
    ledger = server.create_database("ledger_of_random_faults")
    install_ledger(ledger)

    async def one(schedule: dict[str, Any], processes: WorkerProcesses) -> None:
        async with open_interrupted_sale(intake, ledger, schedule["kind"], processes) as interrupted:
            await Run(interrupted).run(schedule)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        processes = runner.run(stack.enter_async_context(WorkerProcesses(tmp_path)))

        # A schedule that fails may do so by waiting in vain: too slow to look for a smaller one.
        @settings(chosen(settings(max_examples=25), settings(max_examples=2000)), phases=[Phase.generate])
        @given(SCHEDULES)
        def every(schedule: dict[str, Any]) -> None:
            runner.run(one(schedule, processes))

        try:
            every()
        finally:
            runner.run(stack.aclose())
