"""Named points at which a worker can be made to die, to stand still, or to lose a reply. For tests of the real thing.

Off unless `INTAKE_FAULTS` names points: `commit:after:kill` or, at the third commit, `commit:after:kill:3`; several are
separated by commas. The points lie around the ports, so the pipeline knows nothing of them.
"""

import logging
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self
from uuid import UUID

from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.meter import TokenAnswer
from intake_bridge.domain.outcomes import Outcome, Transport, of_sqlstate, of_transport
from intake_bridge.pipeline import Targets
from intake_bridge.ports import DatabaseUnavailableError, Gate, GiveBack, Ledger, Meter, Offer, Queue, Validator

log = logging.getLogger(__name__)

_LOST = "the connection was lost (an injected fault)"


class Step(StrEnum):
    """What can be interrupted: the methods of the ports that move a claim or a token, by their names."""

    READ_BATCH = "read_batch"
    READ_RELEASES = "read_releases"
    READ_ALONE = "read_quarantined"
    VALIDATE = "validate"
    MARK_VALIDATED = "mark_validated"
    MARK_COMMITTING = "mark_committing"
    COMMIT = "commit"
    VOID = "void"
    ACKNOWLEDGE = "acknowledge"
    GIVE_BACK = "give_back"
    DEAD_LETTER = "dead_letter"
    EXTEND = "extend"
    LEASE_TOKENS = "lease_tokens"
    SETTLE_TOKENS = "return_tokens"


class Position(StrEnum):
    """On which side of the effect."""

    BEFORE = "before"
    AFTER = "after"


class Action(StrEnum):
    """What happens there."""

    KILL = "kill"  # SIGKILL
    STOP = (
        "stop"  # SIGSTOP: the whole process stands still, its leases end, and SIGCONT lets it go on with what it knew
    )
    LOSE = "lose"  # the caller gets what a broken connection gives; before the effect there is none


@dataclass(frozen=True, slots=True)
class Fault:
    """One action at one point, at the n-th call of its step."""

    step: Step
    position: Position
    action: Action
    nth: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """`step:position:action` or `step:position:action:n`; ValueError says what is not known."""
        step, position, action, nth = [*text.split(":"), "1"][:4] if text.count(":") in {2, 3} else ["", "", "", ""]
        try:
            fault = cls(Step(step), Position(position), Action(action), int(nth))
        except ValueError:
            fault = None
        if fault is None or fault.nth < 1:
            known = " ".join(f"{kind.__name__.lower()}={'|'.join(kind)}" for kind in (Step, Position, Action))
            raise ValueError(f"unknown fault {text!r}: step:position:action or step:position:action:n, with {known}")
        return fault

    def __str__(self) -> str:
        return f"{self.step}:{self.position}:{self.action}:{self.nth}"


def parse_faults(text: str) -> tuple[Fault, ...]:
    """All faults of a setting; none in an empty one."""
    return tuple(Fault.parse(each.strip()) for each in text.split(",")) if text.strip() else ()


class Faults:
    """Counts calls and acts at the points that were named. Without faults it hands out the ports as they are."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._calls: Counter[Step] = Counter()
        if faults:
            log.warning("FAULTS ARE SWITCHED ON, this worker is not for production: %s", ", ".join(map(str, faults)))

    def queue(self, queue: Queue) -> Queue:
        """The queue with its fault points."""
        return FaultyQueue(queue, self) if self._faults else queue

    def meter(self, meter: Meter) -> Meter:
        """The meter with its fault points."""
        return FaultyMeter(meter, self) if self._faults else meter

    def targets(self, targets: Targets) -> Targets:
        """The targets with their fault points."""
        if not self._faults:
            return targets
        validator = FaultyValidator(targets.validator, self)
        return replace(targets, validator=validator, ledger=FaultyLedger(targets.ledger, self))

    def enter(self, step: Step) -> dict[Position, Action]:
        """Begin the next call of a step: what is to happen on either side of its effect."""
        self._calls[step] += 1
        nth = self._calls[step]
        return {each.position: each.action for each in self._faults if (each.step, each.nth) == (step, nth)}

    async def around[T](self, step: Step, effect: Callable[[], Awaitable[T]]) -> T:
        """One call of DB1 with its points; DatabaseUnavailableError when its reply is lost."""
        actions = self.enter(step)
        if self.loses(step, Position.BEFORE, actions.get(Position.BEFORE)):
            raise DatabaseUnavailableError(_LOST)
        result = await effect()
        if self.loses(step, Position.AFTER, actions.get(Position.AFTER)):
            raise DatabaseUnavailableError(_LOST)
        return result

    def loses(self, step: Step, position: Position, action: Action | None) -> bool:
        """Act. True when the caller must be told that the connection broke."""
        if action is None:
            return False
        log.warning("fault: %s %s %s", action, position, step)
        match action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.STOP:
                os.kill(os.getpid(), signal.SIGSTOP)
        return action is Action.LOSE


class FaultyQueue:
    """The port Queue with a fault point on either side of every call."""

    def __init__(self, queue: Queue, faults: Faults) -> None:
        self._queue = queue
        self._faults = faults

    async def read_batch(self, worker: str, limit: int) -> list[Message]:
        """The queue's own."""
        return await self._faults.around(Step.READ_BATCH, lambda: self._queue.read_batch(worker, limit))

    async def read_releases(self, worker: str, limit: int) -> list[Message]:
        """The queue's own."""
        return await self._faults.around(Step.READ_RELEASES, lambda: self._queue.read_releases(worker, limit))

    async def read_quarantined(self, worker: str) -> list[Message]:
        """The queue's own."""
        return await self._faults.around(Step.READ_ALONE, lambda: self._queue.read_quarantined(worker))

    async def mark_validated(self, messages: Messages) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.MARK_VALIDATED, lambda: self._queue.mark_validated(messages))

    async def mark_committing(self, messages: Messages) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.MARK_COMMITTING, lambda: self._queue.mark_committing(messages))

    async def acknowledge(self, messages: Messages, outcomes: Sequence[str]) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.ACKNOWLEDGE, lambda: self._queue.acknowledge(messages, outcomes))

    async def give_back(self, returns: Sequence[GiveBack]) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.GIVE_BACK, lambda: self._queue.give_back(returns))

    async def dead_letter(self, messages: Messages, reasons: Sequence[str]) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.DEAD_LETTER, lambda: self._queue.dead_letter(messages, reasons))

    async def extend(self, messages: Messages) -> set[int]:
        """The queue's own."""
        return await self._faults.around(Step.EXTEND, lambda: self._queue.extend(messages))


