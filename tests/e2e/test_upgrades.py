"""Chart and images of the former version begin a sale; the present ones take over in the rush and finish it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import former
from tests.e2e import account, crowd, events, release, sql
from tests.e2e.kube import REPOSITORY, Kube, Object, condition, eventually

CLUSTER: Final = REPOSITORY / "tests" / "cluster" / "cluster"
IMAGES: Final = [f"intake-engine/{program}:{former.TAG}" for program in ("operator", "bridge")]
UPGRADE: Final = "intake-engine.io/upgrade"
PRESENT: Final = {"intake-engine/bridge:dev", "postgres:18"}


@pytest.fixture
def by_former_version(kube: Kube) -> Iterator[Kube]:
    """The former version serves the cluster; at the end the present one does, whatever happened."""
    if "INTAKE_CONTEXT" not in os.environ:  # otherwise the nodes have the images, as those of the present version
        subprocess.run([CLUSTER, "load", *IMAGES], check=True)
    cache = Path(os.environ.get("INTAKE_CACHE") or Path.home() / ".cache" / "intake-engine")
    chart = former.unpack(cache / "former" / former.TAG) / release.CHART
    try:
        release.install(kube, f"image.tag={former.TAG}", f"bridge.image.tag={former.TAG}", chart=chart)
        yield kube
    finally:
        release.install(kube)


@pytest.mark.alone
def test_a_sale_of_the_former_version_is_taken_over_in_the_rush_and_loses_nothing(by_former_version: Kube) -> None:
    kube = by_former_version
    sale = events.window(opens_in=8, lasts=3600)
    kube.apply(events.event("taken-over", sale, inventorySize=600, bridge={"minReplicas": 2, "maxReplicas": 2}))
    events.await_phase(kube, "taken-over", "Open", 60)
    crowd.start(kube, "taken-over", "taken-over-pool", crowd.Plan(buyers=240, rate=8, patience=120, most_seats=2))
    eventually(lambda: account.ledger_counts(kube, "taken-over-pool")[0] >= 20, 60, "the rush has begun")
    before = pods(kube)
    assert {image for _, image in before.values()} == {IMAGES[1], "postgres:18"}

    release.install(kube)
    eventually(lambda: version(kube), 60, "the present operator has read the SQL version of DB1")
    kube.patch("intakeevent", "taken-over", {"spec": {"batchSize": 7}})
    configured = "SELECT intake.configuration('taken-over-pool') ->> 'batchSize'"
    eventually(lambda: sql.in_database(kube, "taken-over", configured) == "7", 30, "an edit reaches a former DB1")
    events.await_healed(kube, "taken-over")
    taken = kube.get("intakeevent", "taken-over")
    assert version(kube) in condition(taken, "DatabaseReady")["message"]
    assert version(kube) in kube.kubectl("get", "intakeevents", "-o", "wide")
    assert taken["status"]["database"]["bridgeImage"] == IMAGES[1]

    answers = crowd.answers(kube, 120)
    assert pods(kube) == before, "no pod was replaced"
    kube.patch("intakeevent", "taken-over", {"metadata": {"annotations": {UPGRADE: "taken-over"}}})
    eventually(lambda: {image for _, image in pods(kube).values()} == PRESENT, 90, "a person asks for the new bridges")
    crowd.start(kube, "taken-over", "taken-over-pool", crowd.Plan(buyers=20, prefix="late"), pod="late")
    answers += crowd.answers(kube, 60, pod="late")

    events.close_now(kube, "taken-over")
    done = events.await_phase(kube, "taken-over", "Completed", 120)
    assert done["status"]["report"]["verified"] is True
    settled = account.of_pool(kube, "taken-over-pool", answers)
    assert (settled.lost, settled.duplicated) == (0, 0), settled.line()
    assert settled.acknowledged > 200, settled.line()
    assert account.violations(kube, "taken-over-pool", answers) == ""
    assert events.leftovers(kube, "taken-over") == []


def pods(kube: Kube) -> dict[str, tuple[int, str]]:
    """DB1's pod and the bridges by their uids: restarts and image of each."""
    found = kube.items("pods", f"{events.EVENT_LABEL}=taken-over")
    return {pod["metadata"]["uid"]: _container(pod) for pod in found if "deletionTimestamp" not in pod["metadata"]}


def _container(pod: Object) -> tuple[int, str]:
    (status,) = pod["status"].get("containerStatuses") or [{"restartCount": 0}]
    return status["restartCount"], pod["spec"]["containers"][0]["image"]


def version(kube: Kube) -> str:
    """The SQL version on the status; empty before it is there."""
    status = kube.get("intakeevent", "taken-over").get("status", {})
    return str(status.get("database", {}).get("version", ""))
