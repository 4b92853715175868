"""A namespace for each test or module, and its state in a file when a test fails. __main__.py installs the operator."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import namespaces, release, services
from tests.e2e.kube import Kube, await_rollout

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Record a failure on the test and on its module, because either of them may own the namespace."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for node in (item, item.getparent(pytest.Module)):
            if node is not None:
                node.stash[FAILED] = True
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def cluster() -> Kube:
    """The cluster, with the operator in it."""
    kube = Kube.connect()
    assert release.is_installed(kube), "the operator is not installed: run the tests with `make e2e`"
    return kube


@pytest.fixture
def namespace(cluster: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """An empty namespace for one test."""
    yield from _namespace(cluster, request.node)


@pytest.fixture(scope="module")
def shared_namespace(cluster: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """An empty namespace that the tests of a module share; each uses its own events."""
    yield from _namespace(cluster, request.node)


@pytest.fixture
def kube(namespace: Kube) -> Kube:
    """A namespace for one test, with a ledger and a validator in it."""
    return _with_services(namespace)


@pytest.fixture(scope="module")
def shared_kube(shared_namespace: Kube) -> Kube:
    """A namespace that the tests of a module share, with a ledger and a validator in it."""
    return _with_services(shared_namespace)


def _with_services(kube: Kube) -> Kube:
    services.start_ledger(kube)
    services.start_validator(kube)
    await_rollout(kube, "statefulset/core-ledger", "deployment/validator")
    return kube


def _namespace(cluster: Kube, node: pytest.Item | pytest.Module) -> Iterator[Kube]:
    name = re.sub(r"[^a-z0-9]+", "-", Path(node.name).stem.lower()).removeprefix("test-")
    kube = cluster.create_namespace(f"e2e-{name[:40].strip('-')}-{secrets.token_hex(2)}")
    yield kube
    if node.stash.get(FAILED, False):
        artefacts = Path(os.environ.get("INTAKE_ARTEFACTS") or Path(tempfile.gettempdir()) / "intake-e2e")
        artefacts.mkdir(parents=True, exist_ok=True)
        file = artefacts / f"{kube.namespace}.txt"
        file.write_text(namespaces.dump(kube))
        print(f"\nartefacts: {file}")
    namespaces.abandon_events_and_delete(kube)
