"""Rows of any size never reach the operator: measured by the memory of a process that reads them from a PostgreSQL."""

import asyncio
import sys
from collections.abc import Iterator

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_shared.measured import AnswerTooLongError
from psycopg import sql

from tests.frozen import Relay
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer

# One value of 200 MB made the operator grow by 600 MiB; of this size it is done sooner.
LONG = 64_000_000
# Of the reading process. What is read at most is 4 MiB, and libpq and Python each copy it.
MOST_MIB = 32

READ = """
import asyncio, gc, sys
from intake_operator.addresses import Address
from intake_operator.inventory.table import Table
from intake_operator.model.inventory import InventoryError

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024

async def read():
    table = Table(Address(sys.argv[1], "tickets"), sys.argv[2])
    assert await table.count(10) > 0
    async for _ in table.chunks(10):
        pass

before = peak()
try:
    asyncio.run(read())
    print("nothing is wrong")
except InventoryError as error:
    print(error)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def hall(server: PostgresServer) -> Iterator[str]:
    uri = server.create_database("long_hall")
    yield uri
    server.drop_database("long_hall")


FIRST = "SELECT '00000000-0000-0000-0000-000000000001'::uuid AS resource_id, 'A-1' AS label"


@pytest.mark.parametrize(
    ("view", "told"),
    [
        (f"SELECT gen_random_uuid() AS resource_id, repeat('A', {LONG}) AS label", "row 1: a label has at most 200"),
        (f"SELECT gen_random_uuid() AS resource_id, repeat('A', {LONG})::bytea AS label", "row 1: a label has at most"),
        (
            f"{FIRST}, 'x' AS notes UNION ALL SELECT gen_random_uuid(), 'B', repeat('x', {LONG})",
            "row 2: the columns beside resource_id and label have more than 1024 bytes",
        ),
        (
            f"{FIRST}, '{{}}'::jsonb AS notes UNION ALL SELECT gen_random_uuid(), 'B',"
            f" jsonb_build_object('a', repeat('x', {LONG}))",
            "row 2: the columns beside resource_id and label have more than 1024 bytes",
        ),
        (
            f"SELECT repeat('A', {LONG}) AS resource_id, repeat('B', {LONG}) AS label",
            f"row 1, with the label '{'B' * 60}…': '{'A' * 60}…' is not a UUID in the column resource_id",
        ),
        (
            f"SELECT gen_random_uuid() AS resource_id, repeat('A', {LONG} + n)::int::text AS label"
            " FROM generate_series(1, 2) AS n",
            "row 1, or one that is read with it: the server's answer has more than 4194304 bytes",
        ),
    ],
    ids=["label", "bytes", "attribute", "json", "id", "an error that quotes"],
)
async def test_a_long_row_is_named_and_never_fetched(server: PostgresServer, hall: str, view: str, told: str) -> None:
    with psycopg.connect(hall, autocommit=True) as owner:
        owner.execute("DROP VIEW IF EXISTS seats")
        owner.execute(sql.SQL("CREATE VIEW seats AS {}").format(sql.SQL(view)))  # type: ignore[arg-type]
    async with Relay(server.directory / "socket") as relay:
        uri = f"postgresql://postgres@127.0.0.1:{relay.port}/long_hall?sslmode=disable&gssencmode=disable"
        reading = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READ, uri, "seats", stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            printed, _ = await reading.communicate()
    message, grown = printed.decode().strip().rsplit("\n", 1)
    assert told in message
    assert len(message) < 1000
    assert int(grown) < MOST_MIB


async def test_an_answer_that_is_too_long_is_broken_off_and_told(server: PostgresServer, hall: str) -> None:
    """Whatever the query is: no query bounds an error, and what answers may be no PostgreSQL."""
    async with Relay(server.directory / "socket") as relay:
        uri = f"postgresql://postgres@127.0.0.1:{relay.port}/long_hall?sslmode=disable&gssencmode=disable"
        connection = await Address(uri, "tickets").connect(autocommit=True)
        found = await connection.execute("SELECT repeat('x', 1000000)")
        assert await found.fetchone()
        found = await connection.execute("SELECT repeat('x', 1000000)")
        assert await found.fetchone(), "each answer has the bound for itself"
        told = "it was read"
        try:
            await connection.execute("SELECT repeat('x', 1100000)")
        except AnswerTooLongError as error:
            told = str(error)
        assert told == "the server's answer has more than 1048576 bytes, the most that is read"
        assert connection.closed


async def test_what_libpq_says_of_a_connection_names_the_address_of_the_user(hall: str, server: PostgresServer) -> None:
    """And not that of the relay between them."""
    async with Relay(server.directory / "socket") as relay:
        at = f"127.0.0.1:{relay.port}"
        with pytest.raises(psycopg.Error, match=rf"port {relay.port} failed: FATAL.*nobody"):
            await Address(f"postgresql://nobody@{at}/long_hall?sslmode=disable&gssencmode=disable", "tickets").connect()
    with pytest.raises(psycopg.Error, match=rf"127.0.0.1, port {relay.port}: Connect call failed"):
        await Address(f"postgresql://nobody@{at}/long_hall", "tickets").connect()
