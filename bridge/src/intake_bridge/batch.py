"""The messages of one read, and every change of them in DB1."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from intake_bridge.domain.answers import TRUNCATED, Addition
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Outcome, Result
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseUnavailableError, GiveBack, Queue

log = logging.getLogger(__name__)


class LeasedBatch:
    """Messages that are leased to this worker. Each change is fenced by the lease, and takes out what it ends.

    A change is tried until DB1 confirms it or the lease ends. A message that DB1 did not change is stale: another
    worker has it, or it has ended. It leaves the batch without a further step.
    """

    def __init__(
        self, queue: Queue, metrics: Metrics, lease: Lease, configuration: Configuration, messages: Messages
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._max_payload_bytes = configuration.max_payload_bytes
        self.lease = lease
        self.max_retries = configuration.max_retries
        self.open = {message.msg_id: message for message in messages}
        """What has not ended and is still ours, by msg_id."""
        self.ends: Counter[str] = Counter()
        """How many messages ended how: committed, voided, returned, failed, dead, stale."""

    def is_last_failure(self, message: Message, outcome: Outcome) -> bool:
        """Whether this failure, if it counts, ends the claim."""
        return outcome.result is not Result.RETRY or message.failures + 1 > self.max_retries

    async def mark_validated(self, messages: Messages, data: Mapping[int, Addition]) -> list[Message]:
        """Those whose approval is durable now, with what the validator has added as a redelivery will bring it."""
        bounded = {msg_id: each.bounded(self._max_payload_bytes) for msg_id, each in data.items()}
        durable: dict[int, Addition] = {}

        async def mark(ours: Messages) -> set[int]:
            sent = [bounded[each.msg_id].text if each.msg_id in bounded else None for each in ours]
            written = await self._queue.mark_validated(ours, sent)
            for msg_id, text in written.items():
                if text is not None:
                    # A number with an exponent is longer in a jsonb: DB1 then has cut what was short enough here.
                    durable[msg_id] = replace(bounded[msg_id], text=text).bounded(self._max_payload_bytes)
            return set(written)

        marked = await self._mark(messages, mark)
        for message in marked:
            if message.msg_id in durable and (flaw := durable[message.msg_id].flaw):
                log.warning(
                    "approved, but the validator's data is kept as %s: %s", TRUNCATED, flaw, extra=message.for_log()
                )
        return [
            replace(message, validation=durable[message.msg_id].text) if message.msg_id in durable else message
            for message in marked
        ]

    async def mark_committing(self, messages: Messages) -> list[Message]:
        """Those of which it is durable now that a commit may have been sent."""
        return await self._mark(messages, self._queue.mark_committing)

    async def acknowledge(self, ended: Sequence[tuple[Message, Result]], receipts: Mapping[int, Addition]) -> None:
        """Archive messages that the ledger has committed or voided, with its receipts, and move their slots."""
        results = {message.msg_id: result for message, result in ended}
        texts = {msg_id: receipt.text for msg_id, receipt in receipts.items()}
        for message, _ in ended if texts else ():
            if message.msg_id in receipts and (flaw := receipts[message.msg_id].flaw):
                log.warning("committed, but the receipt is kept as %s: %s", TRUNCATED, flaw, extra=message.for_log())
        with self._metrics.step("acknowledge"):
            await self._change(
                [message for message, _ in ended],
                lambda ours: self._queue.acknowledge(
                    ours, [results[each.msg_id] for each in ours], [texts.get(each.msg_id) for each in ours]
                ),
                lambda message: results[message.msg_id].value,
            )

    async def give_back(self, returns: Sequence[GiveBack]) -> None:
        """Return messages to the queue."""
        by_id = {each.message.msg_id: each for each in returns}
        await self._change(
            [each.message for each in returns],
            lambda ours: self._queue.give_back([by_id[message.msg_id] for message in ours]),
            lambda message: "returned" if by_id[message.msg_id].error is None else "failed",
        )

    async def give_back_open(self) -> None:
        """Return at once all that has not ended, without counting a failure."""
        await self.give_back([GiveBack(message, 0.0, None) for message in self.open.values()])

    async def dead_letter(self, dead: Sequence[tuple[Message, str, bool]]) -> None:
        """Move messages to the dead letters, each with its reason, and whether a slot of it belongs to another sale."""
        known = {message.msg_id: (reason, conflict) for message, reason, conflict in dead}
        for message, reason, _ in dead:
            log.error("dead letter: %s", reason, extra=message.for_log())
        await self._change(
            [message for message, _, _ in dead],
            lambda ours: self._queue.dead_letter(
                ours, [known[message.msg_id][0] for message in ours], [known[message.msg_id][1] for message in ours]
            ),
            lambda _: "dead",
        )

    @asynccontextmanager
    async def lease_renewed(self) -> AsyncIterator[None]:
        """Renew the lease of what is open for as long as the block runs."""
        done = asyncio.Event()
        renewing = asyncio.create_task(self._renew_until(done))
        try:
            yield
        finally:
            done.set()
            await renewing

    async def _renew_until(self, done: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await asyncio.wait_for(done.wait(), self.lease.extend_every)
            except TimeoutError:
                started = clock()
            else:
                return
            messages = list(self.open.values())
            try:
                extended = await self._queue.extend(messages)
            except DatabaseUnavailableError as error:
                log.warning("DB1 cannot be reached, the lease is not renewed; tried again: %s", error)
                continue
            self.lease.mark_lost(message.msg_id for message in messages if message.msg_id not in extended)
            self.lease.extended(started)

    async def _mark(self, messages: Messages, mark: Callable[[Messages], Awaitable[set[int]]]) -> list[Message]:
        if not messages:
            return []
        with self._metrics.step("mark"):
            changed = await self._change(messages, mark, None)
        return [message for message in messages if message.msg_id in changed]

    async def _change(
        self,
        messages: Messages,
        call: Callable[[Messages], Awaitable[set[int]]],
        end: Callable[[Message], str] | None,
    ) -> set[int]:
        """One fenced change, tried until it is confirmed or the lease ends. `end` names the end that it brings."""
        pause = 0.05
        while ours := [message for message in messages if self.lease.is_ours(message.msg_id)]:
            try:
                changed = await call(ours)
            except DatabaseUnavailableError as error:
                # It may have taken effect: then the second try changes nothing, and the message counts as stale.
                log.warning("DB1 cannot be reached, the result is not written; tried again: %s", error)
                await asyncio.sleep(min(pause, self.lease.remaining()))
                pause = min(2 * pause, 1.0)
                continue
            self._take_out(ours, changed, end)
            return changed
        return set()

    def _take_out(self, ours: Messages, changed: set[int], end: Callable[[Message], str] | None) -> None:
        """Remove what is stale and what has ended, and count both."""
        for message in ours:
            if message.msg_id not in changed:
                log.warning("stale: another worker has leased this message, or it has ended", extra=message.for_log())
                how = "stale"
            elif end is not None:
                how = end(message)
            else:
                continue
            self.ends[how] += 1
            self._metrics.ends.labels(how).inc()
            self.open.pop(message.msg_id, None)
        self.lease.mark_lost(message.msg_id for message in ours if message.msg_id not in changed)


def by_result(messages: Messages, outcomes: Mapping[int, Outcome]) -> dict[Result, list[tuple[Message, Outcome]]]:
    """The messages that have an outcome, grouped by its result."""
    groups: dict[Result, list[tuple[Message, Outcome]]] = {}
    for message in messages:
        if (outcome := outcomes.get(message.msg_id)) is not None:
            groups.setdefault(outcome.result, []).append((message, outcome))
    return groups
