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

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from intake_bridge.faults import Action, Fault, Position, Step
from nursery import Child, Nursery
from scene import Templates
from stage import CAST, Kind, Stage, open_stage

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

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._workers: list[Child] = []
        self._struck = 0
        self._moved: tuple[int, ...] = ()

    async def play(self, schedule: dict[str, Any]) -> None:
        """To the end, at which every claim is as it must be."""
        scene = self._stage.scene
        await self._stage.set_up((*CAST, *MORE))
        # A lost reply may count as a failure of whoever was in the batch: enough for all that are lost here.
        await scene.configure(maxRetries=50, visibilityTimeoutSeconds=1, **schedule["start"])
        self._workers = [await self._stage.worker(*faults) for faults in schedule["workers"]]
        for what, how in schedule["events"]:
            await self._while(self._nothing_moves)
            await self._event(what, how)
        await scene.configure(paused=False, visibilityTimeoutSeconds=1, batchSize=100, maxPerSecond=None)
        await self._stage.end_leases()
        await self._while(self._something_is_queued)
        if unlucky := await self._unlucky():
            # By chance: six times a bridge was struck with this one in hand, three times with nothing else.
            struck = sum(line["message"].startswith("fault: ") for child in self._workers for line in child.lines())
            assert struck >= 6, unlucky
            await self._replay(unlucky)
            await self._while(self._something_is_queued)
        # Who stands still goes on when all is over, perhaps to the next place where it is to stand still.
        for child in self._workers:
            child.signal(signal.SIGTERM)
        await self._while(self._somebody_lives, somebody_works=False)
        assert {child.exit_code for child in self._workers} <= {0, -signal.SIGKILL}
        assert not sum(child.said("a batch was abandoned") for child in self._workers)
        await self._stage.check()

    async def _while(self, condition: Callable[[], Awaitable[bool]], somebody_works: bool = True) -> None:
        """Wait. What the struck had leased comes back at once, and somebody is there for it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await condition():
                struck = sum(child.killed or child.stopped.is_set() for child in self._workers)
                if struck > self._struck:
                    await self._stage.end_leases()
                self._struck = struck
                if somebody_works and not any(self._free()):
                    self._workers.append(await self._stage.worker())
                await asyncio.sleep(0.02)

    def _free(self) -> Iterator[Child]:
        return (child for child in self._workers if not child.ended.is_set() and not child.stopped.is_set())

    async def _nothing_moves(self) -> bool:
        queue, places = await self._stage.scene.queue(), await self._stage.places()
        reads = sum(row["read_ct"] for row in queue.values())
        before, self._moved = self._moved, (reads, len(queue), len(places), self._struck)
        idle = self._stage.scene.config.get("paused") or not queue
        return before == self._moved and not idle

    async def _something_is_queued(self) -> bool:
        return bool(await self._stage.scene.queue())

    async def _somebody_lives(self) -> bool:
        self._go_on()
        return not all(child.ended.is_set() for child in self._workers)

    def _go_on(self) -> None:
        for child in self._workers:
            if child.stopped.is_set():
                child.signal(signal.SIGCONT)

    async def _unlucky(self) -> list[int]:
        """Dead letters that no bridge has outlived."""
        letters = (await self._stage.scene.dead()).values()
        return [each["msg_id"] for each in letters if each["reason"].startswith("it was read alone 3 times")]

    async def _replay(self, letters: list[int]) -> None:
        scene = self._stage.scene
        await scene.rows("SELECT intake.replay(%s, %s, 'somebody', 'try again')", scene.pool, letters)

    async def _event(self, what: str, how: Any) -> None:  # noqa: ANN401 - as the strategy made it
        stage = self._stage
        match what:
            case "configure":
                await stage.scene.configure(**how)
            case "claim" if not stage.scene.config.get("paused"):
                await stage.join(f"{how} {len(stage.cast)}")
            case "release":
                await stage.scene.release(stage.cast["fickle"])
            case "end leases":
                await stage.end_leases()
            case "replay":
                await self._replay([letter["msg_id"] for letter in (await stage.scene.dead()).values()])
            case "go on":
                self._go_on()
            case "start":
                self._workers.append(await stage.worker())
            case "terminate":
                for child in list(self._free())[:1]:
                    child.signal(signal.SIGTERM)


def test_any_faults_in_any_order_leave_every_claim_where_it_must_be(
    server: PostgresServer, templates: Templates, tmp_path: Path
) -> None:
    intake = server.create_database("intake_of_random_faults", "intake_template")
    ledger = server.create_database("ledger_of_random_faults")
    install_ledger(ledger)

    async def one(schedule: dict[str, Any], nursery: Nursery) -> None:
        async with open_stage(intake, ledger, schedule["kind"], nursery) as stage:
            await Run(stage).play(schedule)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        nursery = runner.run(stack.enter_async_context(Nursery(tmp_path)))

        # A schedule that fails may do so by waiting in vain: too slow to look for a smaller one.
        @settings(chosen(settings(max_examples=25), settings(max_examples=2000)), phases=[Phase.generate])
        @given(SCHEDULES)
        def every(schedule: dict[str, Any]) -> None:
            runner.run(one(schedule, nursery))

        try:
            every()
        finally:
            runner.run(stack.aclose())
