"""I11 under Argo CD's own defaults, which delete in the foreground: a sale that is removed drains and loses nothing."""

import json
from pathlib import Path
from typing import Final

from tests.argocd import figures, sales
from tests.argocd.applications import Application
from tests.e2e import account, events, sql
from tests.e2e.kube import Kube, Object, eventually

CLAIMS: Final = 200
OPEN_SECONDS: Final = 90.0
REMOVAL_SECONDS: Final = 60.0
GONE_SECONDS: Final = 120.0


def test_i11_an_event_that_is_removed_from_git_drains_first(application: Application, kube: Kube, state: Path) -> None:
    answers = sell(application, kube, sales.config_map("other"))
    application.repository.write("event.yaml")
    application.push()
    await_draining(application)
    # One claim a second is committed, so the event drains on for minutes.
    operation = application.status().get("operationState", {})
    figures.note(state, f"while the removed event drains, the sync is {operation['phase']}: {operation['message']}")
    application.repository.write("beside.yaml", sales.in_wave(0, sales.config_map("another")))
    with figures.timed(state, "another commit to the Application while the event drains"):
        application.push()
        eventually(lambda: kube.find("configmap", "another"), REMOVAL_SECONDS, "the other commit is applied")
    assert kube.find("intakeevent", "sale") is not None
    settle_all(kube)
    with figures.timed(state, f"removed from Git: {CLAIMS} claims drained, proven and everything gone"):
        await_gone(kube)
    assert_nothing_lost(kube, answers)
    application.await_synced()
    application.await_healthy(REMOVAL_SECONDS)
    assert kube.find("configmap", "another") is not None


def test_i11_an_application_that_is_deleted_drains_first_and_its_ledgers_secret_goes_last(
    application: Application, kube: Kube, state: Path
) -> None:
    (secret,) = (each for each in sales.ledger(kube) if each["kind"] == "Secret")
    assert secret["metadata"]["name"] == "core-ledger"
    answers = sell(application, kube, secret)
    application.delete()
    await_draining(application)
    settle_all(kube)

    without_secret = 0

    def gone() -> bool:
        nonlocal without_secret
        # The Secret is read first: Argo CD may take it away as soon as the event is gone.
        secret = kube.find("secret", "core-ledger")
        if kube.find("intakeevent", "sale") is None:
            return True
        without_secret += secret is None
        return False

    with figures.timed(state, f"Application deleted: {CLAIMS} claims drained, proven and everything gone"):
        eventually(gone, GONE_SECONDS, "the event is gone")
        eventually(lambda: not application.exists(), GONE_SECONDS, "the Application is gone")
    assert not without_secret, "the Secret of an earlier wave went before the event"
    assert kube.find("secret", "core-ledger") is None
    assert events.leftovers(kube, "sale") == []
    assert_nothing_lost(kube, answers)


def test_with_prune_confirm_an_event_that_is_removed_from_git_stays_until_a_person_agrees(
    application: Application,
) -> None:
    event = sales.event(sales.window(sales.WAITING))
    event["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] = "Prune=confirm,Delete=confirm"
    application.repository.write("event.yaml", event)
    application.repository.write("other.yaml", sales.config_map("other"))
    application.repository.push()
    application.create()
    application.await_synced()
    application.repository.write("event.yaml")
    application.push()

    def asks() -> bool:
        state = application.status().get("operationState", {})
        assert "confirm" in str(state.get("message")), state
        return True

    eventually(asks, REMOVAL_SECONDS, "Argo CD waits for a confirmation")
    application.looked()
    assert "deletionTimestamp" not in application.kube.get("intakeevent", "sale")["metadata"]
    application.confirm()
    await_gone(application.kube)
    application.await_synced()


def sell(application: Application, kube: Kube, beside: Object) -> list[Object]:
    """An open sale in wave 1 with a queue that takes minutes, and something in wave 0; return the answers."""
    application.repository.write("event.yaml", sales.event(sales.window(sales.OPEN), 1, commitTarget=sales.SLOW))
    application.repository.write("beside.yaml", sales.in_wave(0, beside))
    application.repository.push()
    application.create()
    application.await_synced()
    events.await_phase(kube, "sale", "Open", OPEN_SECONDS)
    answers = sql.claim(kube, "sale", "sale-pool", claims=CLAIMS)
    assert account.outcomes(answers) == {"claimed": CLAIMS}
    return answers


def await_draining(application: Application) -> None:
    """Wait until the event drains with claims on its queue, while Argo CD waits for it."""

    def draining() -> bool:
        found = application.kube.get("intakeevent", "sale")
        assert "deletionTimestamp" in found["metadata"], application.explain(application.status())
        assert found["status"]["phase"] == "Draining", json.dumps(found["status"])
        return bool(found["status"]["queue"]["depth"])

    eventually(draining, REMOVAL_SECONDS, "the event drains")
    committed, _ = account.ledger_counts(application.kube, "sale-pool")
    assert committed < CLAIMS, "the queue was empty before the event was removed"


def settle_all(kube: Kube) -> None:
    """Lift the limit: Argo CD does not decide about an event any more that is being deleted."""
    kube.patch("intakeevent", "sale", sales.FAST)


def await_gone(kube: Kube) -> None:
    """Wait until the event is gone with everything that it had."""
    eventually(lambda: kube.find("intakeevent", "sale") is None, GONE_SECONDS, "the event is gone")
    assert events.leftovers(kube, "sale") == []


def assert_nothing_lost(kube: Kube, answers: list[Object]) -> None:
    """Every acknowledged claim is in the ledger once, as it was acknowledged."""
    settled = account.of_pool(kube, "sale-pool", answers)
    assert (settled.acknowledged, settled.lost, settled.duplicated) == (CLAIMS, 0, 0), settled.line()
    assert account.violations(kube, "sale-pool", answers) == ""
