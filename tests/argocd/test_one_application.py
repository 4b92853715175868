"""Operator, ledger and event in one Application: it has installed what all tests of this run use, and it goes last."""

from pathlib import Path
from typing import Final

import pytest

from tests.argocd import figures, one_application, sales
from tests.argocd.applications import Application
from tests.e2e import account, events, release, sql
from tests.e2e.kube import Kube, eventually

pytestmark = pytest.mark.alone

CLAIMS: Final = 100
REMOVAL_SECONDS: Final = 60.0
GONE_SECONDS: Final = 180.0


@pytest.fixture
def everything(cluster: Kube, state: Path) -> Application:
    """The Application that __main__.py has made."""
    return one_application.application(cluster, state)


def test_operator_and_event_in_one_application_are_synced_and_steady(everything: Application) -> None:
    events.await_phase(everything.kube.within(one_application.NAMESPACE), "sale", "Open", REMOVAL_SECONDS)
    everything.await_healthy(REMOVAL_SECONDS)
    everything.assert_steady()
    assert everything.differences() == []


def test_i11_deleted_as_one_application_the_event_drains_before_the_operator_goes(
    everything: Application, state: Path
) -> None:
    kube = everything.kube.within(one_application.NAMESPACE)
    answers = sql.claim(kube, "sale", "sale-pool", claims=CLAIMS)
    assert account.outcomes(answers) == {"claimed": CLAIMS}
    everything.delete()

    def deleted() -> bool:
        return "deletionTimestamp" in kube.get("intakeevent", "sale")["metadata"]

    eventually(deleted, REMOVAL_SECONDS, "Argo CD has deleted the event")
    assert account.ledger_counts(kube, "sale-pool")[0] < CLAIMS, "the queue was empty before"
    kube.patch("intakeevent", "sale", sales.FAST)
    committed = without_operator = 0

    def gone() -> bool:
        nonlocal committed, without_operator
        # The operator is read first: Argo CD may take it away as soon as the event is gone.
        operator = kube.within(release.NAMESPACE).find("deployment", release.RELEASE)
        if kube.find("intakeevent", "sale") is None:
            return True
        without_operator += operator is None or "deletionTimestamp" in operator["metadata"]
        committed = account.ledger_counts(kube, "sale-pool")[0]
        return False

    with figures.timed(state, f"one Application deleted: {CLAIMS} claims drained, then the operator gone"):
        eventually(gone, GONE_SECONDS, "the event is gone")
        eventually(lambda: not everything.exists(), GONE_SECONDS, "the Application is gone")
    assert events.leftovers(kube, "sale") == []
    assert not without_operator, "the operator went before the event"
    assert committed == CLAIMS
    figures.note(state, f"the CRD after that: {kube.find('crd', 'intakeevents.intake-engine.io') and 'is there'}")
