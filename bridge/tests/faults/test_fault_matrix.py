"""Every step, interrupted in every way, with either kind of target: two workers bring each claim to its one end."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet
from intake_bridge.faults import Action, Fault, Position, Step
from mutants import MATRIX, MUTANTS
from nursery import Child, Nursery
from scene import Templates
from stage import Kind, Stage, open_stage, until

from tests.postgres import PostgresServer, install_intake, install_ledger

# Cases at a time: most of a case is waiting.
AT_A_TIME = 4
# How often a step is called in one undisturbed drain, where that is not once. A claim that was given up is voided and
# acknowledged in a batch of its own; of the other batch the declined are, and then the sold are acknowledged.
CALLS = {Step.VOID: 2, Step.ACKNOWLEDGE: 3}


class Interruption(StrEnum):
    """What happens at a step, and to whom its messages belong when a worker that stood still goes on."""

    KILLED_BEFORE = "killed-before"
    KILLED_AFTER = "killed-after"
    REPLY_LOST = "reply-lost"
    # The worker stands still before the effect. After one is before the next.
    EXPIRED_AND_TAKEN = "expired-and-taken"
    EXPIRED_AND_DONE = "expired-and-done"
    # By its own clock, too. In the others that clock is wrong, and only the fence is left.
    EXPIRED_AND_KNOWN = "expired-and-known"

    @property
    def point(self) -> tuple[Position, Action]:
        """Where the first worker is struck, and how."""
        action = {"killed": Action.KILL, "reply": Action.LOSE, "expired": Action.STOP}[self.split("-")[0]]
        after = self in {Interruption.KILLED_AFTER, Interruption.REPLY_LOST}
        return Position.AFTER if after else Position.BEFORE, action


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    kind: Kind
    step: Step
    nth: int
    interruption: Interruption

    def __str__(self) -> str:
        return f"{self.kind}-{self.step}-{self.nth}-{self.interruption}"

    @property
    def fault(self) -> Fault:
        """The first worker's."""
        return Fault(self.step, *self.interruption.point, self.nth)


CASES = [
    Case(kind, step, nth, interruption)
    for kind, step, interruption in itertools.product(Kind, Step, Interruption)
    for nth in range(1, CALLS.get(step, 1) + 1)
    # Only a target that cannot be fenced has it.
    if (kind, step) != (Kind.RPC, Step.MARK_COMMITTING)
]


async def play(stage: Stage, case: Case) -> None:
    """Strike the first worker, let the second bring everything to its end, look at the rules in between."""
    if case.step is Step.EXTEND:
        # Leases are short, and answers long: it has to extend them before it can go on.
        stage.answering.clear()
    await stage.set_up()
    known = case.interruption is Interruption.EXPIRED_AND_KNOWN
    if case.step is Step.EXTEND or known:
        await stage.scene.configure(visibilityTimeoutSeconds=1)
    if case.step in {Step.LEASE_TOKENS, Step.SETTLE_TOKENS}:
        await stage.scene.configure(maxPerSecond=100)
    elif known:
        # One batch at a time: calls that another one has begun go out when the worker goes on.
        await stage.scene.configure(maxPerSecond=10_000)
    first = await stage.worker(case.fault)
    await stage.struck(first, case.fault)
    await stage.scene.configure(visibilityTimeoutSeconds=60)
    stage.answering.set()
    match case.fault.action:
        case Action.KILL:
            assert await stage.violations() == []
            await stage.end_leases()
            second = await stage.worker()
            await stage.drained()
            await stage.retire(second)
        case Action.LOSE:
            second = await stage.worker()
            if case.step in {Step.READ_BATCH, Step.READ_RELEASES}:
                await stage.end_leases()  # of what nobody knows that he has
            await stage.drained()
            await stage.retire(first, second)
        case Action.STOP:
            assert await stage.violations() == []
            await (stage.leases_ended() if known else stage.end_leases())
            await stage.scene.release(stage.cast["fickle"])
            if case.interruption is Interruption.EXPIRED_AND_DONE:
                second = await stage.worker()
                await stage.drained()
                await stage.retire(second)
            else:
                await stage.take_all()
            told = await stage.told()
            await _go_on_in_vain(stage, case, first)
            assert not known or await stage.told() == told
            if case.interruption is not Interruption.EXPIRED_AND_DONE:
                await stage.end_leases()
                second = await stage.worker()
                await stage.drained()
                await stage.retire(second)
    await stage.check()


