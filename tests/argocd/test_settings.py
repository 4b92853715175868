"""Who decides about a field of an open sale: Git about what it names, people about the rest."""

from pathlib import Path
from typing import Final

import pytest

from tests.argocd import figures, sales
from tests.argocd.applications import Application
from tests.e2e import events, sql
from tests.e2e.kube import Kube, Object, eventually

START_SECONDS: Final = 90.0
CHANGE_SECONDS: Final = 30.0
LEDGER: Final = "statefulset/core-ledger"


@pytest.fixture(scope="module")
def sale(shared_application: Application, shared_kube: Kube) -> Application:
    """An open sale; only the event is in Git."""
    shared_application.repository.write("event.yaml", sales.event(sales.window(sales.OPEN)))
    shared_application.repository.write("extra.yaml", sales.config_map("extra"))
    shared_application.repository.push()
    shared_application.create()
    shared_application.await_synced()
    events.await_phase(shared_kube, "sale", "Open", START_SECONDS)
    return shared_application


def spec(sale: Application) -> Object:
    """The event's spec as it is now."""
    found: Object = sale.kube.get("intakeevent", "sale")["spec"]
    return found


def test_a_commit_throttles_the_bridges(sale: Application, state: Path) -> None:
    sale.repository.write("event.yaml", sales.event(spec(sale)["window"], batchSize=7))

    def reached() -> bool:
        status = sale.kube.get("intakeevent", "sale")["status"]
        assert status.get("effectiveBatchSize") == 7, status
        return True

    with figures.timed(state, "batchSize, from the push to the bridges' report in the status (refresh asked for)"):
        sale.push()
        eventually(reached, CHANGE_SECONDS, "the bridges work with the batch size of the commit")


def test_self_heal_reverts_what_git_names_and_leaves_the_rest(sale: Application, state: Path) -> None:
    named = spec(sale)["batchSize"]
    with figures.timed(state, "self-heal of a patched batchSize"):
        sale.kube.patch("intakeevent", "sale", {"spec": {"batchSize": 77}})
        eventually(lambda: spec(sale)["batchSize"] == named, CHANGE_SECONDS, "self-heal has reverted the patch")

    not_named = {"paused": True, "commitTarget": {"maxPerSecond": 3}}
    annotations = {"example.org/by-hand": "yes"}
    sale.kube.patch("intakeevent", "sale", {"metadata": {"annotations": annotations}, "spec": not_named})
    sale.await_health("Suspended", CHANGE_SECONDS)
    sale.assert_steady()
    event = sale.kube.get("intakeevent", "sale")
    assert (event["spec"]["paused"], event["spec"]["commitTarget"]["maxPerSecond"]) == (True, 3)
    assert event["metadata"]["annotations"]["example.org/by-hand"] == "yes"
    sale.kube.patch("intakeevent", "sale", {"spec": {"paused": False}})
    sale.await_health("Healthy", CHANGE_SECONDS)


def test_ignored_for_the_night_a_patch_of_what_git_names_stays(sale: Application) -> None:
    # The lines of docs/gitops.md.
    ignored = {"group": "intake-engine.io", "kind": "IntakeEvent", "jsonPointers": ["/spec/batchSize"]}
    sale.change(ignoreDifferences=[ignored], syncPolicy={"syncOptions": ["RespectIgnoreDifferences=true"]})
    named = spec(sale)["batchSize"]
    sale.looked()
    sale.kube.patch("intakeevent", "sale", {"spec": {"batchSize": 77}})
    sale.assert_steady()
    sale.sync()
    assert spec(sale)["batchSize"] == 77

    sale.change(ignoreDifferences=None, syncPolicy={"syncOptions": None})
    eventually(lambda: spec(sale)["batchSize"] == named, CHANGE_SECONDS, "Git decides again")


def test_what_is_removed_from_git_is_pruned_and_the_children_of_the_event_are_not(sale: Application) -> None:
    before = sale.children()
    assert any(child.startswith("StatefulSet/sale-db") for child in before), before
    sale.repository.write("extra.yaml")
    sale.await_synced(sale.push())
    eventually(lambda: sale.kube.find("configmap", "extra") is None, CHANGE_SECONDS, "the ConfigMap is pruned")
    assert {child for child in before if not child.startswith("Pod/")} <= sale.children()
    assert spec(sale)["pool"] == "sale-pool"


def test_a_ledger_that_is_down_in_a_sale_is_degraded_and_the_application_stays_synced(
    sale: Application, state: Path
) -> None:
    sale.kube.kubectl("scale", LEDGER, "--replicas=0")
    eventually(
        lambda: not sale.kube.items("pods", "app.kubernetes.io/name=core-ledger"),
        CHANGE_SECONDS,
        "the ledger has stopped",
    )
    answers = sql.claim(sale.kube, "sale", "sale-pool", claims=5)
    assert {answer["outcome"] for answer in answers} == {"claimed"}
    figures.note(state, f"ledger down: Synced, Degraded: {sale.await_health('Degraded', START_SECONDS)}")
    sale.assert_steady()
    sale.kube.kubectl("scale", LEDGER, "--replicas=1")
    sale.await_health("Healthy", START_SECONDS)
