"""What both databases need from psycopg."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_attempts_async

from intake_bridge.adapters.confirmed import ConfirmedConnection
from intake_bridge.adapters.uris import read

type UriSource = Callable[[], Awaitable[str]]

# Seconds without an acknowledged packet after which a connection is dead. A pulled cable otherwise takes TCP a quarter
# of an hour.
_SILENCE = 10
# Seconds in which every address of every host has been tried; no single one gets more than CONNECTION says.
_CONNECT_SECONDS: Final = 8.0

CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "client_encoding": "utf8",  # of a database without an encoding psycopg gives bytes otherwise
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": _SILENCE * 1000,
}

# For DB1, before which no pooler stands: what a server or a role may have set otherwise and what would be read, or
# written, in another way. A ledger's sessions are its owner's: docs/ledger.md.
PINNED: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex"
    " -c array_nulls=on -c transform_null_equals=off -c standard_conforming_strings=on"
    r" -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off"
)


def readable(source: UriSource) -> UriSource:
    """The source, with an error that does not quote what cannot be parsed: libpq's would, and it has a password."""

    async def uri() -> str:
        given = await source()
        read(given)
        return given

    return uri


async def connect(uri: str, seconds: float = _CONNECT_SECONDS, **more: Any) -> AsyncConnection[Any]:
    """Connect to the first address that lets us in. Raises psycopg.Error or OSError.

    Each gets its share of the time: of three hosts two may be frozen. psycopg itself gives each all of its time.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    failures: list[psycopg.Error] = []
    try:
        async with asyncio.timeout(seconds):
            attempts = await conninfo_attempts_async(read(uri))
    except TimeoutError:
        raise psycopg.OperationalError("the names of its hosts are not resolved in time") from None
    for left, attempt in zip(range(len(attempts), 0, -1), attempts, strict=True):
        try:
            async with asyncio.timeout((deadline - clock()) / left):
                return await ConfirmedConnection.connect(**(attempt | more))
        except TimeoutError:
            host, port = attempt.get("host") or attempt.get("hostaddr"), attempt.get("port") or 5432
            failures.append(psycopg.OperationalError(f"{host}, port {port}: no answer in time"))
        except psycopg.Error as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    told = "; ".join(str(each).strip().partition("\n")[0] for each in failures)
    raise psycopg.OperationalError(f"none of {len(failures)} addresses lets us in: {told}")
