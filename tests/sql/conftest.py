"""A server for the session, a database with our SQL for each test (a copy of a template: 50 ms)."""

from collections.abc import Iterator
from itertools import count

import pytest
from tests.postgres import PostgresServer, install_intake, install_ledger
from tests.sql.intake import Intake
from tests.sql.mutants import active_patch

_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> str:
    """A database with sql/intake, or with the mutant of it that this run is about."""
    install_intake(server.create_database("intake_template"), active_patch())
    return "intake_template"


@pytest.fixture
def database(server: PostgresServer, template: str) -> Iterator[str]:
    """The name of a fresh DB1."""
    name = f"intake_{next(_numbers)}"
    server.create_database(name, template)
    yield name
    server.drop_database(name)


@pytest.fixture
def uri(server: PostgresServer, database: str) -> str:
    """A fresh DB1, as the superuser."""
    return server.uri(database)


@pytest.fixture
def intake(uri: str) -> Iterator[Intake]:
    """A fresh DB1 with nothing configured."""
    with Intake(uri) as client:
        yield client


@pytest.fixture(scope="session")
def ledger_template(server: PostgresServer) -> str:
    install_ledger(server.create_database("ledger_template"))
    return "ledger_template"


@pytest.fixture
def ledger_uri(server: PostgresServer, ledger_template: str) -> Iterator[str]:
    """A fresh ledger, as its writer."""
    name = f"ledger_{next(_numbers)}"
    server.create_database(name, ledger_template)
    yield server.uri(name, "ledger_writer")
    server.drop_database(name)
