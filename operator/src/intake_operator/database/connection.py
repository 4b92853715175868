"""Connections to DB1 with the rights of one of its roles, and what it means when DB1 refuses one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from intake_shared.confirmed import ConfirmedConnection
from intake_shared.connections import PINNED, SETTINGS
from psycopg import AsyncConnection

from intake_operator import names

STATEMENT_TIMEOUT: Final = "20s"

# As the server words SQLSTATE 53300; of a connection that was refused, libpq keeps only the words.
_NO_CONNECTION_LEFT: Final = ("too many clients already", "connection slots are reserved", "too many connections for")


async def to_database(host: str, password: str, statement_timeout: str, role: str = names.SUPERUSER) -> AsyncConnection:
    """Connect to DB1 as one of its roles. Raises psycopg.Error or OSError.

    Errors are not written to DB1's log, because they may quote values: the operator reports them itself.
    """
    return await ConfirmedConnection.connect(
        host=host,
        dbname=names.DATABASE_NAME,
        user=names.SUPERUSER,
        password=password,
        application_name=names.FIELD_MANAGER,
        options=f"{PINNED} -c role={role} -c statement_timeout={statement_timeout} -c log_min_messages=log",
        autocommit=True,
        **SETTINGS,
    )


@asynccontextmanager
async def connect(
    host: str, password: str, role: str, statement_timeout: str = STATEMENT_TIMEOUT
) -> AsyncIterator[AsyncConnection]:
    """A connection of its own, for some calls. The one that Databases keeps may be busy with seeding for minutes.

    Raises psycopg.Error or OSError when DB1 cannot be reached.
    """
    async with await to_database(host, password, statement_timeout, role) as connection:
        yield connection


def no_connection_left(error: BaseException) -> bool:
    """Whether a server refused us because it has no connection left for us."""
    return any(words in str(error) for words in _NO_CONNECTION_LEFT)
