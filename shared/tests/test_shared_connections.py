"""How a connection gets past hosts that are frozen, and which settings it brings."""

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from intake_shared.connections import bounded, connect

from tests.frozen import frozen_hosts
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def frozen() -> Iterator[list[str]]:
    with frozen_hosts() as hosts:
        yield hosts


@pytest.mark.parametrize("attributes", ["", "?target_session_attrs=read-write", "?load_balance_hosts=random"])
async def test_behind_two_frozen_hosts_the_third_is_reached(
    frozen: list[str], server: PostgresServer, attributes: str
) -> None:
    hosts = ",".join([*frozen, quote(str(server.directory / "socket"), safe="")])
    began = time.monotonic()
    async with await connect(f"postgresql://postgres@{hosts}/postgres{attributes}", seconds=1.5) as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    assert time.monotonic() - began < 10


async def test_frozen_hosts_alone_are_named_and_given_up_in_time(frozen: list[str]) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(f"postgresql://w:S3cret@{','.join(frozen)}/ledger", seconds=0.4)
    message = str(caught.value)
    assert "none of 2 addresses" in message
    assert "::1" in message
    assert "127.0.0.2" in message
    assert "S3cret" not in message


async def test_a_frozen_host_in_one_name_of_two_addresses_is_passed(
    frozen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a headless Service has several addresses."""
    port = int(frozen[0].rpartition(":")[2])

    async def resolved(host: str, *_: object, **__: object) -> list[object]:
        return [(0, 0, 0, "", (address, port)) for address in ("::1", "127.0.0.9")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    with pytest.raises(psycopg.OperationalError, match=r"no answer in time; .*127.0.0.9.*refused"):
        await connect(f"postgresql://w@core:{port}/ledger", seconds=0.4)


async def test_a_frozen_name_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(psycopg.OperationalError, match="not resolved in time"):
        await connect("postgresql://w@core/ledger", seconds=0.1)


@pytest.mark.parametrize("host", ["core..tickets", ".core", f"{'c' * 64}.tickets.svc", "core,ledger..tickets"])
async def test_a_host_that_can_be_no_name_is_an_error_of_the_uri(host: str) -> None:
    """Whoever connects expects psycopg.Error and OSError: anything else would end its pass, or its loop."""
    with pytest.raises(psycopg.OperationalError, match="can be no name") as caught:
        await connect(f"postgresql://w:S3cret@{host}/ledger")
    assert "S3cret" not in str(caught.value)


async def test_a_uri_changes_none_of_our_settings(server: PostgresServer) -> None:
    """A server that is gone is noticed in time, whatever the URI says."""
    async with await connect(f"{server.uri()}&keepalives=0&client_encoding=latin1", application_name="ours") as ours:
        parameters = ours.info.get_parameters()
        assert (parameters["keepalives"], parameters["client_encoding"]) == ("1", "utf8")
        assert parameters["application_name"] == "ours"


async def test_a_call_that_does_not_end_when_cancelled_is_ended() -> None:
    """As psycopg's does not while the server is frozen."""

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with bounded(0.05):
            await stubborn()
