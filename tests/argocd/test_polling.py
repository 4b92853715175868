"""A commit that nobody tells Argo CD of: it arrives when Argo CD looks by itself."""

from pathlib import Path
from typing import Final

from tests.argocd import figures, sales
from tests.argocd.applications import Application
from tests.e2e.kube import eventually

# Argo CD's defaults: a look every 120 to 180 s, and what a branch was is remembered for 180 s.
POLLED_SECONDS: Final = 400.0


def test_without_a_webhook_a_commit_arrives_within_minutes(application: Application, state: Path) -> None:
    sale = sales.window(sales.WAITING)
    application.repository.write("event.yaml", sales.event(sale))
    revision = application.repository.push()
    application.create()
    application.await_synced(revision)
    application.repository.write("event.yaml", sales.event(sale, batchSize=7))
    with figures.timed(state, "batchSize, from the push to the spec (no webhook, Argo CD's own intervals)"):
        application.repository.push()
        eventually(
            lambda: application.kube.get("intakeevent", "sale")["spec"]["batchSize"] == 7,
            POLLED_SECONDS,
            "Argo CD has seen the commit by itself",
        )
