"""Applications for the tests. __main__.py has started Argo CD, and Argo CD has installed the operator."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.argocd.applications import Application
from tests.argocd.repository import Repository
from tests.e2e.conftest import kube, namespace, pytest_runtest_makereport, shared_kube, shared_namespace
from tests.e2e.kube import Kube

__all__ = ["kube", "namespace", "pytest_runtest_makereport", "shared_kube", "shared_namespace"]


@pytest.fixture(scope="session")
def state() -> Path:
    """The folder of this run."""
    assert "INTAKE_ARGOCD_STATE" in os.environ, "Argo CD does not run: run the tests with `make e2e-argocd`"
    return Path(os.environ["INTAKE_ARGOCD_STATE"])


@pytest.fixture(scope="session")
def cluster(state: Path) -> Kube:
    """The cluster, beside which Argo CD runs."""
    return Kube.connect()


@pytest.fixture
def application(namespace: Kube, state: Path) -> Iterator[Application]:
    """An Application for one test, and its repository. The test creates it when something is in there."""
    with _application(namespace, state) as made:
        yield made


@pytest.fixture(scope="module")
def shared_application(shared_namespace: Kube, state: Path) -> Iterator[Application]:
    """The same for the tests of a module."""
    with _application(shared_namespace, state) as made:
        yield made


@contextmanager
def _application(kube: Kube, state: Path) -> Iterator[Application]:
    made = Application(kube, kube.namespace, Repository(state / "repositories" / kube.namespace))
    with ExitStack() as at_the_end:
        # Argo CD would make again what the tests then take away.
        at_the_end.callback(made.forget)
        yield made
