"""`kubectl delete` before and during the window: claiming ends, the event drains and is proven, nothing is left."""

from tests.e2e import account, crowd, events, services, sql
from tests.e2e.kube import Kube, condition, eventually


def test_deleting_an_event_before_its_window_removes_all_its_objects(namespace: Kube) -> None:
    sale = events.window(opens_in=3000, lasts=3600)
    namespace.apply(events.unchecked(events.event("early", sale)), events.event("half", sale))
    # One while it is provisioned, one when it is ready.
    eventually(lambda: namespace.find("statefulset", "half-db"), 20, "provisioning has begun")
    namespace.delete("intakeevent", "half")
    events.await_phase(namespace, "early", "Scheduled", 60)
    namespace.delete("intakeevent", "early")
    for name in ("half", "early"):
        _await_gone(namespace, name, 60)


def test_deleting_an_event_during_its_window_drains_its_claims_first(kube: Kube) -> None:
    # The validator fails, so that the queue is full when the event is deleted.
    services.validator(kube, "/faults?mode=500")
    webhook = {"url": services.VALIDATOR_URL}
    sale = events.window(opens_in=2, lasts=3600)
    kube.apply(events.event("open", sale, maxRetries=100, validation={"webhook": webhook}))
    events.await_phase(kube, "open", "Open", 60)
    crowd.start(kube, "open", "open-pool", crowd.Plan(buyers=50))
    answers = crowd.answers(kube, 40)
    assert account.outcomes(answers)["claimed"] > 0

    kube.delete("intakeevent", "open")

    def draining() -> bool:
        found = kube.get("intakeevent", "open")
        drained = condition(found, "Drained")
        return (found["status"]["phase"], drained["reason"]) == ("Draining", "QueueDraining")

    eventually(draining, 30, "the event drains and still exists")
    late = "SELECT outcome FROM intake.claim_resource('open-pool', 'late', 'late')"
    assert sql.in_database(kube, "open", late) == "closed"

    services.validator(kube, "/faults?mode=ok")
    _await_gone(kube, "open", 90)
    settled = account.of_pool(kube, "open-pool", answers)
    assert (settled.acknowledged, settled.lost, settled.duplicated) == (50, 0, 0), settled.line()
    assert account.violations(kube, "open-pool", answers) == ""


def _await_gone(kube: Kube, name: str, deadline: float) -> None:
    eventually(lambda: kube.find("intakeevent", name) is None, deadline, f"{name} is gone")
    assert events.leftovers(kube, name) == []
