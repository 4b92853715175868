"""A quota that forbids pods: of DB1 before the sale, of bridges in the middle of it."""

from tests.e2e import events, sql
from tests.e2e.kube import Kube, condition, eventually


def test_a_quota_that_forbids_pods_is_told_in_its_own_words(kube: Kube) -> None:
    there = len(kube.items("pods"))
    _allow(kube, there)
    kube.apply(events.event("drop", events.window(opens_in=2, lasts=3600)))
    events.await_degraded(kube, "drop", "PodsNotCreated", "exceeded quota: few-pods")
    assert kube.kubectl("get", "intakeevents", "--no-headers").split()[:4] == [
        *("drop", "Provisioning", "False", "PodsNotCreated")
    ]

    # Room for DB1, and for no bridge.
    _allow(kube, there + 1)
    kube.kubectl("annotate", "statefulset", "drop-db", "tried-again=now")
    events.await_phase(kube, "drop", "Open", 60)
    claim = "SELECT outcome FROM intake.claim_resource('drop-pool', 'user', 'request')"
    assert sql.in_database(kube, "drop", claim) == "claimed"

    def refused() -> bool:
        event = kube.get("intakeevent", "drop")
        ready, degraded = condition(event, "Ready"), condition(event, "Degraded")
        assert (ready["status"], ready["reason"]) == ("False", "PodsNotCreated"), ready
        assert "Deployment drop-bridge" in degraded["message"], degraded
        assert "exceeded quota: few-pods" in degraded["message"], degraded
        return bool(event["status"]["queue"]["depth"] == 1)

    eventually(refused, events.CONDITION_SECONDS, "the claim waits, and the quota is told")

    kube.delete("resourcequota", "few-pods")
    kube.kubectl("annotate", "deployment", "drop-bridge", "tried-again=now")
    events.await_healed(kube, "drop")
    eventually(
        lambda: kube.get("intakeevent", "drop")["status"]["committed"] == 1,
        events.CONDITION_SECONDS,
        "the claim is committed",
    )
    assert condition(kube.get("intakeevent", "drop"), "Ready")["status"] == "True"


def _allow(kube: Kube, pods: int) -> None:
    """At most so many pods, from when the quota is in force."""
    spec = {"hard": {"pods": str(pods)}}
    kube.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few-pods"}, "spec": spec})

    def in_force() -> bool:
        status = kube.get("resourcequota", "few-pods").get("status", {})
        return bool(status.get("hard") == spec["hard"] and "pods" in status.get("used", {}))

    eventually(in_force, 30, "the quota is in force")
