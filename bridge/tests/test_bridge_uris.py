"""How the bridge reads a connection URI, and how it gets to a host behind frozen ones."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import quote

import psycopg
import pytest
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.adapters.postgres import connect
from intake_bridge.adapters.uris import read
from intake_bridge.ports import DependencyDownError
from intake_bridge.redaction import one_line
from sale import Sale

from tests.postgres import PostgresServer
from tests.uris import READ, REFUSED, SECRET, Case, places


@pytest.mark.parametrize("case", READ, ids=lambda case: case.uri)
def test_a_uri_leads_where_the_table_says(case: Case) -> None:
    assert places(read(case.uri)) == case.bridge


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.uri)
def test_what_would_be_misread_is_refused_without_a_word_of_it(case: Case) -> None:
    with pytest.raises(psycopg.ProgrammingError) as caught:
        read(case.uri)
    told = one_line(caught.value)
    assert case.refusal in told
    assert [word for word in SECRET if word in told] == []
    assert caught.value.__cause__ is None, "nor does a traceback have it"


@pytest.fixture
def frozen() -> Iterator[list[str]]:
    """Two hosts that let in and never answer, as a stopped process does; one of them speaks IPv6."""
    with ExitStack() as stack:
        hosts = []
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2")):
            listener = stack.enter_context(closing(socket.create_server((address, 0), family=family)))
            port = listener.getsockname()[1]
            hosts.append(f"[{address}]:{port}" if family is socket.AF_INET6 else f"{address}:{port}")
        yield hosts


def behind(frozen: list[str], sale: Sale, attributes: str = "") -> str:
    """Frozen hosts first, and the ledger last."""
    _, _, rest = sale.ledger_uri.partition("@/")
    database, _, directory = rest.partition("?host=")
    hosts = ",".join([*frozen, directory])
    assert quote("/", safe="") in directory
    return f"postgresql://ledger_writer@{hosts}/{database}{attributes}"


@pytest.mark.parametrize("attributes", ["", "?target_session_attrs=read-write", "?load_balance_hosts=random"])
async def test_behind_two_frozen_hosts_the_third_is_reached(frozen: list[str], sale: Sale, attributes: str) -> None:
    began = time.monotonic()
    async with await connect(behind(frozen, sale, attributes), seconds=1.5) as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    assert time.monotonic() - began < 10


async def test_a_ledger_behind_frozen_hosts_is_found(frozen: list[str], sale: Sale) -> None:
    async def source() -> str:
        return behind(frozen, sale)

    ledger = PostgresLedger("finalize_transaction", source, "test")
    async with asyncio.timeout(20):
        await ledger.check()
    assert len(ledger.offers) == 3
    await ledger.close()


async def test_frozen_hosts_alone_are_named_and_given_up_in_time(frozen: list[str]) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(f"postgresql://w:S3cret@{','.join(frozen)}/ledger", seconds=0.4)
    told = str(caught.value)
    assert "none of 2 addresses" in told
    assert "::1" in told
    assert "127.0.0.2" in told
    assert "S3cret" not in told


async def test_a_frozen_host_in_one_name_of_two_addresses_is_passed(
    frozen: list[str], monkeypatch: pytest.MonkeyPatch, server: PostgresServer
) -> None:
    """A Service without an address of its own is a name of several."""
    port = int(frozen[0].rpartition(":")[2])
    loop = asyncio.get_running_loop()

    async def resolved(host: str, *_: object, **__: object) -> list[object]:
        return [(0, 0, 0, "", (address, port)) for address in ("::1", "127.0.0.9")]

    monkeypatch.setattr(loop, "getaddrinfo", resolved)
    with pytest.raises(psycopg.OperationalError, match=r"no answer in time; .*127.0.0.9.*refused"):
        await connect(f"postgresql://w@core:{port}/ledger", seconds=0.4)


async def test_a_name_server_that_is_frozen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(psycopg.OperationalError, match="not resolved in time"):
        await connect("postgresql://w@core/ledger", seconds=0.1)


async def test_a_name_that_is_none_is_told(sale: Sale) -> None:
    async def source() -> str:
        return "postgresql://w:S3cret@no-such-host.invalid/ledger"

    with pytest.raises(DependencyDownError, match="no-such-host"):
        await PostgresLedger("finalize_transaction", source, "test").check()
