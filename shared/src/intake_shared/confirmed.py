"""A connection that does not take a commit for safe while the synchronous standby may not have it."""

import weakref
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.errors import Diagnostic

from intake_shared.measured import MeasuredRelay

# The function of the server that warns. Its name is the same in every language of the server's messages.
_WARNS: Final = "SyncRepWaitForLSN"


class ConfirmedConnection(AsyncConnection[Any]):
    """Raises psycopg.OperationalError where a commit's wait for the synchronous standby was cancelled.

    The server then answers as if all were well, and only warns (01000) that the standby may not have the commit.
    After a failover the commit would be gone, and what we did because of it would not. So the call fails like one whose
    answer was lost, and the connection is closed.

    The session must let warnings through: `connections.PINNED` does, because a role or database may not.
    """

    relay: MeasuredRelay | None = None
    """Between the connection and its server, where answers are bounded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unconfirmed = False
        self.add_notice_handler(self._observe)
        self._at_close: list[Callable[[], object]] = []

    def on_close(self, call: Callable[[], None]) -> None:
        """Have it called once the connection is closed, or was left to the garbage collector."""
        self._at_close.append(weakref.finalize(self, call))

    async def close(self) -> None:
        """Close the connection."""
        await super().close()
        for call in self._at_close:
            call()

    async def wait[T](self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Every exchange with the server goes through here, so no caller can forget the check."""
        try:
            result = await super().wait(gen, *args, **kwargs)
        except psycopg.OperationalError as error:
            if self.relay is not None and (known := self.relay.failure):
                raise known from error
            raise
        if self._unconfirmed:
            await self.close()
            raise psycopg.OperationalError(
                "the wait for the synchronous standby was cancelled: the standby may not have the commit"
            )
        return result

    def _observe(self, notice: Diagnostic) -> None:
        if notice.sqlstate == "01000" and notice.source_function == _WARNS:
            self._unconfirmed = True
