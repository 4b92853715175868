"""One batch from lease to end: validate, mark, commit, acknowledge. Evidence before action at every step."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from intake_bridge.domain.backoff import Backoff, Uniform
from intake_bridge.domain.batch import Batch, by_result
from intake_bridge.domain.message import Message, Messages, State
from intake_bridge.domain.outcomes import OURS, Blame, Outcome, Result
from intake_bridge.domain.target import Target
from intake_bridge.domain.trial import ENOUGH, refuses
from intake_bridge.metering import Metering, Passage
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseUnavailableError, Gate, GiveBack, Ledger, Queue, Validator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Targets:
    """Where this batch goes."""

    validator: Validator
    validation: Target
    ledger: Ledger
    commitment: Target
    voiding: Target
    """The same ledger, and its breaker; but who sells may fail to void, and who voids to sell."""


class StepGate:
    """The port Gate for one step of one batch."""

    def __init__(
        self,
        batch: Batch,
        target: Target,
        stopping: Callable[[], bool],
        metrics: Metrics,
        passage: Passage | None = None,
    ) -> None:
        self._lease = batch.lease
        self._target = target
        self._stopping = stopping
        self._metrics = metrics
        self._passage = passage
        self._refused = 0

    def admits(self, message: Message) -> bool:
        """No new call while we stop, while the target is down or has asked for a pause, or without the lease."""
        return not self._stopping() and self._target.allowance(1) > 0 and self.holds(message)

    def admits_any(self, messages: Messages) -> bool:
        """Whether it is worth waiting with these."""
        return any(map(self.admits, messages))

    def holds(self, message: Message) -> bool:
        """The lease, the tokens where the step needs them, and a target that does not refuse one after the other."""
        passes = self._passage is None or self._passage.stands()
        return passes and self._refused < ENOUGH and self._lease.holds(message.msg_id)

    def told(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Feed the breaker, and the closed loop where the step has one."""
        if self._passage is not None and seconds is not None:
            self._passage.told(outcome, seconds)
        self._metrics.outcomes.labels(self._target.step, outcome.result.value).inc()
        self._refused = self._refused + 1 if refuses(outcome) else 0
        if outcome.kind == OURS:
            return  # nobody was asked
        breaker, error = self._target.breaker, outcome.reason or outcome.result.value
        was_tripped = breaker.tripped
        match outcome.blame:
            case Blame.TARGET:
                breaker.trip(error)
            case Blame.SUSPECT:
                breaker.suspected(error)
            case Blame.CLAIM if outcome.holds:
                breaker.hold(outcome.retry_after or 1.0, error)
            case Blame.CLAIM:
                breaker.succeeded()
        if breaker.tripped and not was_tripped:
            log.warning("%s: breaker opens: %s", self._target.step, error)
        elif was_tripped and not breaker.tripped:
            log.info("%s: breaker closes", self._target.step)


