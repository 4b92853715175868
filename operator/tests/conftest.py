"""Fixtures: makers of what is in `given`, a clock, a PostgreSQL."""

from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from given import (
    CLOSES,
    INSTALLATION,
    OPENS,
    Clock,
    make_event,
    make_letter,
    make_observed,
    make_pod,
    make_spec,
    make_status,
)
from intake_operator.children.installation import Installation
from intake_operator.model.dead_letters import DeadLetter
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.model.spec import IntakeEventSpec

from tests import profiles  # noqa: F401 - registers them
from tests.postgres import PostgresServer

type Make[T] = Callable[..., T]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL as it comes. Modules that need another one have a fixture of this name."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
def db1(server: PostgresServer) -> Iterator[str]:
    """An empty database, under the name that the operator uses."""
    yield server.create_database("intake")
    server.drop_database("intake")


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock()


@pytest.fixture
def event() -> Make[Event]:
    """Make an event."""
    return make_event


@pytest.fixture
def spec() -> Make[IntakeEventSpec]:
    """Make a specification."""
    return make_spec


@pytest.fixture
def observed() -> Make[Observed]:
    """Make an observation."""
    return make_observed


@pytest.fixture
def engine_status() -> Make[EngineStatus]:
    """Make what DB1 says of itself."""
    return make_status


@pytest.fixture
def pod() -> Make[Manifest]:
    """Make a pod."""
    return make_pod


@pytest.fixture
def opens() -> datetime:
    """When the window opens."""
    return OPENS


@pytest.fixture
def closes() -> datetime:
    """When the window closes."""
    return CLOSES


@pytest.fixture
def installation() -> Installation:
    """What the operator's own installation decides."""
    return INSTALLATION


@pytest.fixture
def letter() -> DeadLetter:
    """A claim that gave up after it was validated."""
    return make_letter()
