"""What an event lacks: Argo CD says it, weeks ahead as well, and takes the commit that brings it."""

from pathlib import Path
from typing import Final

from tests.argocd import figures, sales
from tests.argocd.applications import Application
from tests.e2e import events
from tests.e2e.kube import condition

START_SECONDS: Final = 60.0
# It may still come for two minutes, and is asked for again after as long as it has been missing.
MISSING_SECONDS: Final = 240.0


def test_a_waiting_event_without_its_ledger_is_degraded_until_a_commit_brings_it(
    application: Application, state: Path
) -> None:
    app, kube = application, application.kube
    app.repository.write("event.yaml", sales.event(sales.window(sales.WAITING), 1))
    app.repository.write("shop.yaml", sales.in_wave(2, sales.config_map("shop")))
    app.repository.push()
    app.create()
    events.await_phase(kube, "sale", "Waiting", START_SECONDS)
    figures.note(state, f"ledger missing, at first: Progressing: {app.await_health('Progressing', START_SECONDS)}")
    with figures.timed(state, "until it is Degraded, and the sync of the waves has ended"):
        app.await_healthy(MISSING_SECONDS, "Degraded")
        app.await_sync_failed(START_SECONDS)
    message = condition(kube.get("intakeevent", "sale"), "Degraded")["message"]
    figures.note(state, f"ledger missing, later: Degraded: {message}")
    assert "core-ledger" in message
    assert kube.find("configmap", "shop") is None, "the wave behind it has begun"

    app.repository.write("ledger.yaml", *sales.ledger(kube))
    with figures.timed(state, "from the commit that brings the ledger to Synced and Healthy, shop included"):
        app.await_synced(app.push(), MISSING_SECONDS)
        app.await_healthy(MISSING_SECONDS)
    assert kube.find("configmap", "shop") is not None
