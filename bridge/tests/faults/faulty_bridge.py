"""A bridge that dies, freezes or loses a reply at the points that the variable FAULTS names.

    FAULTS=commit:after:kill python -m faulty_bridge

The points lie around the ports, so nothing of the bridge knows of them.
"""

import asyncio
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from fault_points import Action, Fault, Position, Step, parse_faults
from intake_bridge.domain.answers import Answers
from intake_bridge.domain.health import Offer
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Outcome, Result, Transport, of_sqlstate, of_transport
from intake_bridge.domain.tokens import TokenAnswer
from intake_bridge.ports import (
    DatabaseUnavailableError,
    Dependencies,
    Gate,
    GiveBack,
    Ledger,
    Queue,
    TokenBucket,
    Validator,
    Wrap,
)
from intake_bridge.process import run

log = logging.getLogger("intake_bridge.faults")

_LOST = "the connection was lost (an injected fault)"


def wrapped(text: str) -> Wrap:
    """A wrap with these faults. ValueError names one that is unknown."""
    faults = parse_faults(text)
    if not faults:
        return Wrap()
    points = Points(faults)
    return Wrap(
        queue=lambda queue: FaultyQueue(queue, points),
        token_bucket=lambda bucket: FaultyTokenBucket(bucket, points),
        dependencies=points.dependencies,
    )


class Points:
    """Counts the calls of each step, and acts at the points that were named."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._calls: Counter[Step] = Counter()

    def dependencies(self, dependencies: Dependencies) -> Dependencies:
        """The dependencies with their fault points."""
        validator = FaultyValidator(dependencies.validator, self)
        return replace(dependencies, validator=validator, ledger=FaultyLedger(dependencies.ledger, self))

    def enter(self, step: Step) -> dict[Position, Action]:
        """Begin the next call of a step. Returns what is to happen on either side of its effect."""
        self._calls[step] += 1
        nth = self._calls[step]
        return {each.position: each.action for each in self._faults if (each.step, each.nth) == (step, nth)}

    async def around[T](self, step: Step, effect: Callable[[], Awaitable[T]]) -> T:
        """One call of DB1 with its points. DatabaseUnavailableError when its reply is lost."""
        actions = self.enter(step)
        if self.loses(step, Position.BEFORE, actions.get(Position.BEFORE)):
            raise DatabaseUnavailableError(_LOST)
        result = await effect()
        if self.loses(step, Position.AFTER, actions.get(Position.AFTER)):
            raise DatabaseUnavailableError(_LOST)
        return result

    def loses(self, step: Step, position: Position, action: Action | None) -> bool:
        """Act. True when the caller must see a broken connection."""
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

    def __init__(self, queue: Queue, points: Points) -> None:
        self._queue = queue
        self._points = points

    async def read_batch(self, worker: str, limit: int) -> list[Message]:
        return await self._points.around(Step.READ_BATCH, lambda: self._queue.read_batch(worker, limit))

    async def read_releases(self, worker: str, limit: int) -> list[Message]:
        return await self._points.around(Step.READ_RELEASES, lambda: self._queue.read_releases(worker, limit))

    async def read_quarantined(self, worker: str) -> list[Message]:
        return await self._points.around(Step.READ_QUARANTINED, lambda: self._queue.read_quarantined(worker))

    async def mark_validated(self, messages: Messages, data: Sequence[str | None]) -> dict[int, str | None]:
        return await self._points.around(Step.MARK_VALIDATED, lambda: self._queue.mark_validated(messages, data))

    async def mark_committing(self, messages: Messages) -> set[int]:
        return await self._points.around(Step.MARK_COMMITTING, lambda: self._queue.mark_committing(messages))

    async def acknowledge(
        self, messages: Messages, outcomes: Sequence[Result], receipts: Sequence[str | None]
    ) -> set[int]:
        return await self._points.around(
            Step.ACKNOWLEDGE, lambda: self._queue.acknowledge(messages, outcomes, receipts)
        )

    async def give_back(self, returns: Sequence[GiveBack]) -> set[int]:
        return await self._points.around(Step.GIVE_BACK, lambda: self._queue.give_back(returns))

    async def dead_letter(self, messages: Messages, reasons: Sequence[str], conflicts: Sequence[bool]) -> set[int]:
        return await self._points.around(
            Step.DEAD_LETTER, lambda: self._queue.dead_letter(messages, reasons, conflicts)
        )

    async def extend(self, messages: Messages) -> set[int]:
        return await self._points.around(Step.EXTEND, lambda: self._queue.extend(messages))


class FaultyTokenBucket:
    """The port TokenBucket with a fault point on either side of every call."""

    def __init__(self, bucket: TokenBucket, points: Points) -> None:
        self._bucket = bucket
        self._points = points

    async def lease_tokens(self, wanted: int) -> TokenAnswer:
        return await self._points.around(Step.LEASE_TOKENS, lambda: self._bucket.lease_tokens(wanted))

    async def return_tokens(self, lease: UUID, finished: int) -> bool:
        return await self._points.around(Step.RETURN_TOKENS, lambda: self._bucket.return_tokens(lease, finished))


type _Call = Callable[[Messages, Gate], Awaitable[Answers]]


class FaultyValidator:
    """The port Validator with a fault point on either side of a batch."""

    def __init__(self, validator: Validator, points: Points) -> None:
        self._validator = validator
        self._points = points

    async def check(self) -> None:
        await self._validator.check()

    async def validate(self, messages: Messages, gate: Gate) -> Answers:
        lost = of_transport(Transport.BROKEN, _LOST)
        return await _around(self._points, Step.VALIDATE, self._validator.validate, lost, messages, gate)


class FaultyLedger:
    """The port Ledger with a fault point on either side of a batch."""

    def __init__(self, ledger: Ledger, points: Points) -> None:
        self._ledger = ledger
        self._points = points

    @property
    def needs_mark(self) -> bool:
        return self._ledger.needs_mark

    @property
    def offers(self) -> Sequence[Offer]:
        return self._ledger.offers

    async def check(self) -> None:
        await self._ledger.check()

    async def close(self) -> None:
        await self._ledger.close()

    async def commit(self, messages: Messages, gate: Gate) -> Answers:
        return await _around(self._points, Step.COMMIT, self._ledger.commit, self._lost, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Answers:
        return await _around(self._points, Step.VOID, self._ledger.void, self._lost, messages, gate)

    @property
    def _lost(self) -> Outcome:
        # A ledger that needs the mark is called over HTTP, the other over a database connection.
        return of_transport(Transport.BROKEN, _LOST) if self.needs_mark else of_sqlstate(None, _LOST)


class _SilentGate:
    """Records nothing of a call whose reply is lost."""

    def __init__(self, gate: Gate) -> None:
        self.may_start = gate.may_start
        self.may_continue = gate.may_continue

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:
        return


async def _around(points: Points, step: Step, call: _Call, lost: Outcome, messages: Messages, gate: Gate) -> Answers:
    actions = points.enter(step)
    before, after = actions.get(Position.BEFORE), actions.get(Position.AFTER)
    if not points.loses(step, Position.BEFORE, before):
        answers = await call(messages, _SilentGate(gate) if after is Action.LOSE else gate)
        if not points.loses(step, Position.AFTER, after):
            return answers
        messages = [message for message in messages if message.msg_id in answers.outcomes]
    for _ in messages:
        gate.record(lost)
    return Answers({message.msg_id: lost for message in messages})


if __name__ == "__main__":
    sys.exit(asyncio.run(run(wrap=wrapped(os.environ.get("FAULTS", "")))))
