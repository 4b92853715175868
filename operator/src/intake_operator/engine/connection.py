"""How the operator connects to PostgreSQL, DB1 or anybody's, and how soon it notices that nobody is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from psycopg import AsyncConnection

from intake_operator import names

# Seconds. A pass over one event must not hang on a server that is going away.
CONNECT_TIMEOUT: Final = 5
# Seconds without an acknowledged packet after which a connection is dead. A node that is gone otherwise takes TCP a
# quarter of an hour, in which its event is not looked at.
SILENCE: Final = 10

CONNECTION: Final[dict[str, Any]] = {
    "application_name": names.FIELD_MANAGER,
    "client_encoding": "utf8",  # of a database without an encoding psycopg gives bytes otherwise
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENCE * 1000,
}


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Calls that together may take so long. Raises TimeoutError, which is an OSError."""
    # Twice: a cancelled psycopg call waits for the server to agree, and a frozen server never does.
    async with asyncio.timeout(seconds + 1), asyncio.timeout(seconds):
        yield


async def to_engine(host: str, password: str, statement_timeout: str, role: str = names.SUPERUSER) -> AsyncConnection:
    """DB1 with the rights of one of its roles. Raises psycopg.Error or OSError when it cannot be reached.

    What goes wrong is ours to tell: DB1's log, which an error may quote a value to, does not get it.
    """
    return await AsyncConnection.connect(
        host=host,
        dbname=names.DATABASE_NAME,
        user=names.SUPERUSER,
        password=password,
        options=f"-c role={role} -c statement_timeout={statement_timeout} -c log_min_messages=log",
        autocommit=True,
        **CONNECTION,
    )