class Pipeline:
    """Knows the order of the steps and what each outcome leads to; no driver."""

    def __init__(
        self,
        queue: Queue,
        metering: Metering,
        metrics: Metrics,
        backoff: Backoff,
        stopping: Callable[[], bool],
        uniform: Uniform = random.uniform,
    ) -> None:
        self._queue = queue
        self._metering = metering
        self._metrics = metrics
        self._backoff = backoff
        self._stopping = stopping
        self._uniform = uniform
        # Batches pass each target one after the other: the second one's calls are not the target's concurrency.
        self._at_validator = asyncio.Lock()
        self._at_ledger = asyncio.Lock()

    async def process(self, batch: Batch, targets: Targets) -> None:
        """Bring every message of the batch to an end or back to the queue. What an error leaves open stays `open`."""
        async with self._kept(batch):
            approved, declined = await self._validate(batch, targets)
            for message in await self._void(batch, targets, declined):
                log.error("declined here, but the ledger had committed it", extra=message.for_log())
            await self._commit(batch, targets, approved)
            # Never started: the breaker opened, we are stopping, or the lease ran short. Nobody's failure.
            await self.give_back_open(batch)

    async def release(self, batch: Batch, targets: Targets) -> None:
        """Have every message of the batch voided: released by its fan, or held for too long. Asks no validator."""
        async with self._kept(batch):
            gate = self._gate(batch, targets.voiding)
            admitted = [message for message in batch.open.values() if gate.admits(message)]
            for message in await self._void(batch, targets, admitted):
                log.warning("too late to release: the ledger has committed it", extra=message.for_log())
            await self.give_back_open(batch)

    async def give_back_open(self, batch: Batch) -> None:
        """Return what has no end, uncounted and at once."""
        await self._give_back(batch, [GiveBack(message, 0.0, None) for message in batch.open.values()])

    async def _validate(self, batch: Batch, targets: Targets) -> tuple[list[Message], list[Message]]:
        """(those that may commit, those that were declined); approval is durable when this returns."""
        asked = [message for message in batch.open.values() if message.state is State.QUEUED]
        ready = [message for message in batch.open.values() if message.state is not State.QUEUED]
        if not asked:
            return ready, []
        gate = self._gate(batch, targets.validation)
        async with self._at_validator:
            # What was read side by side with the batch that has found the validator out is sent no more.
            asked = asked[: targets.validation.allowance(len(asked))]
            with self._metrics.step("validate"):
                outcomes = await targets.validator.validate(asked, gate)
            again = self._hear(batch, targets.validation, asked, outcomes)
        results = by_result(asked, outcomes)
        approved = [message for message, _ in results.get(Result.APPROVED, [])]
        declined: list[tuple[Message, Outcome]] = []
        doubtful: list[tuple[Message, Outcome]] = []
        for message, outcome in results.get(Result.DECLINED, []):
            # A void is for good: never on the word of a validator that refuses everybody.
            accused = message.claim_id in again or targets.validation.trial.breaker.tripped
            (doubtful if accused and refuses(outcome) else declined).append((message, outcome))
        failures = [*results.get(Result.RETRY, []), *doubtful]
        await self._settle_failures(batch, targets.validation, failures, again)
        for message, outcome in declined:
            log.info("declined: %s", outcome.reason or "no reason given", extra=message.for_log())
        return ready + await self._marked(batch, self._queue.mark_validated, approved), [m for m, _ in declined]

    async def _void(self, batch: Batch, targets: Targets, messages: Messages) -> list[Message]:
        """The ledger's word first, the slot after it. Returns those that the ledger has committed instead."""
        outcomes: dict[int, Outcome] = {}

        async def send(portion: Messages, gate: Gate) -> Mapping[int, Outcome]:
            with self._metrics.step("void"):
                answer = await targets.ledger.void(portion, gate)
            outcomes.update(answer)
            return answer

        await self._pass(batch, targets.voiding, messages, send)
        return [message for message, _ in by_result(messages, outcomes).get(Result.COMMITTED, [])]

    async def _commit(self, batch: Batch, targets: Targets, approved: Messages) -> None:
        async def send(portion: Messages, gate: Gate) -> Mapping[int, Outcome]:
            if targets.ledger.needs_mark:
                unmarked = [message for message in portion if message.state is not State.COMMITTING]
                marked = [message for message in portion if message.state is State.COMMITTING]
                # Not started, not marked. What a call that ends early leaves out is marked, and goes on later.
                unmarked = [message for message in unmarked if gate.admits(message)]
                portion = marked + await self._marked(batch, self._queue.mark_committing, unmarked)
            if not portion:
                return {}
            with self._metrics.step("commit"):
                return await targets.ledger.commit(portion, gate)

        await self._pass(batch, targets.commitment, approved, send)

    async def _pass(
        self,
        batch: Batch,
        target: Target,
        messages: Messages,
        send: Callable[[Messages, Gate], Awaitable[Mapping[int, Outcome]]],
    ) -> None:
        """Send messages to the ledger as the meter lets them through, each portion written down before the next."""
        before = self._gate(batch, target)
        waiting = list(messages)
        while waiting:
            async with self._at_ledger:
                waiting = [message for message in waiting if batch.lease.holds(message.msg_id)]
                # What was read side by side with the batch that has found the ledger out is sent no more.
                allowed = target.allowance(len(waiting))
                if not allowed:
                    return
                passage = await self._metering.passage(allowed, partial(before.admits_any, waiting))
                if passage is None:
                    return
                portion, waiting = waiting[: passage.size], waiting[passage.size :]
                async with passage:
                    outcomes = await send(portion, self._gate(batch, target, passage))
                    passage.answered(outcomes.values())
                again = self._hear(batch, target, portion, outcomes)
            await self._conclude(batch, target, portion, outcomes, again)
            if not before.admits_any(waiting):
                return

    def _hear(self, batch: Batch, target: Target, messages: Messages, outcomes: Mapping[int, Outcome]) -> Set[UUID]:
        """All that one call has answered, before anything of it counts; the claims that are asked once more."""
        # Most of the answers of a call are one and the same object.
        different = {id(outcome): outcome for outcome in outcomes.values()}
        if target.trial.quiet and not any(map(refuses, different.values())):
            return frozenset()
        was_tripped = target.trial.breaker.tripped
        answers = [(message, outcomes[message.msg_id]) for message in messages if message.msg_id in outcomes]
        first = target.trial.hear(answers)
        # What may be the target's from the start has its own count of failures in a row, and may have it, but the last.
        again = {
            message.claim_id
            for message, outcome in answers
            if message.claim_id in first and (outcome.blame is Blame.CLAIM or batch.ends_by(message, outcome))
        }
        if target.trial.breaker.tripped and not was_tripped:
            log.warning("%s: stops, the target is probed: %s", target.step, target.error)
        elif was_tripped and not target.trial.breaker.tripped:
            log.info("%s: goes on", target.step)
        return again

    async def _conclude(
        self,
        batch: Batch,
        target: Target,
        messages: Messages,
        outcomes: Mapping[int, Outcome],
        again: Set[UUID],
    ) -> None:
        """Write down what the ledger said."""
        results = by_result(messages, outcomes)
        ended = [*results.get(Result.COMMITTED, []), *results.get(Result.VOIDED, [])]
        if ended:
            words = {message.msg_id: outcome.result.value for message, outcome in ended}
            with self._metrics.step("acknowledge"):
                await self._change(
                    batch,
                    [message for message, _ in ended],
                    lambda held: self._queue.acknowledge(held, [words[message.msg_id] for message in held]),
                    lambda message: words[message.msg_id],
                )
        failures = [*results.get(Result.DEAD, []), *results.get(Result.RETRY, [])]
        await self._settle_failures(batch, target, failures, again)

    async def _settle_failures(
        self, batch: Batch, target: Target, failures: Sequence[tuple[Message, Outcome]], again: Set[UUID]
    ) -> None:
        """Count what is the claim's, give back what is not; too many failures end in the dead letters, or one word.

        Not one word of a target that refuses everybody: when it is excused no longer, that is a failure like others.
        """
        returns: list[GiveBack] = []
        dead: list[tuple[Message, str]] = []
        for message, outcome in failures:
            word = "failed" if outcome.result is Result.RETRY else "conflict" if outcome.page else "refused"
            error = f"{target.step}: {outcome.reason or word}"
            uncounted = outcome.result is Result.RETRY and not outcome.counted
            if outcome.kind == OURS:
                dead.append((message, error))
            elif uncounted or message.claim_id in again or target.excuses(message, outcome):
                returns.append(GiveBack(message, self._uncounted_delay(target, outcome), None))
            elif outcome.result is Result.DEAD and not target.trial.breaker.tripped:
                dead.append((message, error))
            elif message.failures + 1 > batch.max_retries:
                plural = "s" if message.failures else ""
                dead.append((message, f"{error} (after {message.failures + 1} failure{plural})"))
            else:
                jittered = self._backoff.delay(message.failures, self._uniform)
                # Never sooner, whatever it asks for: a claim would be through its failures while the first call lasts.
                delay = max(jittered, outcome.retry_after or 0.0)
                log.warning("%s; again in %.1f s", error, delay, extra=message.for_log())
                returns.append(GiveBack(message, delay, error))
        await self._give_back(batch, returns)
        await self._dead_letter(batch, dead)

    def _uncounted_delay(self, target: Target, outcome: Outcome) -> float:
        if outcome.retry_after is not None:
            return outcome.retry_after
        if target.tripped:
            # Later than the next probe: a claim that cannot succeed must not be every probe.
            wait = target.wait()
            return self._uniform(wait, 2 * wait)
        return self._backoff.delay(0, self._uniform)

    async def _marked(
        self, batch: Batch, mark: Callable[[Messages], Awaitable[set[int]]], messages: Messages
    ) -> list[Message]:
        """Those whose mark is durable; the others are no longer ours."""
        if not messages:
            return []
        with self._metrics.step("mark"):
            changed = await self._change(batch, messages, mark, None)
        return [message for message in messages if message.msg_id in changed]

    async def _give_back(self, batch: Batch, returns: Sequence[GiveBack]) -> None:
        by_id = {each.message.msg_id: each for each in returns}
        await self._change(
            batch,
            [each.message for each in returns],
            lambda held: self._queue.give_back([by_id[message.msg_id] for message in held]),
            lambda message: "returned" if by_id[message.msg_id].error is None else "failed",
        )

    async def _dead_letter(self, batch: Batch, dead: Sequence[tuple[Message, str]]) -> None:
        reasons = {message.msg_id: reason for message, reason in dead}
        for message, reason in dead:
            log.error("dead letter: %s", reason, extra=message.for_log())
        await self._change(
            batch,
            [message for message, _ in dead],
            lambda held: self._queue.dead_letter(held, [reasons[message.msg_id] for message in held]),
            lambda _: "dead",
        )

    async def _change(
        self,
        batch: Batch,
        messages: Messages,
        call: Callable[[Messages], Awaitable[set[int]]],
        end: Callable[[Message], str] | None,
    ) -> set[int]:
        """One fenced change in DB1, tried until it is confirmed or the lease ends. `end` names what it ends."""
        pause = 0.05
        while held := [message for message in messages if batch.lease.holds(message.msg_id)]:
            try:
                changed = await call(held)
            except DatabaseUnavailableError as error:
                # It may have taken effect: then the second try changes nothing and says so as `stale`.
                log.warning("DB1 is away, result not written yet: %s", error)
                await asyncio.sleep(min(pause, batch.lease.remaining()))
                pause = min(2 * pause, 1.0)
                continue
            self._note(batch, held, changed, end)
            return changed
        return set()

    def _note(self, batch: Batch, held: Messages, changed: set[int], end: Callable[[Message], str] | None) -> None:
        for message in held:
            if message.msg_id not in changed:
                log.warning("stale: another worker holds it, or it has ended", extra=message.for_log())
                batch.ends["stale"] += 1
                self._metrics.ends.labels("stale").inc()
                batch.open.pop(message.msg_id, None)
            elif end is not None:
                batch.ends[end(message)] += 1
                self._metrics.ends.labels(end(message)).inc()
                batch.open.pop(message.msg_id, None)
        batch.lease.lose(message.msg_id for message in held if message.msg_id not in changed)

    def _gate(self, batch: Batch, target: Target, passage: Passage | None = None) -> StepGate:
        return StepGate(batch, target, self._stopping, self._metrics, passage)

    @asynccontextmanager
    async def _kept(self, batch: Batch) -> AsyncIterator[None]:
        """Renew the lease of what is open for as long as the batch is worked on."""
        done = asyncio.Event()

        async def keep() -> None:
            loop = asyncio.get_running_loop()
            while True:
                try:
                    await asyncio.wait_for(done.wait(), batch.lease.extend_every)
                except TimeoutError:
                    started = loop.time()
                else:
                    return
                messages = list(batch.open.values())
                try:
                    extended = await self._queue.extend(messages)
                except DatabaseUnavailableError as error:
                    log.warning("DB1 is away, lease not extended: %s", error)
                    continue
                batch.lease.lose(message.msg_id for message in messages if message.msg_id not in extended)
                batch.lease.extended(started)

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            done.set()
            await keeper
