"""How the operator reads a user's URI, for ledger and inventory alike, and reaches a host behind frozen ones."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.inventory.table import Table
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import CHECK_TIMEOUT, LedgerChecks
from intake_operator.ledger.connection import ledger_key
from intake_operator.model.inventory import InventoryError
from intake_operator.model.observed import LedgerState
from intake_operator.model.proof import Account
from intake_operator.reasons import Problem
from intake_shared import uris
from intake_shared.redaction import one_line

from tests.frozen import frozen_hosts
from tests.postgres import PostgresServer, install_ledger
from tests.uris import READ, REFUSED, Case, places, quoted


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """It listens on IPv6 as well, at a port of its own."""
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as free:
        port = free.getsockname()[1]
    with PostgresServer({"listen_addresses": "::1", "port": str(port)}) as running:
        yield running


@pytest.fixture(scope="module")
def place(server: PostgresServer) -> str:
    """Where the ledger and the hall are, as a URI writes it."""
    uri = f"host={server.directory / 'socket'} port={server.settings['port']} user=postgres dbname=postgres"
    install_ledger(uri)
    with psycopg.connect(uri, autocommit=True) as owner:
        owner.execute("CREATE TABLE seats AS SELECT gen_random_uuid() AS resource_id, 'A-1' AS label")
    return f"[::1]:{server.settings['port']}"


@pytest.fixture
def frozen() -> Iterator[list[str]]:
    with frozen_hosts() as hosts:
        yield hosts


@pytest.mark.parametrize("case", READ, ids=lambda case: case.uri)
def test_a_uri_has_the_hosts_that_the_table_says(case: Case) -> None:
    assert places(uris.read(Address(case.uri, "tickets").qualified())) == case.operator


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.uri)
async def test_a_uri_that_libpq_would_misread_is_refused_and_not_quoted(case: Case) -> None:
    try:
        refusal = Address(case.uri, "tickets").qualified()
    except psycopg.ProgrammingError as error:
        refusal = one_line(error)
    assert case.refusal in refusal
    with pytest.raises(InventoryError) as table:
        await Table(Address(case.uri, "tickets"), "seats").count(1)
    seen = await LedgerChecks(lambda: 0.0).check("uid", Address(case.uri, "tickets"), "finalize_transaction")
    assert seen.problem is Problem.LEDGER_UNREACHABLE
    for told in (refusal, str(table.value), seen.message):
        assert case.refusal in told
        assert quoted(told) == []
    assert ledger_key(Address(case.uri, "tickets"), "f") is None


async def test_an_ipv6_address_is_reached_by_ledger_and_inventory(place: str) -> None:
    uri = f"postgresql://postgres@{place}/postgres"
    assert (
        await LedgerChecks(lambda: 0.0).check("uid", Address(uri, "tickets"), "finalize_transaction") == LedgerState()
    )
    assert await read_account(Address(uri, "tickets"), "drop") == Account(0, 0, 0, 0)
    assert await Table(Address(uri, "tickets"), "seats").count(5) == 1


async def test_behind_two_frozen_hosts_the_third_is_reached_within_a_check(place: str, frozen: list[str]) -> None:
    uri = f"postgresql://postgres@{','.join([*frozen, place])}/postgres?target_session_attrs=read-write"
    assert (
        await LedgerChecks(lambda: 0.0).check("uid", Address(uri, "tickets"), "finalize_transaction") == LedgerState()
    )
    assert CHECK_TIMEOUT == 10, "a pass waits for it"
    assert await Table(Address(uri, "tickets"), "seats").count(5) == 1


async def test_a_server_s_error_in_its_own_language_and_encoding_is_reported() -> None:
    """Before it knows the client's encoding, a server answers in its own: here French in LATIN1."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length, code = struct.unpack("!II", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            if code == 196608:
                break
            writer.write(b"N")  # neither TLS nor GSS
        told = "SFATAL\0C3D000\0Mla base de donn\u00e9es n'existe pas\0\0".encode("latin-1")
        writer.write(b"E" + struct.pack("!I", len(told) + 4) + told)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        seen = await LedgerChecks(lambda: 0.0).check(
            "uid", Address(f"postgresql://w@127.0.0.1:{port}/x", "tickets"), "f"
        )
    assert seen.problem is Problem.LEDGER_UNREACHABLE
    assert "la base de donn" in seen.message
    assert "existe pas" in seen.message


async def test_frozen_hosts_alone_are_named(frozen: list[str]) -> None:
    uri = f"postgresql://w:S3cret@{','.join(frozen)}/postgres"
    seen = await LedgerChecks(lambda: 0.0).check("uid", Address(uri, "tickets"), "finalize_transaction")
    assert seen.problem is Problem.LEDGER_UNREACHABLE
    assert "none of 2 addresses" in seen.message
    assert "::1" in seen.message
    assert "127.0.0.2" in seen.message
    assert "S3cret" not in seen.message
