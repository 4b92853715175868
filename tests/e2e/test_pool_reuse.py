"""A pool is sold once: a second event with the same pool does not open, during the first event and after it."""

from tests.e2e import events, services, sql
from tests.e2e.kube import Kube, condition, eventually


def test_i1_a_pool_that_is_on_sale_or_was_sold_is_not_sold_again(kube: Kube) -> None:
    kube.apply(events.event("first", events.window(opens_in=1, lasts=3600), pool="one-pool"))
    events.await_phase(kube, "first", "Open", 60)
    assert reason(kube, "first", "PoolUnused") == "PoolUnused"
    claim = "SELECT outcome FROM intake.claim_resource('one-pool', 'ann', 'r')"
    assert sql.in_database(kube, "first", claim) == "claimed"

    kube.apply(events.event("second", events.window(opens_in=1, lasts=3600), pool="one-pool"))
    eventually(lambda: reason(kube, "second", "Degraded") == "PoolInUse", 60, "the pool is in use by the first event")
    kube.delete("intakeevent", "first")
    eventually(lambda: kube.find("intakeevent", "first") is None, 90, "the first event has drained and is gone")
    eventually(lambda: reason(kube, "second", "Degraded") == "PoolUsedBefore", 60, "the ledger has claims of the pool")
    ready = condition(kube.get("intakeevent", "second"), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PoolUsedBefore")
    eventually(lambda: sql.in_database(kube, "second", claim) == "not_ready", 60, "claims get not_ready")

    kube.kubectl("annotate", "intakeevent", "second", f"{events.POOL_UNCHECKED_ANNOTATION}=second")
    events.await_phase(kube, "second", "Open", 60)
    assert reason(kube, "second", "PoolUnused") == "PoolNotChecked"


def test_a_pool_is_not_seeded_while_the_ledger_does_not_answer(namespace: Kube) -> None:
    uri = "postgresql://ledger_writer:example-writer@core-ledger:5432/ledger"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "core-ledger"}, "stringData": {"uri": uri}}
    namespace.apply(secret, events.event("early", events.window(opens_in=1, lasts=3600)))
    eventually(
        lambda: reason(namespace, "early", "PoolUnused") == "WaitingForLedger", 60, "the event waits for the ledger"
    )
    services.start_ledger(namespace)
    events.await_phase(namespace, "early", "Open", 90)
    assert reason(namespace, "early", "PoolUnused") == "PoolUnused"


def reason(kube: Kube, event: str, kind: str) -> str:
    """The reason of a condition."""
    return str(condition(kube.get("intakeevent", event), kind)["reason"])
