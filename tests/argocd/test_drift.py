"""However people write an event and however Argo CD applies it, the API server's answer is no difference to Git."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest

from tests.argocd import sales
from tests.argocd.applications import Application
from tests.e2e.kube import REPOSITORY

START_SECONDS: Final = 90.0

# Numbers, quantities, offsets and empty objects in every way that the CRD takes; what has a default is left out.
UNUSUAL: Final = """
apiVersion: intake-engine.io/v1alpha1
kind: IntakeEvent
metadata: {{name: unusual}}
spec:
  pool: unusual
  inventorySize: 1e3
  batchSize: 50
  window: {{opensAt: "{opens}", closesAt: "{closes}"}}
  visibilityTimeoutSeconds: 45
  maxRetries: 10
  paused: false
  claimsPerUser: 4
  commitTarget:
    maxPerSecond: 500
    postgres:
      secretRef: {{name: core-ledger}}
  bridge:
    minReplicas: 0
    resources:
      requests: {{cpu: "0.05", memory: 0.125Gi}}
      limits: {{cpu: 1, memory: 1024Mi}}
  database:
    storage: {{size: 1.0Gi}}
    resources:
      requests: {{cpu: "0.25", memory: 512Mi}}
      limits: {{cpu: "1000m", memory: "1Gi"}}
    parameters: {{max_connections: "200", work_mem: 4MB}}
  teardown: {{}}
"""


def unusual() -> str:
    """The manifest, with a window of another offset and with fractions of a second."""
    zone = timezone(timedelta(hours=1))
    begins = datetime.now(UTC).astimezone(zone) + timedelta(hours=5)
    opens, closes = ((begins + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.250+01:00") for hours in (0, 1))
    return UNUSUAL.format(opens=opens, closes=closes)


@pytest.mark.parametrize(
    ("applied", "compared"),
    [
        ("", ""),
        ("", "ServerSideDiff=true"),
        ("ServerSideApply=true", ""),
        ("ServerSideApply=true", "ServerSideDiff=true"),
    ],
    ids=["client-side", "diffed-by-the-server", "server-side", "both"],
)
def test_nothing_drifts(application: Application, applied: str, compared: str) -> None:
    app = application
    app.repository.write("ledger.yaml", *sales.ledger(app.kube))
    app.repository.write("small.yaml", sales.event(sales.window(sales.WAITING)))
    app.repository.write_text("unusual.yaml", unusual())
    for example in ("checkout", "seated"):
        text = (REPOSITORY / f"examples/{example}.yaml").read_text(encoding="utf-8")
        app.repository.write_text(f"{example}.yaml", text)
    revision = app.repository.push()
    app.create(options=(applied,) if applied else (), compare=compared)
    app.await_synced(revision, START_SECONDS)
    app.assert_steady()
    assert app.differences() == []
