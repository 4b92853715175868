"""How the operator connects to PostgreSQL, DB1 or anybody's, and how soon it notices that nobody is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_attempts_async

from intake_operator import names
from intake_operator.postgres import uris
from intake_operator.postgres.confirmed import WARNINGS, ConfirmedConnection

# Seconds. A pass over one event must not hang on a server that is going away.
CONNECT_TIMEOUT: Final = 5
# Seconds in which every address of every host has been tried: a look at a ledger (LOOK_TIMEOUT) wants an answer, too.
REACH_TIMEOUT: Final = 8.0
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

# For DB1, before which no pooler of ours stands: what a server or a role may have set otherwise, and what would be
# read, or written, in another way.
PINNED: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex"
    " -c array_nulls=on -c transform_null_equals=off -c standard_conforming_strings=on"
    r" -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off"
)


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Calls that together may take so long. Raises TimeoutError, which is an OSError."""
    # Twice: a cancelled psycopg call waits for the server to agree, and a frozen server never does.
    async with asyncio.timeout(seconds + 1), asyncio.timeout(seconds):
        yield


async def to_database(host: str, password: str, statement_timeout: str, role: str = names.SUPERUSER) -> AsyncConnection:
    """DB1 with the rights of one of its roles. Raises psycopg.Error or OSError when it cannot be reached.

    What goes wrong is ours to tell: DB1's log, which an error may quote a value to, does not get it.
    """
    return await ConfirmedConnection.connect(
        host=host,
        dbname=names.DATABASE_NAME,
        user=names.SUPERUSER,
        password=password,
        options=f"{PINNED} {WARNINGS} -c role={role} -c statement_timeout={statement_timeout} -c log_min_messages=log",
        autocommit=True,
        **CONNECTION,
    )


async def reach(uri: str, seconds: float = REACH_TIMEOUT, **more: Any) -> AsyncConnection:
    """The first address of a user's URI that lets us in. Raises psycopg.Error or OSError.

    Each gets its share of the time: of three hosts two may be frozen. psycopg itself gives each all of its time.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    failures: list[psycopg.Error] = []
    try:
        async with asyncio.timeout(seconds):
            attempts = await conninfo_attempts_async(uris.read(uri))
    except TimeoutError:
        raise psycopg.OperationalError("the names of its hosts are not resolved in time") from None
    for left, attempt in zip(range(len(attempts), 0, -1), attempts, strict=True):
        try:
            async with asyncio.timeout((deadline - clock()) / left):
                return await ConfirmedConnection.connect(**(attempt | CONNECTION | more))
        except TimeoutError:
            host, port = attempt.get("host") or attempt.get("hostaddr"), attempt.get("port") or 5432
            failures.append(psycopg.OperationalError(f"{host}, port {port}: no answer in time"))
        except psycopg.Error as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    told = "; ".join(str(each).strip().partition("\n")[0] for each in failures)
    raise psycopg.OperationalError(f"none of {len(failures)} addresses lets us in: {told}")
