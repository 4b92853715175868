"""The read loop: what to read next from the queue, and when."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from intake_bridge.batch import LeasedBatch
from intake_bridge.batch_runner import MOST_BATCHES, BatchRunner
from intake_bridge.domain.anonymous import place_of
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.last_minute import LastMinute
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError, Dependencies, Queue
from intake_bridge.rate_limiter import RateLimiter
from intake_bridge.settings import MissingSettingError
from intake_bridge.stop_signal import StopSignal
from intake_bridge.tuning import Tuning

log = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS: Final = 0.25
_REFUSED_LATELY_SECONDS: Final = 10.0


class BatchReader:
    """Reads messages from the queue and makes batches of them."""

    def __init__(self, queue: Queue, worker: str, metrics: Metrics) -> None:
        self._queue = queue
        self._worker = worker
        self._metrics = metrics

    async def sales(self, configuration: Configuration, limit: int) -> LeasedBatch | None:
        """Messages to be sold; None if none is due."""
        return await self._read(configuration, self._queue.read_batch(self._worker, limit))

    async def releases(self, configuration: Configuration, limit: int) -> LeasedBatch | None:
        """Messages to be voided; None if none is due."""
        return await self._read(configuration, self._queue.read_releases(self._worker, limit))

    async def quarantined(self, configuration: Configuration) -> LeasedBatch | None:
        """One message of the quarantine; None if there is none."""
        batch = await self._read(configuration, self._queue.read_quarantined(self._worker))
        if batch is not None:
            self._metrics.quarantined_reads.inc()
            (message,) = batch.open.values()
            log.warning("read alone, because three bridges died while they had it", extra=message.for_log())
        return batch

    async def _read(self, configuration: Configuration, read: Awaitable[list[Message]]) -> LeasedBatch | None:
        clock = asyncio.get_running_loop().time
        # From before the read: DB1 counts the lease from a later instant.
        lease = Lease(clock, clock(), configuration.visibility_timeout_seconds)
        messages = await read
        return LeasedBatch(self._queue, self._metrics, lease, configuration, messages) if messages else None


class ReadLoop:
    """Starts batches, one after the other. A batch is read while the one before it is a step further."""

    def __init__(
        self,
        reader: BatchReader,
        batches: BatchRunner,
        rate_limiter: RateLimiter,
        dependencies: Callable[[Configuration], Awaitable[Dependencies]],
        stop: StopSignal,
        tuning: Tuning,
    ) -> None:
        self._reader = reader
        self._batches = batches
        self._rate_limiter = rate_limiter
        self._dependencies = dependencies
        self._stop = stop
        self._tuning = tuning
        self._clock = asyncio.get_running_loop().time
        self._configuration: Configuration | None = None
        self._releases_at = self._clock()
        self._sale_is_next = False
        self._read_quarantined_last = False
        self.acting: Configuration | None = None
        """The configuration in use; None before the first read."""
        self.defects = LastMinute(self._clock)
        """Errors of our own code."""
        self._refusal, self._refused_at = "", float("-inf")

    @property
    def refusal(self) -> str | None:
        """Why DB1 has refused a read or a change lately; None if it has not."""
        # Reads succeed between the changes that are refused, so one success proves nothing.
        return self._refusal if self._clock() - self._refused_at < _REFUSED_LATELY_SECONDS else None

    def follow(self, configuration: Configuration) -> None:
        """Use this configuration from the next read on."""
        self._configuration = configuration
        self._rate_limiter.follow(configuration)
        self._stop.wake()

    async def run(self) -> None:
        """Read until stopped, then wait for what is under way."""
        idle = self._tuning.first_idle_seconds
        logged = ""
        while not self._stop.is_set():
            again = False
            try:
                again = await self._read_once()
                logged = ""
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if not isinstance(error, DatabaseUnavailableError):
                    self._refusal, self._refused_at = str(error), self._clock()
                if logged != (logged := str(error)):  # once, not at each try for the length of an outage
                    log.warning("nothing can be read; tried again: %s", error)
                idle = self._tuning.last_idle_seconds
            except Exception as error:
                # Report a bug and go on rather than crash-loop: the messages are given back, or their leases end.
                log.exception("a batch failed, its messages are given back")
                self.defects.record(1, 1, place_of(error))
                idle = self._tuning.last_idle_seconds
            if again:
                idle = self._tuning.first_idle_seconds
            else:
                await self._stop.pause(random.uniform(idle / 2, idle))  # noqa: S311 - jitter
                idle = min(2 * idle, self._tuning.last_idle_seconds)
        await self._batches.finish()

    async def _read_once(self) -> bool:
        """Read one batch and begin it. Returns whether to go on at once: a batch has begun, or a wait is over.

        A batch that has begun goes on in a task of its own. False: there is nothing to read, or reading is paused.
        """
        configuration = self._configuration
        if configuration is None:
            return False
        if configuration is not self.acting:
            await self._batches.make_room(0)  # their dependencies may be replaced
        self._act_upon(configuration)
        dependencies = await self._dependencies(configuration)
        await self._batches.make_room(MOST_BATCHES - 1 if self._may_read_ahead(dependencies) else 0)
        if configuration.paused:
            return False
        return await self._void(configuration, dependencies) or await self._sell(configuration, dependencies)

    def _may_read_ahead(self, dependencies: Dependencies) -> bool:
        """Whether a batch may be read while another is under way.

        Not while a dependency is probed with one claim, nor under a rate limit, nor for a ledger beyond its budget.
        """
        well = not dependencies.validation.tripped and not dependencies.commitment.tripped
        return well and self._rate_limiter.is_unlimited

    async def _void(self, configuration: Configuration, dependencies: Dependencies) -> bool:
        """A batch of claims that are to be voided. It needs the ledger, not the validator."""
        may_sell = self._allowance(dependencies.validation, dependencies.commitment) > 0
        if (self._sale_is_next and may_sell) or self._clock() < self._releases_at:
            return False
        # Not read while a batch is under way, whose call may hang: another worker can have the ledger void them now.
        await self._batches.make_room(0)
        limit = self._allowance(dependencies.voiding)
        if limit == 0:
            return False
        # Quarantine and releases alternate: each quarantined message takes a read of its own, and there may be many.
        quarantine_was_last, self._read_quarantined_last = self._read_quarantined_last, False
        if not quarantine_was_last and await self._handle_quarantined(configuration, dependencies):
            return True
        batch = await self._reader.releases(configuration, limit)
        if batch is None and quarantine_was_last and await self._handle_quarantined(configuration, dependencies):
            return True
        if batch is None:
            self._releases_at = self._clock() + self._tuning.releases_seconds
            return False
        # Sales and releases alternate, or releases would take all tokens. Sales that cannot be made are not waited for.
        self._sale_is_next = True
        self._batches.begin("releases", batch, dependencies, void=True)
        return True

    async def _handle_quarantined(self, configuration: Configuration, dependencies: Dependencies) -> bool:
        """One message of the quarantine. This worker has no other message until it has ended."""
        if self._allowance(dependencies.validation, dependencies.commitment) == 0:
            return False
        batch = await self._reader.quarantined(configuration)
        self._read_quarantined_last = batch is not None
        if batch is None:
            return False
        self._sale_is_next = True
        (message,) = batch.open.values()
        self._batches.begin("quarantined message", batch, dependencies, void=message.release)
        await self._batches.make_room(0)
        return True

    async def _sell(self, configuration: Configuration, dependencies: Dependencies) -> bool:
        """A batch of claims that are to be sold."""
        limit = self._allowance(dependencies.validation, dependencies.commitment)
        if limit == 0:
            wait = max(dependencies.validation.wait(), dependencies.commitment.wait())
            await self._stop.pause(min(_LONGEST_WAIT_SECONDS, wait))
            return True
        self._sale_is_next = False
        batch = await self._reader.sales(configuration, limit)
        if batch is None:
            for dependency in (dependencies.validation, dependencies.commitment, dependencies.voiding):
                dependency.forget_if_idle()
            self._rate_limiter.throttle.record_idle()
            return self._read_quarantined_last  # then there may be another one in the quarantine
        self._batches.begin("batch", batch, dependencies)
        return True

    def _act_upon(self, configuration: Configuration) -> None:
        if self.acting is not None and self.acting.generation != configuration.generation:
            log.info(
                "configuration changed",
                extra={"generation": configuration.generation, "batch_size": configuration.batch_size},
            )
        self.acting = configuration

    def _allowance(self, *dependencies: Dependency) -> int:
        wanted = self._rate_limiter.read_limit()
        return min(dependency.allowance(wanted) for dependency in dependencies)