class FaultyMeter:
    """The port Meter with a fault point on either side of every call."""

    def __init__(self, meter: Meter, faults: Faults) -> None:
        self._meter = meter
        self._faults = faults

    async def lease_tokens(self, wanted: int) -> TokenAnswer:
        """The meter's own."""
        return await self._faults.around(Step.LEASE_TOKENS, lambda: self._meter.lease_tokens(wanted))

    async def return_tokens(self, lease: UUID, settled: int) -> bool:
        """The meter's own."""
        return await self._faults.around(Step.SETTLE_TOKENS, lambda: self._meter.return_tokens(lease, settled))


type _Call = Callable[[Messages, Gate], Awaitable[Mapping[int, Outcome]]]


class FaultyValidator:
    """The port Validator with a fault point on either side of a batch."""

    def __init__(self, validator: Validator, faults: Faults) -> None:
        self._validator = validator
        self._faults = faults

    async def check(self) -> None:
        """The validator's own."""
        await self._validator.check()

    async def validate(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        """The validator's own."""
        lost = of_transport(Transport.BROKEN, _LOST)
        return await _around(self._faults, Step.VALIDATE, self._validator.validate, lost, messages, gate)


class FaultyLedger:
    """The port Ledger with a fault point on either side of a batch."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self._ledger = ledger
        self._faults = faults

    @property
    def needs_mark(self) -> bool:
        """The ledger's own."""
        return self._ledger.needs_mark

    @property
    def offers(self) -> Sequence[Offer]:
        """The ledger's own."""
        return self._ledger.offers

    async def check(self) -> None:
        """The ledger's own."""
        await self._ledger.check()

    async def close(self) -> None:
        """The ledger's own."""
        await self._ledger.close()

    async def commit(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        """The ledger's own."""
        return await _around(self._faults, Step.COMMIT, self._ledger.commit, self._lost, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        """The ledger's own."""
        return await _around(self._faults, Step.VOID, self._ledger.void, self._lost, messages, gate)

    @property
    def _lost(self) -> Outcome:
        # One that wants the mark is spoken to over HTTP, the other over a database connection.
        return of_transport(Transport.BROKEN, _LOST) if self.needs_mark else of_sqlstate(None, _LOST)


class _Deaf:
    """A gate whose breaker hears nothing of an answer that gets lost."""

    def __init__(self, gate: Gate) -> None:
        self.admits = gate.admits
        self.holds = gate.holds

    def told(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Lost with the reply."""


async def _around(
    faults: Faults, step: Step, call: _Call, lost: Outcome, messages: Messages, gate: Gate
) -> Mapping[int, Outcome]:
    actions = faults.enter(step)
    before, after = actions.get(Position.BEFORE), actions.get(Position.AFTER)
    if not faults.loses(step, Position.BEFORE, before):
        outcomes = await call(messages, _Deaf(gate) if after is Action.LOSE else gate)
        if not faults.loses(step, Position.AFTER, after):
            return outcomes
        messages = [message for message in messages if message.msg_id in outcomes]
    for _ in messages:
        gate.told(lost)
    return {message.msg_id: lost for message in messages}
