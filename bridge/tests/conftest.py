"""Real databases and a real HTTP server for the bridge's tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sale import Sale, Templates
from webhook_server import WebhookServer

from tests import profiles  # noqa: F401 - registers them
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """One server for the session; each test has databases of its own in it."""
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="session")
def templates(server: PostgresServer) -> Templates:
    """Migrated databases to copy from."""
    return Templates(server)


@pytest.fixture
def fragile() -> Iterator[PostgresServer]:
    """A server that the test may stop and kill."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
async def sale(templates: Templates) -> AsyncIterator[Sale]:
    """A seeded, open pool in DB1 and the reference ledger."""
    async with templates.sale() as ready:
        yield ready


@pytest.fixture
async def webhook() -> AsyncIterator[WebhookServer]:
    """A validation or commit webhook that approves or commits unless the test sets another behaviour."""
    async with WebhookServer() as running:
        yield running