async def _go_on_in_vain(stage: Stage, case: Case, stale: Child) -> None:
    """I9: who has stood still for too long ends what it had in hand, and nothing in DB1 changes."""
    before = await stage.everything()
    ended = stale.said("batch", "releases", "a batch was abandoned")
    stale.signal(signal.SIGCONT)
    if case.step not in {Step.READ_BATCH, Step.READ_RELEASES, Step.READ_ALONE}:
        await until(lambda: stale.said("batch", "releases", "a batch was abandoned") > ended)
    await stage.retire(stale)
    assert await stage.everything() == before
    assert await stage.violations() == []


class Campaign:
    """Plays the cases that were asked for, a few at a time; each test waits for its own."""

    def __init__(self, server: PostgresServer, templates: Templates, logs: Path) -> None:
        self._server = server
        self._templates = templates
        self._logs = logs
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._preparing = asyncio.Lock()
        self._worlds: dict[str | None, tuple[str, Nursery]] = {}
        self._stack = AsyncExitStack()
        self._ledger = server.create_database("ledger_of_faults")
        install_ledger(self._ledger)
        self.plays: dict[tuple[Case, str | None], asyncio.Task[None]] = {}

    def start(self, case: Case, mutant: str | None) -> None:
        """Begin as soon as there is room."""
        self.plays[case, mutant] = asyncio.create_task(self._play(case, mutant))

    async def end(self) -> None:
        """Drop what nobody waits for any more."""
        for task in self.plays.values():
            task.cancel()
        await asyncio.gather(*self.plays.values(), return_exceptions=True)
        await self._stack.aclose()

    async def _play(self, case: Case, mutant: str | None) -> None:
        async with self._turns:
            intake, nursery = await self._world(mutant)
            async with open_stage(intake, self._ledger, case.kind, nursery) as stage:
                await play(stage, case)

    async def _world(self, mutant: str | None) -> tuple[str, Nursery]:
        """A DB1, and where its workers come from."""
        async with self._preparing:
            if mutant not in self._worlds:
                broken = MUTANTS[mutant] if mutant else None
                name = f"intake_of_faults_{len(self._worlds)}"
                if broken is not None and broken.is_sql:
                    uri = await asyncio.to_thread(self._server.create_database, name)
                    await asyncio.to_thread(install_intake, uri, broken.patch)
                else:
                    uri = await asyncio.to_thread(self._server.create_database, name, "intake_template")
                logs = self._logs / name
                logs.mkdir()
                python = mutant if broken is not None and not broken.is_sql else None
                self._worlds[mutant] = uri, await self._stack.enter_async_context(Nursery(logs, python))
            return self._worlds[mutant]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def campaign(
    request: pytest.FixtureRequest,
    server: PostgresServer,
    templates: Templates,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Campaign]:
    """All cases that pytest has selected, begun."""
    running = Campaign(server, templates, tmp_path_factory.mktemp("faults"))
    for item in request.session.items:
        if isinstance(item, pytest.Function) and "campaign" in item.fixturenames:
            running.start(item.callspec.params["case"], item.callspec.params["mutant"])
    yield running
    await running.end()


def _parameters() -> list[ParameterSet]:
    """Every case on the bridge as it is, and each mutant on the case that must catch it."""
    cases = {str(case): case for case in CASES}
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(case, None, id=name) for name, case in cases.items()] + [
        pytest.param(cases[mutant.case], name, id=f"{mutant.case}-{name}", marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == MATRIX
    ]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "mutant"), _parameters())
async def test_after_any_interruption_every_claim_ends_once_and_as_it_must(
    campaign: Campaign, case: Case, mutant: str | None
) -> None:
    await campaign.plays[case, mutant]
