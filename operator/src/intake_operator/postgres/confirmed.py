"""A connection that takes a commit which nobody waited for as what it is: no answer."""

from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.errors import Diagnostic

# Where the server says it, whatever language its messages are in.
_SAID_BY: Final = "SyncRepWaitForLSN"
# A role or database may have less sent to its clients.
WARNINGS: Final = "-c client_min_messages=warning"


class ConfirmedConnection(AsyncConnection[Any]):
    """With a synchronous standby, somebody may cancel the wait for it: the server then answers as if all were well.

    It warns (01000) that the standby may not have what was committed. After a failover that would be gone, and what we
    did because of it would not. So the call fails as one whose answer was lost, and the connection ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unconfirmed = False
        self.add_notice_handler(self._notice)

    async def wait[T](self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Every exchange with the server goes through here, so none can be forgotten."""
        result = await super().wait(gen, *args, **kwargs)
        if self._unconfirmed:
            await self.close()
            raise psycopg.OperationalError(
                "the wait for the synchronous standby was cancelled: committed here, perhaps nowhere else"
            )
        return result

    def _notice(self, said: Diagnostic) -> None:
        if said.sqlstate == "01000" and said.source_function == _SAID_BY:
            self._unconfirmed = True
