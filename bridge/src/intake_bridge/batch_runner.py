"""The batches that are being worked on, each in a task of its own."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from intake_shared.redaction import one_line

from intake_bridge.batch import LeasedBatch
from intake_bridge.observability.metrics import Metrics
from intake_bridge.pipeline import Pipeline
from intake_bridge.ports import DatabaseUnavailableError, Dependencies, Tracing
from intake_bridge.rate_limiter import RateLimiter
from intake_bridge.stop_signal import StopSignal

log = logging.getLogger(__name__)

# One that is read, validated and marked, one at the ledger, one that is acknowledged. With more, a worker would keep
# messages from the other workers while the ledger is slow.
MOST_BATCHES: Final = 3


class BatchRunner:
    """Runs batches, counts and logs them, and gives back what a failed or cancelled one leaves open."""

    def __init__(
        self,
        pool_id: str,
        pipeline: Pipeline,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        tracing: Tracing,
        stop: StopSignal,
    ) -> None:
        self._pool_id = pool_id
        self._pipeline = pipeline
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._tracing = tracing
        self._stop = stop
        self.under_way: set[asyncio.Task[None]] = set()

    def begin(self, what: str, batch: LeasedBatch, dependencies: Dependencies, *, void: bool = False) -> None:
        """Start to sell a batch, or to void it. `what` names it in logs and spans."""
        work = self._pipeline.void if void else self._pipeline.process
        self.under_way.add(asyncio.create_task(self._run(what, batch, work(batch, dependencies)), name=what))

    async def make_room(self, most: int) -> None:
        """Wait until at most so many batches are under way. Raises what one of them has raised."""
        while len(self.under_way) > most:
            await asyncio.wait(self.under_way, return_when=asyncio.FIRST_COMPLETED)
            self._raise_errors()
        self._raise_errors()

    async def finish(self) -> None:
        """Wait until all have ended, without raising their errors."""
        if self.under_way:
            await asyncio.wait(self.under_way)

    def _raise_errors(self) -> None:
        ended = {task for task in self.under_way if task.done()}
        self.under_way -= ended
        errors = [error for task in ended if (error := task.exception()) is not None]
        # One is raised: rather a bug than an outage of DB1.
        errors.sort(key=lambda error: isinstance(error, DatabaseUnavailableError))
        for error in errors[1:]:
            log.warning("another batch failed, its messages are given back: %s", one_line(error))
        if errors:
            raise errors[0]

    async def _run(self, what: str, batch: LeasedBatch, work: Coroutine[Any, Any, None]) -> None:
        clock = asyncio.get_running_loop().time
        started, size = clock(), len(batch.open)
        slots = sum(message.slots for message in batch.open.values())
        self._metrics.batch.observe(size)
        self._metrics.in_flight.inc(size)
        try:
            with self._tracing.batch(what, batch.open.values(), batch.ends):
                await work
        except BaseException:
            # In a task of its own, because this one may be cancelled.
            giving_back = asyncio.create_task(batch.give_back_open())
            await asyncio.wait({giving_back}, timeout=2)
            giving_back.cancel()
            raise
        finally:
            self._rate_limiter.batch_ended(size)
            self._metrics.in_flight.dec(size)
        seconds = round(clock() - started, 4)
        # Claims, each with one end; `slots` is how many slots they have.
        counts = {"read": size, "slots": slots, **batch.ends}
        log.info("%s ended", what, extra={"pool_id": self._pool_id, **counts, "seconds": seconds})
        if rest := self._rate_limiter.throttle.rest_seconds:
            await self._stop.pause(rest)
