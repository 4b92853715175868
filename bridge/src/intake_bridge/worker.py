"""The life of one worker: what it is made of, how it starts, and how it ends."""

import asyncio
import logging

from intake_bridge.adapters.database import Database
from intake_bridge.batch_runner import BatchRunner
from intake_bridge.control import ControlLoop
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.throttle import Throttle
from intake_bridge.housekeeper import Housekeeper
from intake_bridge.observability.health import ProbeServer
from intake_bridge.observability.metrics import Metrics
from intake_bridge.pipeline import Pipeline
from intake_bridge.ports import Dependencies, NoTracing, Tracing, Wrap
from intake_bridge.rate_limiter import RateLimiter
from intake_bridge.read_loop import BatchReader, ReadLoop
from intake_bridge.registry import DependencyRegistry
from intake_bridge.settings import Secrets, Settings
from intake_bridge.stop_signal import StopSignal
from intake_bridge.tuning import Tuning

log = logging.getLogger(__name__)


class Worker:
    """Everything that one process does: the read loop, the control loop, the housekeeper and the probes.

        settings, secrets = await load()
        worker = Worker(settings, secrets)
        loop.add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    Make it inside a running event loop. `tuning` and `wrap` are for tests.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        tuning: Tuning | None = None,
        tracing: Tracing | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        self._settings = settings
        self._tuning = tuning = tuning or Tuning()
        tracing = tracing or NoTracing()
        wrap = wrap or Wrap()
        clock = asyncio.get_running_loop().time
        self._stop = StopSignal()
        self.metrics = Metrics(settings.worker, tracing)
        self._database = Database(
            settings.pool, lambda: secrets.required("INTAKE_DATABASE_URI"), f"intake-bridge/{settings.worker}"[:63]
        )
        self._registry = DependencyRegistry(
            secrets, f"intake-bridge/{settings.pool}"[:63], clock, tuning.breaker, tracing.http
        )
        self._rate_limiter = RateLimiter(
            wrap.token_bucket(self._database), clock, Throttle(clock, tuning.throttle), self.metrics
        )
        pipeline = Pipeline(self._rate_limiter, self.metrics, tuning.backoff, self._stop.is_set)
        self._batches = BatchRunner(settings.pool, pipeline, self._rate_limiter, self.metrics, tracing, self._stop)

        async def dependencies(configuration: Configuration) -> Dependencies:
            return wrap.dependencies(await self._registry.follow(configuration))

        self._read_loop = ReadLoop(
            BatchReader(wrap.queue(self._database), settings.worker, self.metrics),
            self._batches,
            self._rate_limiter,
            dependencies,
            self._stop,
            tuning,
        )
        self._control = ControlLoop(
            self._database, settings.worker, self._read_loop, self._rate_limiter, self._registry, tuning
        )
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._probes = ProbeServer(self.metrics, self._control.why_not_ready, self._refresh_metrics)

    async def port(self) -> int:
        """The port of the probes, as soon as they listen."""
        return await asyncio.shield(self._port)

    def stop(self) -> None:
        """Stop reading. `run` returns when what was begun has ended or was given back."""
        if not self._stop.is_set():
            log.info("stopping")
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`. Raises what a bug in one of the loops raises: the process ends then, and is restarted."""
        port = await self._probes.start(self._settings.http_port)
        self._port.set_result(port)
        await self._database.open()
        log.info("started", extra={"pool_id": self._settings.pool, "http_port": port})
        housekeeper = Housekeeper(self._database, self.metrics, self._tuning.housekeeping_seconds)
        beside = [
            asyncio.create_task(self._control.run(), name="control"),
            asyncio.create_task(housekeeper.run(), name="housekeeper"),
            asyncio.create_task(self._stop.wait(), name="stop"),
        ]
        read_loop = asyncio.create_task(self._read_loop.run(), name="read loop")
        try:
            done, _ = await asyncio.wait({read_loop, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._finish(read_loop)
        finally:
            tasks = [*beside, read_loop, *self._batches.under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._registry.close()
            await self._database.close()
            await self._probes.stop()
            log.info("stopped")

    async def _finish(self, read_loop: asyncio.Task[None]) -> None:
        await asyncio.wait({read_loop}, timeout=self._tuning.finish_seconds)
        # Twice: a cancelled psycopg call waits for the server to agree, and a frozen server never does.
        for _ in range(2):
            if late := {task for task in (read_loop, *self._batches.under_way) if not task.done()}:
                log.warning("batches did not end in time: their messages are given back")
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=2.5)

    def _refresh_metrics(self) -> None:
        """Set the gauges that are read, not counted."""
        self.metrics.database_up.set(0 if self._control.why_not_ready() else 1)
        self.metrics.batch_size.set(self._rate_limiter.batch_size)
        self.metrics.share.set(self._rate_limiter.throttle.share)
        if (dependencies := self._registry.dependencies) is not None:
            for dependency in (dependencies.validation, dependencies.commitment, dependencies.voiding):
                self.metrics.show_breaker(dependency.step, dependency.circuit)
        for step, calls in self._registry.concurrency_limits.items():
            self.metrics.concurrency_limit.labels(step).set(calls)
