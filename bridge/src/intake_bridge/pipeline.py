"""One batch from lease to end: validate, mark, commit, acknowledge. Each step is durable before the next one acts."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from functools import partial
from uuid import UUID

from intake_bridge.batch import LeasedBatch, by_result
from intake_bridge.domain.answers import Answers
from intake_bridge.domain.backoff import Backoff, Uniform
from intake_bridge.domain.common_failure import is_failure
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.message import Message, Messages, State
from intake_bridge.domain.outcomes import DECIDED_BY_BRIDGE, Blame, Outcome, Result
from intake_bridge.gate import StepGate
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import Dependencies, Gate, GiveBack
from intake_bridge.rate_limiter import Permit, RateLimiter

log = logging.getLogger(__name__)


class Pipeline:
    """Knows the order of the steps, and what each outcome leads to. Knows no driver.

        pipeline = Pipeline(rate_limiter, metrics, Backoff(), stop.is_set)
        batch = LeasedBatch(queue, metrics, lease, max_retries, await queue.read_batch(worker, 100))
        await pipeline.process(batch, dependencies)    # or `void`, for what `read_releases` gave

    Batches may be processed side by side. Raises what ports.Queue raises; what is then left in `batch.open` has to be
    given back by the caller.
    """

    def __init__(
        self,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        backoff: Backoff,
        stopping: Callable[[], bool],
        uniform: Uniform = random.uniform,
    ) -> None:
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._backoff = backoff
        self._stopping = stopping
        self._uniform = uniform
        # One batch at a time at each dependency: otherwise a second batch would double the calls under way.
        self._at_validator = asyncio.Lock()
        self._at_ledger = asyncio.Lock()

    async def process(self, batch: LeasedBatch, dependencies: Dependencies) -> None:
        """Sell: bring every message of the batch to an end, or back to the queue."""
        async with batch.lease_renewed():
            approved, declined = await self._validate(batch, dependencies)
            for message in await self._void(batch, dependencies, declined):
                log.error("declined now, but the ledger had committed it before", extra=message.for_log())
            await self._commit(batch, dependencies, approved)
            # Not sent: the breaker opened, we are stopping, or the lease ran short. That is no claim's failure.
            await batch.give_back_open()

    async def void(self, batch: LeasedBatch, dependencies: Dependencies) -> None:
        """Void every message of the batch: released by its buyer, or past the claim timeout. Asks no validator."""
        async with batch.lease_renewed():
            gate = self._gate(batch, dependencies.voiding)
            admitted = [message for message in batch.open.values() if gate.may_start(message)]
            for message in await self._void(batch, dependencies, admitted):
                log.warning("too late to release: the ledger has committed it", extra=message.for_log())
            await batch.give_back_open()

    async def _validate(self, batch: LeasedBatch, dependencies: Dependencies) -> tuple[list[Message], list[Message]]:
        """(those that may be committed, those that were declined). The approval is durable when this returns."""
        asked = [message for message in batch.open.values() if message.state is State.QUEUED]
        ready = [message for message in batch.open.values() if message.state is not State.QUEUED]
        if not asked:
            return ready, []
        gate = self._gate(batch, dependencies.validation)
        async with self._at_validator:
            # The batch before this one may have found that the validator is down: then no more is sent than a probe.
            asked = asked[: dependencies.validation.allowance(len(asked))]
            with self._metrics.step("validate"):
                answers = await dependencies.validator.validate(asked, gate)
            outcomes = answers.outcomes
            again = self._record_answers(batch, dependencies.validation, asked, outcomes)
        results = by_result(asked, outcomes)
        approved = [message for message, _ in results.get(Result.APPROVED, [])]
        declined: list[tuple[Message, Outcome]] = []
        doubtful: list[tuple[Message, Outcome]] = []
        for message, outcome in results.get(Result.DECLINED, []):
            # A void is final: never because of a validator that is suspected of refusing every claim.
            suspected = message.claim_id in again or dependencies.validation.common_failure.breaker.tripped
            (doubtful if suspected and is_failure(outcome) else declined).append((message, outcome))
        failures = [*results.get(Result.RETRY, []), *doubtful]
        await self._handle_failures(batch, dependencies.validation, failures, again)
        for message, outcome in declined:
            log.info("declined: %s", outcome.reason or "no reason given", extra=message.for_log())
        marked = await batch.mark_validated(approved, answers.additions)
        return ready + marked, [message for message, _ in declined]

    async def _void(self, batch: LeasedBatch, dependencies: Dependencies, messages: Messages) -> list[Message]:
        """Void in the ledger first, and free the slot after it. Returns those that the ledger has committed instead."""
        outcomes: dict[int, Outcome] = {}

        async def send(portion: Messages, gate: Gate) -> Answers:
            with self._metrics.step("void"):
                answers = await dependencies.ledger.void(portion, gate)
            outcomes.update(answers.outcomes)
            return answers

        await self._send_in_portions(batch, dependencies.voiding, messages, send)
        return [message for message, _ in by_result(messages, outcomes).get(Result.COMMITTED, [])]

    async def _commit(self, batch: LeasedBatch, dependencies: Dependencies, approved: Messages) -> None:
        async def send(portion: Messages, gate: Gate) -> Answers:
            if dependencies.ledger.needs_mark:
                unmarked = [message for message in portion if message.state is not State.COMMITTING]
                marked = [message for message in portion if message.state is State.COMMITTING]
                # What may not start is not marked. What a call that ends early leaves out is marked, and sent later.
                unmarked = [message for message in unmarked if gate.may_start(message)]
                portion = marked + await batch.mark_committing(unmarked)
            if not portion:
                return Answers()
            with self._metrics.step("commit"):
                return await dependencies.ledger.commit(portion, gate)

        await self._send_in_portions(batch, dependencies.commitment, approved, send)

    async def _send_in_portions(
        self,
        batch: LeasedBatch,
        dependency: Dependency,
        messages: Messages,
        send: Callable[[Messages, Gate], Awaitable[Answers]],
    ) -> None:
        """Send messages to the ledger as permits allow. The results of a portion are in DB1 before the next is sent."""
        before = self._gate(batch, dependency)
        waiting = list(messages)
        while waiting:
            async with self._at_ledger:
                waiting = [message for message in waiting if batch.lease.is_ours(message.msg_id)]
                # The batch before this one may have found that the ledger is down: then no more is sent than a probe.
                allowed = dependency.allowance(len(waiting))
                if not allowed:
                    return
                permit = await self._rate_limiter.acquire(allowed, partial(before.may_start_any, waiting))
                if permit is None:
                    return
                portion, waiting = waiting[: permit.size], waiting[permit.size :]
                async with permit:
                    answers = await send(portion, self._gate(batch, dependency, permit))
                    permit.record_answers(answers.outcomes.values())
                again = self._record_answers(batch, dependency, portion, answers.outcomes)
            await self._write_results(batch, dependency, portion, answers, again)
            if not before.may_start_any(waiting):
                return

    def _record_answers(
        self, batch: LeasedBatch, dependency: Dependency, messages: Messages, outcomes: Mapping[int, Outcome]
    ) -> Set[UUID]:
        """Look for a common failure in all answers of one call, before any of them counts.

        Returns the claims that are asked once more before a failure counts against them.
        """
        dependency.last_minute.record_answers(outcomes.values())
        common = dependency.common_failure
        # Most of the answers of a call are one and the same object.
        different = {id(outcome): outcome for outcome in outcomes.values()}
        if common.is_empty and not any(map(is_failure, different.values())):
            return frozenset()
        was_suspected = common.breaker.tripped
        answers = [(message, outcomes[message.msg_id]) for message in messages if message.msg_id in outcomes]
        first = common.record(answers)
        # A failure that may be the dependency's counts at once, unless it would end the claim: the breaker has a count
        # of failures in a row for it.
        again = {
            message.claim_id
            for message, outcome in answers
            if message.claim_id in first and (outcome.blame is Blame.CLAIM or batch.is_last_failure(message, outcome))
        }
        if common.breaker.tripped and not was_suspected:
            log.warning("%s: stops, one claim at a time is sent as a probe: %s", dependency.step, dependency.error)
        elif was_suspected and not common.breaker.tripped:
            log.info("%s: goes on, a claim has succeeded", dependency.step)
        if dependency.tripped:
            dependency.last_minute.clear()
        return again

    async def _write_results(
        self,
        batch: LeasedBatch,
        dependency: Dependency,
        portion: Messages,
        answers: Answers,
        again: Set[UUID],
    ) -> None:
        """Acknowledge what the ledger has ended, and handle the failures."""
        results = by_result(portion, answers.outcomes)
        ended = [*results.get(Result.COMMITTED, []), *results.get(Result.VOIDED, [])]
        if ended:
            await batch.acknowledge([(message, outcome.result) for message, outcome in ended], answers.additions)
        failures = [*results.get(Result.DEAD, []), *results.get(Result.RETRY, [])]
        await self._handle_failures(batch, dependency, failures, again)

    async def _handle_failures(
        self,
        batch: LeasedBatch,
        dependency: Dependency,
        failures: Sequence[tuple[Message, Outcome]],
        again: Set[UUID],
    ) -> None:
        """Count a failure that is the claim's, give back uncounted one that is not, move the rest to the dead letters.

        A claim is dead after too many counted failures, or at once by an outcome DEAD; not while the dependency is
        suspected of refusing every claim: then an outcome DEAD is a failure like others.
        """
        returns: list[GiveBack] = []
        dead: list[tuple[Message, str, bool]] = []
        for message, outcome in failures:
            word = "failed" if outcome.result is Result.RETRY else "conflict" if outcome.needs_human else "refused"
            error = f"{dependency.step}: {outcome.reason or word}"
            uncounted = outcome.result is Result.RETRY and not outcome.counted
            if outcome.kind == DECIDED_BY_BRIDGE:
                dead.append((message, error, False))
            elif uncounted or message.claim_id in again or dependency.is_to_blame(message, outcome):
                returns.append(GiveBack(message, self._uncounted_delay(dependency, outcome), None))
            elif outcome.result is Result.DEAD and not dependency.common_failure.breaker.tripped:
                dead.append((message, error, outcome.needs_human))
            elif message.failures + 1 > batch.max_retries:
                plural = "s" if message.failures else ""
                error = f"{error} (after {message.failures + 1} failure{plural})"
                dead.append((message, error, outcome.needs_human))
            else:
                jittered = self._backoff.delay(message.failures, self._uniform)
                # Retry-After never shortens the back-off: maxRetries failures would pass while the first call lasts.
                delay = max(jittered, outcome.retry_after or 0.0)
                log.warning("%s; again in %.1f s", error, delay, extra=message.for_log())
                returns.append(GiveBack(message, delay, error))
        await batch.give_back(returns)
        await batch.dead_letter(dead)

    def _uncounted_delay(self, dependency: Dependency, outcome: Outcome) -> float:
        if outcome.retry_after is not None:
            return outcome.retry_after
        if dependency.tripped:
            # Later than the next probe: a claim that cannot succeed must not be every probe.
            wait = dependency.wait()
            return self._uniform(wait, 2 * wait)
        return self._backoff.delay(0, self._uniform)

    def _gate(self, batch: LeasedBatch, dependency: Dependency, permit: Permit | None = None) -> StepGate:
        return StepGate(batch, dependency, self._stopping, self._metrics, permit)
