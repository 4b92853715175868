"""What keeps a sale going without the operator: metrics rows, burnt numbers, the rebuild after a crash of DB1."""

import asyncio
import logging

from intake_bridge.adapters.database import Database, DatabaseSession
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError
from intake_bridge.settings import MissingSettingError

log = logging.getLogger(__name__)


class Housekeeper:
    """Runs in every worker, and works in the one whose connection has the advisory lock."""

    def __init__(self, database: Database, metrics: Metrics, every_seconds: float) -> None:
        self._database = database
        self._metrics = metrics
        self._every = every_seconds

    async def run(self) -> None:
        """Until cancelled. A lost connection is a lost lock, and another worker may have it by the next try."""
        logged = ""
        while True:
            try:
                async with self._database.session() as session:
                    await self._work(session)
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if logged != (logged := str(error)):  # once, not once a second for the length of an outage
                    log.warning("housekeeping interrupted; tried again: %s", error)
            finally:
                self._metrics.housekeeper.set(0)
            await asyncio.sleep(min(1.0, self._every))

    async def _work(self, session: DatabaseSession) -> None:
        while True:
            if await session.try_lock():
                break
            await asyncio.sleep(self._every)
        self._metrics.housekeeper.set(1)
        log.info("acquired the housekeeper lock")
        while True:
            # At once after each connect: after a crash no claim is possible until `housekeep` has rebuilt the pool.
            if numbers := await session.housekeep():
                log.info("recycled burnt slot numbers", extra={"numbers": numbers})
            await session.record_metrics()
            await asyncio.sleep(self._every)
