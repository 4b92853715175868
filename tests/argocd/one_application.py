"""Operator, ledger and event in one Application: Argo CD installs the operator that all tests of this run use."""

from pathlib import Path
from typing import Final

from tests.argocd import sales
from tests.argocd.applications import Application
from tests.argocd.repository import Repository
from tests.e2e import release
from tests.e2e.kube import REPOSITORY, Kube

NAME: Final = "intake-engine"
NAMESPACE: Final = "argocd-one-application"
# Images are there, but a first operator may have to wait for a busy machine.
INSTALL_SECONDS: Final = 180.0


def application(kube: Kube, state: Path) -> Application:
    """The Application; its ledger and its event are in a namespace of their own."""
    return Application(kube.within(release.NAMESPACE), NAME, Repository(state / "repositories" / NAME))


def install(kube: Kube, state: Path) -> None:
    """Make the Application, and wait until it is Synced and Healthy."""
    made = application(kube, state)
    repository = made.repository
    # The chart has a link to the CRD beside it.
    repository.copy(REPOSITORY / "charts", "charts")
    repository.copy(REPOSITORY / "crds", "crds")
    objects = [*sales.ledger(kube), sales.event(sales.window(sales.OPEN), 1, commitTarget=sales.SLOW)]
    for each in objects:
        each["metadata"]["namespace"] = NAMESPACE
    repository.write("sales/sale.yaml", *objects)
    revision = repository.push()
    kube.create_namespace(NAMESPACE)
    common = {"repoURL": repository.url, "targetRevision": "main"}
    chart = common | {"path": release.CHART, "helm": {"releaseName": release.RELEASE}}
    made.create(options=("CreateNamespace=true",), sources=[chart, common | {"path": "sales"}])
    made.await_synced(revision, INSTALL_SECONDS)
    made.await_healthy(INSTALL_SECONDS)
