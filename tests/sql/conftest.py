"""A server and a DB1 for the session; each test finds it as migrated, every table empty."""

from collections.abc import Iterator

import psycopg
import pytest

from tests import profiles  # noqa: F401 - registers them
from tests.postgres import PostgresServer, install_intake, install_ledger
from tests.sql.intake import Intake, empty
from tests.sql.ledger import Ledger
from tests.sql.mutants.catalogue import MUTANTS
from tests.sql.mutants.ledger import LEDGER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each mutant that it must catch, as an expected failure: of an assertion, and of nothing else."""
    must_catch = [name for name, mutant in MUTANTS.items() if mutant.caught_by == metafunc.function.__name__]
    if must_catch:
        fails = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
        variants = [pytest.param(None, id="as written")]
        variants += [pytest.param(name, id=name, marks=[pytest.mark.mutant(name), fails]) for name in must_catch]
        of_the_ledger = {MUTANTS[name].file == LEDGER for name in must_catch}
        (fixture,) = {"ledger_migrated" if ledger else "migrated" for ledger in of_the_ledger}
        metafunc.parametrize(fixture, variants, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    # Hundreds of buyers, each with a connection of their own.
    with PostgresServer({"max_connections": "400"}) as running:
        yield running


@pytest.fixture(scope="session")
def migrated(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database with sql/intake, or with the mutant of it that this test must catch."""
    mutant: str | None = getattr(request, "param", None)
    name = "mutant" if mutant else "intake"
    install_intake(server.create_database(name), MUTANTS[mutant].patch if mutant else None)
    yield name
    server.drop_database(name)


@pytest.fixture
def uri(server: PostgresServer, migrated: str) -> str:
    """DB1 as migrated, for the superuser."""
    uri = server.uri(migrated)
    empty(uri)
    return uri


@pytest.fixture
def intake(uri: str) -> Iterator[Intake]:
    """A DB1 with nothing configured."""
    with Intake(uri) as client:
        yield client


@pytest.fixture(scope="session")
def ledger_migrated(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database with sql/ledger, or with the mutant of it that this test must catch."""
    mutant: str | None = getattr(request, "param", None)
    name = "mutant_ledger" if mutant else "ledger"
    install_ledger(server.create_database(name), MUTANTS[mutant].patch if mutant else None)
    yield name
    server.drop_database(name)


@pytest.fixture
def ledger_uri(server: PostgresServer, ledger_migrated: str) -> str:
    """An empty ledger, for its writer."""
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as owner:
        owner.execute("TRUNCATE ledger.claims, ledger.sold_slots")
    return server.uri(ledger_migrated, "ledger_writer")


@pytest.fixture
def ledger(ledger_uri: str) -> Iterator[Ledger]:
    """An empty ledger, as a bridge calls it."""
    with Ledger(ledger_uri) as client:
        yield client


@pytest.fixture
def ledger_owner(server: PostgresServer, ledger_migrated: str) -> Iterator[psycopg.Connection]:
    """The owner of the ledger."""
    with psycopg.connect(server.uri(ledger_migrated), autocommit=True) as connection:
        yield connection
