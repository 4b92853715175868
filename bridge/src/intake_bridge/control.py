"""The control loop: follows the configuration, sends the heartbeat, and knows whether DB1 answers."""

import asyncio
import logging

from intake_bridge.domain.config import Configuration
from intake_bridge.domain.health import attempts
from intake_bridge.ports import Control, DatabaseRefusedError, DatabaseUnavailableError
from intake_bridge.rate_limiter import RateLimiter
from intake_bridge.read_loop import ReadLoop
from intake_bridge.registry import DependencyRegistry
from intake_bridge.settings import MissingSettingError
from intake_bridge.tuning import Tuning

log = logging.getLogger(__name__)


class ControlLoop:
    """Runs beside the read loop, so that a slow batch delays neither the heartbeat nor a new configuration."""

    def __init__(
        self,
        database: Control,
        worker: str,
        read_loop: ReadLoop,
        rate_limiter: RateLimiter,
        registry: DependencyRegistry,
        tuning: Tuning,
    ) -> None:
        self._database = database
        self._worker = worker
        self._read_loop = read_loop
        self._rate_limiter = rate_limiter
        self._registry = registry
        self._tuning = tuning
        self._clock = asyncio.get_running_loop().time
        self._latest: Configuration | None = None
        self._reported_at = float("-inf")
        self._reported_generation: int | None = None
        self._answered_at: float | None = None
        self._error = "not connected yet"

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self._follow(await self._database.configuration())
                await self._report_if_due()
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if str(error) != self._error:
                    log.warning("DB1 cannot be used; tried again: %s", error)
                self._error = str(error)
            else:
                if self._error:
                    log.info("DB1 answers")
                self._error = ""
                self._answered_at = self._clock()
            await asyncio.sleep(self._tuning.configuration_seconds)

    def why_not_ready(self) -> str | None:
        """Why the worker is not ready; None if it is: DB1 has answered within the last `silence_seconds`."""
        answered = self._answered_at
        if answered is not None and self._clock() - answered <= self._tuning.silence_seconds:
            return None
        return f"DB1: {self._error or 'no answer'}"

    def _follow(self, configuration: Configuration) -> None:
        if configuration != self._latest:
            self._latest = configuration
            self._read_loop.follow(configuration)

    async def _report_if_due(self) -> None:
        acting = self._read_loop.acting
        if acting is None:
            return
        # A new generation is reported at once: an administrator who edits the batch size waits to see it act.
        changed = acting.generation != self._reported_generation
        if changed or self._clock() >= self._reported_at + self._tuning.heartbeat_seconds:
            self._reported_at, self._reported_generation = self._clock(), acting.generation
            health = self._registry.health().model_copy(
                update={"defects": attempts(self._read_loop.defects), "refusal": self._read_loop.refusal}
            )
            await self._database.report_worker(self._worker, acting, self._rate_limiter.batch_size, health)
