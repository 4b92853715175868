"""One sale under automated sync with prune and self-heal: Synced in every phase, with the health that it deserves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.argocd import figures, sales
from tests.argocd.applications import Application, first_seen
from tests.e2e import events, sql

START_SECONDS: Final = 90.0
DRAIN_SECONDS: Final = 120.0
CLAIMS: Final = 60


@dataclass(frozen=True)
class Sale:
    """The sale in Git, and in the cluster."""

    app: Application
    state: Path

    def commit(self, window: dict[str, str], **spec: Any) -> None:
        """Change the event in Git, and wait until Argo CD has applied it."""
        self.app.repository.write("event.yaml", sales.event(window, 1, **spec))
        self.app.await_synced(self.app.push())

    def await_health(self, phase: str, wanted: str) -> None:
        """Wait for a phase and its health, and keep what Argo CD shows."""
        events.await_phase(self.app.kube, "sale", phase, START_SECONDS)
        message = self.app.await_health(wanted, START_SECONDS)
        figures.note(self.state, f"{phase}: Synced, {wanted}: {message}")

    def await_scheduled(self) -> None:
        """Wait until DB1 is provisioned: on the way Argo CD shows Progressing, and never Degraded."""

        def phase_and_health() -> str:
            return f"{events.phase(self.app.kube, 'sale')}, {self.app.health().get('status')}"

        seen = first_seen(phase_and_health, "Scheduled, Healthy", START_SECONDS, "the event is scheduled")
        figures.note(self.state, f"provisioned: {'; '.join(seen)}")
        assert "Provisioning, Progressing" in seen
        assert not any("Degraded" in each for each in seen)


def test_a_sale_is_synced_in_every_phase_and_nothing_is_done_to_it_afterwards(
    application: Application, state: Path
) -> None:
    app, kube, sale = application, application.kube, Sale(application, state)
    app.repository.write("ledger.yaml", *sales.ledger(kube))
    app.repository.write("shop.yaml", sales.in_wave(2, sales.config_map("shop")))
    app.repository.write("event.yaml", sales.event(sales.window(sales.WAITING), 1))
    revision = app.repository.push()
    with figures.timed(state, "ledger, waiting event and shop in three waves: from nothing to Synced"):
        app.create()
        app.await_synced(revision, START_SECONDS)
    sale.await_health("Waiting", "Healthy")
    assert kube.items("pods", f"{events.EVENT_LABEL}=sale") == []
    # The third wave did not wait for the window: a shop can be deployed weeks ahead.
    assert kube.find("configmap", "shop") is not None
    app.assert_steady()

    sale.commit(sales.window(sales.SCHEDULED))
    sale.await_scheduled()
    sale.await_health("Scheduled", "Healthy")

    opens = sales.window(sales.OPEN)
    sale.commit(opens)
    sale.await_health("Open", "Healthy")
    app.assert_steady()
    before = app.children()
    assert len(before) > 10, before
    app.sync()
    assert before <= app.children(), "a sync with prune has taken a child away"

    sale.commit(opens, paused=True)
    sale.await_health("Open", "Suspended")
    sale.commit(opens)
    sale.await_health("Open", "Healthy")

    # Git does not name it, so self-heal leaves it.
    kube.patch("intakeevent", "sale", {"spec": {"commitTarget": {"maxPerSecond": 1}}})
    answers = sql.claim(kube, "sale", "sale-pool", CLAIMS)
    assert {answer["outcome"] for answer in answers} == {"claimed"}
    sale.commit(opens | {"closesAt": events.window(opens_in=1, lasts=1)["closesAt"]})
    sale.await_health("Draining", "Progressing")
    kube.patch("intakeevent", "sale", sales.FAST)
    events.await_phase(kube, "sale", "Completed", DRAIN_SECONDS)
    sale.await_health("Completed", "Healthy")

    after = kube.get("intakeevent", "sale")
    assert after["status"]["report"]["committed"] == CLAIMS
    app.sync()
    app.assert_steady()
    assert kube.get("intakeevent", "sale")["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    assert events.leftovers(kube, "sale") == []
