"""One worker: a lane that starts batches, the control loop beside it, and how both begin and end."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from intake_shared.redaction import one_line

from intake_bridge.adapters.database import Database
from intake_bridge.domain.backoff import Backoff, Uniform
from intake_bridge.domain.batch import Batch
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Messages
from intake_bridge.domain.target import Target
from intake_bridge.domain.throttle import Throttle, ThrottleTuning
from intake_bridge.faults import Faults
from intake_bridge.housekeeper import Housekeeper
from intake_bridge.metering import Metering
from intake_bridge.observability.health import ProbeServer
from intake_bridge.observability.metrics import Metrics
from intake_bridge.observability.tracing import NoTracing, Tracing
from intake_bridge.pipeline import Pipeline, Targets
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError
from intake_bridge.settings import MissingSettingError, Secrets, Settings
from intake_bridge.targets import TargetBoard

log = logging.getLogger(__name__)

# One that is read, validated and marked, one at the ledger, one that is acknowledged. More would only be hoarded from
# the other workers while the ledger is slow.
_BATCHES: Final = 3


@dataclass(frozen=True, slots=True)
class Tuning:
    """The worker's own times. Nobody sets them; tests shorten them."""

    configuration_seconds: float = 0.5
    heartbeat_seconds: float = 1.0
    housekeeping_seconds: float = 5.0
    first_idle_seconds: float = 0.02
    last_idle_seconds: float = 0.5
    # Between two looks for claims to be voided, while there are none.
    releases_seconds: float = 1.0
    # After SIGTERM a batch may go on for this long; giving back and closing stay below a grace of 25 s.
    finish_seconds: float = 17.0
    # DB1 unseen for longer than this: not ready.
    silence_seconds: float = 5.0
    backoff: Backoff = field(default_factory=Backoff)
    breaker: BreakerTuning = field(default_factory=BreakerTuning)
    throttle: ThrottleTuning = field(default_factory=ThrottleTuning)


