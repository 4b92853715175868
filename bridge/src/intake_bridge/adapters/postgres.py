"""What both databases need from psycopg."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

type UriSource = Callable[[], Awaitable[str]]

_UNREADABLE: Final = (
    "the URI cannot be parsed; write postgresql://user:password@host/db, with %40 for an @ in the password"
)

# Seconds without an acknowledged packet after which a connection is dead. A pulled cable otherwise takes TCP a quarter
# of an hour.
_SILENCE = 10

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


def readable(source: UriSource) -> UriSource:
    """The source, with an error that does not quote what cannot be parsed: libpq's would, and it has a password.

    A host with an @ is the rest of a password that has one.
    """

    async def uri() -> str:
        given = await source()
        try:
            hosts = str(conninfo_to_dict(given).get("host") or "").split(",")
        except psycopg.Error:
            hosts = None
        # At its beginning it names a socket without a file.
        if hosts is None or any("@" in host[1:] for host in hosts):
            raise psycopg.ProgrammingError(_UNREADABLE)
        return given

    return uri
