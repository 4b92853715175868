"""Connections to DB1 with the rights of one of its roles."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from psycopg import AsyncConnection

from intake_operator.postgres.connection import to_database

STATEMENT_TIMEOUT: Final = "20s"


@asynccontextmanager
async def connect(
    host: str, password: str, role: str, statement_timeout: str = STATEMENT_TIMEOUT
) -> AsyncIterator[AsyncConnection]:
    """A connection of its own. The one that Databases keeps may be busy with seeding for minutes.

    Raises psycopg.Error or OSError when DB1 cannot be reached.
    """
    async with await to_database(host, password, statement_timeout, role) as connection:
        yield connection
