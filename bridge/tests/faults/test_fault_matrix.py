"""Every step, interrupted in every way, with either kind of ledger: two workers bring each claim to its one end."""

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
from fault_points import Action, Fault, Position, Step
from interrupted_sale import InterruptedSale, Kind, open_interrupted_sale, until
from mutants import MATRIX, MUTANTS
from sale import Templates
from worker_processes import WorkerProcess, WorkerProcesses

from tests.postgres import PostgresServer, install_intake, install_ledger

# Cases at a time: most of a case is waiting.
AT_A_TIME = 4
# How often a step is called in one undisturbed drain, where that is not once. A claim that was given up is voided and
# acknowledged in a batch of its own; of the other batch the declined are, and then the sold are acknowledged.
ENDED = ("batch ended", "releases ended", "a batch failed, its messages are given back")
CALLS = {Step.VOID: 2, Step.ACKNOWLEDGE: 3}


class Interruption(StrEnum):
    """What happens at a step, and who has its messages when a frozen worker goes on."""

    KILLED_BEFORE = "killed-before"
    KILLED_AFTER = "killed-after"
    REPLY_LOST = "reply-lost"
    # The worker is frozen before the effect. After one effect is before the next.
    EXPIRED_AND_TAKEN = "expired-and-taken"
    EXPIRED_AND_DONE = "expired-and-done"
    # By its own clock, too. In the others that clock is wrong, and only the fence is left.
    EXPIRED_AND_KNOWN = "expired-and-known"

    @property
    def point(self) -> tuple[Position, Action]:
        """Where the first worker is interrupted, and how."""
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


async def run_case(interrupted: InterruptedSale, case: Case) -> None:
    """Interrupt the first worker, let a second one bring all claims to an end, and check the rules in between."""
    if case.step is Step.EXTEND:
        # Leases are short, and answers long: it has to extend them before it can go on.
        interrupted.answering.clear()
    await interrupted.set_up()
    known = case.interruption is Interruption.EXPIRED_AND_KNOWN
    if case.step is Step.EXTEND or known:
        await interrupted.sale.configure(visibilityTimeoutSeconds=1)
    if case.step in {Step.LEASE_TOKENS, Step.RETURN_TOKENS}:
        await interrupted.sale.configure(maxPerSecond=100)
    elif known:
        # One batch at a time: calls that another one has begun go out when the worker goes on.
        await interrupted.sale.configure(maxPerSecond=10_000)
    first = await interrupted.worker(case.fault)
    await interrupted.until_fault(first, case.fault)
    await interrupted.sale.configure(visibilityTimeoutSeconds=60)
    interrupted.answering.set()
    match case.fault.action:
        case Action.KILL:
            assert await interrupted.violations() == []
            await interrupted.end_leases()
            second = await interrupted.worker()
            await interrupted.drained()
            await interrupted.stop(second)
        case Action.LOSE:
            second = await interrupted.worker()
            if case.step in {Step.READ_BATCH, Step.READ_RELEASES}:
                await interrupted.end_leases()  # of messages that no worker knows that it has
            await interrupted.drained()
            await interrupted.stop(first, second)
        case Action.STOP:
            assert await interrupted.violations() == []
            await (interrupted.leases_ended() if known else interrupted.end_leases())
            await interrupted.sale.release(interrupted.by_role["fickle"])
            if case.interruption is Interruption.EXPIRED_AND_DONE:
                second = await interrupted.worker()
                await interrupted.drained()
                await interrupted.stop(second)
            else:
                await interrupted.take_all()
            effects = await interrupted.effects()
            await _changes_nothing(interrupted, case, first)
            assert not known or await interrupted.effects() == effects
            if case.interruption is not Interruption.EXPIRED_AND_DONE:
                await interrupted.end_leases()
                second = await interrupted.worker()
                await interrupted.drained()
                await interrupted.stop(second)
    if case.fault.action is not Action.STOP:
        # A frozen worker asks on, with what it knew: a webhook cannot be fenced.
        assert interrupted.asked_again == [], "I5: the validator is asked although its data is stored"
    await interrupted.check()


async def _changes_nothing(interrupted: InterruptedSale, case: Case, stale: WorkerProcess) -> None:
    """I9: a worker that was frozen for too long goes on with its messages, and changes nothing in DB1."""
    before = await interrupted.everything()
    ended = stale.logged(*ENDED)
    stale.signal(signal.SIGCONT)
    if case.step not in {Step.READ_BATCH, Step.READ_RELEASES, Step.READ_QUARANTINED}:
        await until(lambda: stale.logged(*ENDED) > ended)
    await interrupted.stop(stale)
    assert await interrupted.everything() == before
    assert await interrupted.violations() == []


class Campaign:
    """Plays the cases that were asked for, a few at a time; each test waits for its own."""

    def __init__(self, server: PostgresServer, templates: Templates, logs: Path) -> None:
        self._server = server
        self._templates = templates
        self._logs = logs
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._preparing = asyncio.Lock()
        self._worlds: dict[str | None, tuple[str, WorkerProcesses]] = {}
        self._stack = AsyncExitStack()
        self._ledger = server.create_database("ledger_of_faults")
        install_ledger(self._ledger)
        self.runs: dict[tuple[Case, str | None], asyncio.Task[None]] = {}

    def start(self, case: Case, mutant: str | None) -> None:
        """Begin as soon as there is room."""
        self.runs[case, mutant] = asyncio.create_task(self._run(case, mutant))

    async def end(self) -> None:
        """Cancel what no test waits for any more."""
        for task in self.runs.values():
            task.cancel()
        await asyncio.gather(*self.runs.values(), return_exceptions=True)
        await self._stack.aclose()

    async def _run(self, case: Case, mutant: str | None) -> None:
        async with self._turns:
            intake, processes = await self._world(mutant)
            async with open_interrupted_sale(intake, self._ledger, case.kind, processes) as interrupted:
                await run_case(interrupted, case)

    async def _world(self, mutant: str | None) -> tuple[str, WorkerProcesses]:
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
                self._worlds[mutant] = uri, await self._stack.enter_async_context(WorkerProcesses(logs, python))
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
    await campaign.runs[case, mutant]
