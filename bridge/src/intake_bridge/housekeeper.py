"""What keeps a sale going without the operator: metrics rows, free list, the rebuild after a crash of DB1."""

import asyncio
import logging

from intake_bridge.adapters.database import Database, DatabaseSession
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError
from intake_bridge.settings import MissingSettingError

log = logging.getLogger(__name__)


class Housekeeper:
    """Runs in every worker; works in the one whose connection holds the advisory lock."""

    def __init__(self, database: Database, metrics: Metrics, every_seconds: float) -> None:
        self._database = database
        self._metrics = metrics
        self._every = every_seconds

    async def run(self) -> None:
        """For ever; a lost connection is a lost lock, and somebody else may have it by the next try."""
        said = ""
        while True:
            try:
                async with self._database.session() as session:
                    await self._keep(session)
            except (DatabaseUnavailableError, DatabaseRefusedError, MissingSettingError) as error:
                if said != (said := str(error)):  # once, not once a second for the length of an outage
                    log.warning("housekeeping interrupted: %s", error)
            finally:
                self._metrics.housekeeper.set(0)
            await asyncio.sleep(min(1.0, self._every))

    async def _keep(self, session: DatabaseSession) -> None:
        while True:
            if await session.try_lock():
                break
            await asyncio.sleep(self._every)
        self._metrics.housekeeper.set(1)
        log.info("keeping house")
        while True:
            # At once after each connect: after a crash fans wait until `housekeep` has rebuilt the holds.
            if numbers := await session.housekeep():
                log.info("numbers came back", extra={"numbers": numbers})
            await session.record_metrics()
            await asyncio.sleep(self._every)
