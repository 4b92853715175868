"""spec.teardown.keepMinutes: DB1 stays after the drain. Claims get `closed`, and claim_status still answers."""

from tests.e2e import events, release, sql
from tests.e2e.kube import Kube, condition, eventually


def test_db1_is_kept_sealed_after_the_drain_until_the_event_is_deleted(kube: Kube) -> None:
    sale = events.window(opens_in=1, lasts=3600)
    kube.apply(events.event("kept", sale, teardown={"keepMinutes": 30}))
    events.await_phase(kube, "kept", "Open", 60)
    claim_id = sql.in_database(kube, "kept", "SELECT claim_id FROM intake.claim_resource('kept-pool', 'ann', 'r')")
    events.close_now(kube, "kept")
    eventually(lambda: drained(kube) == "Kept", 60, "the event has drained, and DB1 is kept")
    eventually(
        lambda: not kube.items("pods", f"{events.EVENT_LABEL}=kept,app.kubernetes.io/component=bridge"),
        60,
        "there are no bridges",
    )

    assert (
        sql.in_database(kube, "kept", "SELECT outcome FROM intake.claim_resource('kept-pool', 'eve', 'r')") == "closed"
    )
    asked = f"SELECT state FROM intake.claim_status('kept-pool', '{claim_id}'::uuid)"
    assert sql.in_database(kube, "kept", asked) == "committed"
    assert kube.find("secret", "kept-app") is not None

    # Every claim is settled: the children are not protected any more, and the report exists.
    def unguarded() -> bool:
        for kind, name in (("statefulset", "kept-db"), ("pvc", "data-kept-db-0"), ("secret", "kept-app")):
            assert release.GUARD_LABEL not in kube.get(kind, name)["metadata"]["labels"], name
        return True

    eventually(unguarded, 30, "the label of the admission policies is removed")
    assert kube.get("configmap", "kept-report")["data"]["committed"] == "1"

    kube.delete("intakeevent", "kept")
    eventually(lambda: kube.find("intakeevent", "kept") is None, 60, "a deletion ends keepMinutes")
    assert events.leftovers(kube, "kept") == []


def drained(kube: Kube) -> str:
    """The reason of Drained."""
    return str(condition(kube.get("intakeevent", "kept"), "Drained")["reason"])