class Worker:
    """Everything one process does."""

    def __init__(
        self, settings: Settings, secrets: Secrets, tuning: Tuning | None = None, tracing: Tracing | None = None
    ) -> None:
        self._settings = settings
        self._tuning = tuning or Tuning()
        self._clock = asyncio.get_running_loop().time
        self._uniform: Uniform = random.uniform
        self._tracing: Tracing = tracing or NoTracing()
        self.metrics = Metrics(settings.worker, self._tracing)
        self._database = Database(
            settings.pool, lambda: secrets.required("INTAKE_DATABASE_URI"), f"intake-bridge/{settings.worker}"[:63]
        )
        self._faults = Faults(settings.faults)
        self._queue = self._faults.queue(self._database)
        name = f"intake-bridge/{settings.pool}"[:63]
        self._board = TargetBoard(secrets, name, self._clock, self._tuning.breaker, self._tracing.http)
        self._metering = Metering(
            self._faults.meter(self._database),
            self._clock,
            Throttle(self._clock, self._tuning.throttle),
            self.metrics,
            self._uniform,
        )
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._pipeline = Pipeline(self._queue, self._metering, self.metrics, self._tuning.backoff, self._stop.is_set)
        self._configuration: Configuration | None = None
        self._acting: Configuration | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._releases_at = self._clock()
        self._sale_owed = False
        self._had_loner = False
        self._database_seen_at: float | None = None
        self._database_error = "not connected yet"
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._probes = ProbeServer(self.metrics, self._why_not_ready, self._refresh_metrics)

    async def port(self) -> int:
        """Where the probes listen, once they do."""
        return await asyncio.shield(self._port)

    def stop(self) -> None:
        """Stop reading; `run` returns when what was begun has ended or was given back."""
        if not self._stop.is_set():
            log.info("stopping")
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`."""
        port = await self._probes.start(self._settings.http_port)
        self._port.set_result(port)
        await self._database.open()
        log.info("started", extra={"pool_id": self._settings.pool, "http_port": port})
        housekeeper = Housekeeper(self._database, self.metrics, self._tuning.housekeeping_seconds)
        beside = [
            asyncio.create_task(self._control(), name="control"),
            asyncio.create_task(housekeeper.run(), name="housekeeper"),
        ]
        lane = asyncio.create_task(self._lane(), name="lane")
        stopped = asyncio.create_task(self._stop.wait(), name="stopped")
        try:
            # None of these ends before `stop` does, unless by a defect: then the process ends too, and is started anew.
            done, _ = await asyncio.wait({lane, stopped, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            await self._finish(lane)
        finally:
            tasks = [*beside, stopped, lane, *self._under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._board.close()
            await self._database.close()
            await self._probes.stop()
            log.info("stopped")

    async def _finish(self, lane: asyncio.Task[None]) -> None:
        await asyncio.wait({lane}, timeout=self._tuning.finish_seconds)
        # Twice: a cancelled psycopg call waits for the server to agree, and a frozen server never does.
        for _ in range(2):
            if late := {task for task in (lane, *self._under_way) if not task.done()}:
                log.warning("could not finish in time: giving back what is open")
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=2.5)

    # --- the lane: batches, one after the other, each step with the next one while the last one is a step further ---

    async def _lane(self) -> None:
        idle = self._tuning.first_idle_seconds
        said = ""
        while not self._stop.is_set():
            try:
                moved = await self._turn()
                said = ""
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if said != (said := str(error)):  # once, not once a turn for the length of an outage
                    log.warning("nothing can be read: %s", error)
                moved = False
                idle = self._tuning.last_idle_seconds
            except Exception:
                # A defect may not become a crash loop that hides itself: said aloud, and the leases come back.
                log.exception("a batch was abandoned")
                moved = False
                idle = self._tuning.last_idle_seconds
            if moved:
                idle = self._tuning.first_idle_seconds
            else:
                await self._pause(self._uniform(idle / 2, idle))
                idle = min(2 * idle, self._tuning.last_idle_seconds)
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _make_room(self, most: int) -> None:
        """Wait until so many batches are under way at most; raises what one of them has raised."""
        while len(self._under_way) > most:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            self._reap()
        self._reap()

    def _reap(self) -> None:
        ended = {task for task in self._under_way if task.done()}
        self._under_way -= ended
        errors = [error for task in ended if (error := task.exception()) is not None]
        # The lane hears of one; a defect rather than an outage.
        errors.sort(key=lambda error: isinstance(error, DatabaseUnavailableError))
        for error in errors[1:]:
            log.warning("another batch was abandoned: %s", one_line(error))
        if errors:
            raise errors[0]

    def _side_by_side(self, targets: Targets) -> bool:
        """Whether a batch may be read while another is under way: nobody asks us to be gentle.

        A target that is down is probed with one claim, a meter is fed with what it lets through, a ledger beyond its
        budget gets one batch at a time.
        """
        well = not targets.validation.tripped and not targets.commitment.tripped
        return well and self._metering.unhindered

    async def _turn(self) -> bool:
        """Read and finish one batch, of releases or of sales; False when there was nothing to do."""
        configuration = self._configuration
        if configuration is None:
            return False
        if configuration is not self._acting:
            await self._make_room(0)  # whose targets may be replaced
        self._act_upon(configuration)
        targets = self._faults.targets(await self._board.follow(configuration))
        await self._make_room(_BATCHES - 1 if self._side_by_side(targets) else 0)
        if configuration.paused:
            return False
        return await self._release(configuration, targets) or await self._sell(configuration, targets)

    async def _release(self, configuration: Configuration, targets: Targets) -> bool:
        """A batch of claims that are to be voided: needs the ledger, not the validator."""
        sale = self._sale_owed and self._allowance(targets.validation, targets.commitment) > 0
        if sale or self._clock() < self._releases_at:
            return False
        # Not behind a call that hangs: another worker can have the ledger void it now.
        await self._make_room(0)
        limit = self._allowance(targets.voiding)
        if limit == 0:
            return False
        # By turns: loners may be many, each of them takes a read of its own, and a release frees a slot.
        waits, self._had_loner = self._had_loner, False
        if not waits and await self._alone(configuration, targets):
            return True
        started = self._clock()
        messages = await self._queue.read_releases(self._settings.worker, limit)
        if not messages and waits and await self._alone(configuration, targets):
            return True
        if not messages:
            self._releases_at = self._clock() + self._tuning.releases_seconds
            return False
        # By turns, or the meter would feed only whoever looks first. Sales that a target holds up have no turn.
        self._sale_owed = True
        batch = self._batch(configuration, started, messages)
        self._begin("releases", batch, self._pipeline.release(batch, targets))
        return True

    async def _alone(self, configuration: Configuration, targets: Targets) -> bool:
        """One message that no bridge has lived to the end of; nothing else is in hand, before it and beside it."""
        if self._allowance(targets.validation, targets.commitment) == 0:
            return False
        started = self._clock()
        messages = await self._queue.read_quarantined(self._settings.worker)
        self._had_loner = bool(messages)
        if not messages:
            return False
        self._sale_owed = True
        self.metrics.alone.inc()
        log.warning("read alone: three deliveries of it had no end", extra=messages[0].for_log())
        batch = self._batch(configuration, started, messages)
        work = self._pipeline.release if messages[0].release else self._pipeline.process
        self._begin("alone", batch, work(batch, targets))
        await self._make_room(0)
        return True

    async def _sell(self, configuration: Configuration, targets: Targets) -> bool:
        """A batch of claims that are to be sold."""
        limit = self._allowance(targets.validation, targets.commitment)
        if limit == 0:
            await self._pause(min(0.25, max(targets.validation.wait(), targets.commitment.wait())))
            return True
        self._sale_owed = False
        started = self._clock()
        messages = await self._queue.read_batch(self._settings.worker, limit)
        if not messages:
            for target in (targets.validation, targets.commitment, targets.voiding):
                target.forget_if_idle()
            self._metering.throttle.idle()
            return self._had_loner  # whose next one has its turn at once
        batch = self._batch(configuration, started, messages)
        self._begin("batch", batch, self._pipeline.process(batch, targets))
        return True

    def _begin(self, what: str, batch: Batch, work: Coroutine[Any, Any, None]) -> None:
        self._under_way.add(asyncio.create_task(self._process(what, batch, work), name=what))

    def _batch(self, configuration: Configuration, started: float, messages: Messages) -> Batch:
        lease = Lease(self._clock, started, configuration.visibility_timeout_seconds)
        return Batch(lease, configuration.max_retries, {message.msg_id: message for message in messages})

    async def _process(self, what: str, batch: Batch, work: Coroutine[Any, Any, None]) -> None:
        started, size = self._clock(), len(batch.open)
        self.metrics.batch.observe(size)
        self.metrics.in_flight.inc(size)
        try:
            with self._tracing.batch(what, batch.open.values(), batch.ends):
                await work
        except BaseException:
            # Shielded by a task of its own: we may be here because we are cancelled.
            giving_back = asyncio.create_task(self._pipeline.give_back_open(batch))
            await asyncio.wait({giving_back}, timeout=2)
            giving_back.cancel()
            raise
        finally:
            self._metering.batch_ended(size)
            self.metrics.in_flight.dec(size)
        log.info(
            what,
            extra={
                "pool_id": self._settings.pool,
                "read": size,
                **batch.ends,
                "seconds": round(self._clock() - started, 4),
            },
        )
        if rest := self._metering.throttle.rest:
            await self._pause(rest)

    def _act_upon(self, configuration: Configuration) -> None:
        if self._acting is not None and self._acting.generation != configuration.generation:
            log.info(
                "configuration changed",
                extra={"generation": configuration.generation, "batch_size": configuration.batch_size},
            )
        self._acting = configuration

    def _allowance(self, *targets: Target) -> int:
        wanted = self._metering.read_limit()
        return min(target.allowance(wanted) for target in targets)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the configuration changes or we stop."""
        self._wake.clear()
        if self._stop.is_set():
            return
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return

    # --- beside the lane ---

    async def _control(self) -> None:
        """Follow the configuration, report what is acted upon."""
        reported_at, reported_generation = float("-inf"), None
        while True:
            try:
                configuration = await self._database.configuration()
                if configuration != self._configuration:
                    self._configuration = configuration
                    self._metering.follow(configuration)
                    self._wake.set()
                acting = self._acting
                # A new generation is told at once: somebody has edited the throttle and is looking.
                due = acting is not None and acting.generation != reported_generation
                if acting is not None and (due or self._clock() >= reported_at + self._tuning.heartbeat_seconds):
                    reported_at, reported_generation = self._clock(), acting.generation
                    await self._database.report_worker(
                        self._settings.worker, acting, self._metering.batch, self._board.health()
                    )
                self._engine_answers()
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if str(error) != self._database_error:
                    log.warning("DB1: %s", error)
                self._database_error = str(error)
            await asyncio.sleep(self._tuning.configuration_seconds)

    def _engine_answers(self) -> None:
        if self._database_error:
            log.info("DB1 answers")
        self._database_error = ""
        self._database_seen_at = self._clock()

    def _why_not_ready(self) -> str | None:
        seen = self._database_seen_at
        if seen is not None and self._clock() - seen <= self._tuning.silence_seconds:
            return None
        return f"DB1: {self._database_error or 'silent'}"

    def _refresh_metrics(self) -> None:
        self.metrics.database_up.set(0 if self._why_not_ready() else 1)
        self.metrics.batch_size.set(self._metering.batch)
        self.metrics.share.set(self._metering.throttle.share)
        if self._board.targets is not None:
            targets = self._board.targets
            for target in (targets.validation, targets.commitment, targets.voiding):
                self.metrics.show_breaker(target.step, target.circuit)
        for step, calls in self._board.windows.items():
            self.metrics.window.labels(step).set(calls)
