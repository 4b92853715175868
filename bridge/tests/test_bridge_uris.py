"""How the bridge gets to a ledger behind frozen hosts, and what it says of one that has no address."""

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.ports import DependencyDownError
from sale import Sale

from tests.frozen import frozen_hosts


@pytest.fixture
def frozen() -> Iterator[list[str]]:
    with frozen_hosts() as hosts:
        yield hosts


def behind(frozen: list[str], sale: Sale) -> str:
    """Frozen hosts first, and the ledger last."""
    _, _, rest = sale.ledger_uri.partition("@/")
    database, _, directory = rest.partition("?host=")
    hosts = ",".join([*frozen, directory])
    assert quote("/", safe="") in directory
    return f"postgresql://ledger_writer@{hosts}/{database}"


async def test_a_ledger_behind_frozen_hosts_is_found(frozen: list[str], sale: Sale) -> None:
    async def source() -> str:
        return behind(frozen, sale)

    ledger = PostgresLedger("finalize_transaction", source, "test")
    async with asyncio.timeout(20):
        await ledger.check()
    assert len(ledger.offers) == 4
    await ledger.close()


async def test_a_name_that_is_none_is_told(sale: Sale) -> None:
    async def source() -> str:
        return "postgresql://w:S3cret@no-such-host.invalid/ledger"

    with pytest.raises(DependencyDownError, match="no-such-host"):
        await PostgresLedger("finalize_transaction", source, "test").check()
