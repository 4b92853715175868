"""A pool is sold once: a second event with it opens nothing, whether the first one is still there or long gone."""

from tests.e2e import events, services, sql
from tests.e2e.kube import Kube, condition, eventually


def test_i1_a_pool_that_is_on_sale_or_was_sold_is_not_sold_again(kube: Kube) -> None:
    kube.apply(events.event("first", events.window(opens_in=1, lasts=3600), pool="one-pool"))
    events.await_phase(kube, "first", "Open", 60)
    assert told(kube, "first", "PoolUnused") == "PoolUnused"
    claim = "SELECT outcome FROM intake.claim_resource('one-pool', 'ann', 'r')"
    assert sql.in_database(kube, "first", claim) == "claimed"

    kube.apply(events.event("second", events.window(opens_in=1, lasts=3600), pool="one-pool"))
    eventually(lambda: told(kube, "second", "Degraded") == "PoolInUse", 60, "the first one is named")
    kube.delete("intakeevent", "first")
    eventually(lambda: kube.find("intakeevent", "first") is None, 90, "the first one has sold and is gone")
    eventually(lambda: told(kube, "second", "Degraded") == "PoolUsedBefore", 60, "the ledger knows the pool")
    ready = condition(kube.get("intakeevent", "second"), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PoolUsedBefore")
    eventually(lambda: sql.in_database(kube, "second", claim) == "not_ready", 60, "no claim is answered by a slot")

    kube.kubectl("annotate", "intakeevent", "second", f"{events.POOL_UNCHECKED_ANNOTATION}=second")
    events.await_phase(kube, "second", "Open", 60)
    assert told(kube, "second", "PoolUnused") == "PoolNotChecked"


def test_a_ledger_that_does_not_answer_keeps_slots_from_being_seeded(namespace: Kube) -> None:
    uri = "postgresql://ledger_writer:example-writer@core-ledger:5432/ledger"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "core-ledger"}, "stringData": {"uri": uri}}
    namespace.apply(secret, events.event("early", events.window(opens_in=1, lasts=3600)))
    eventually(lambda: told(namespace, "early", "PoolUnused") == "WaitingForLedger", 60, "it waits, and says so")
    services.start_ledger(namespace)
    events.await_phase(namespace, "early", "Open", 90)
    assert told(namespace, "early", "PoolUnused") == "PoolUnused"


def told(kube: Kube, event: str, kind: str) -> str:
    """The reason of a condition."""
    return str(condition(kube.get("intakeevent", event), kind)["reason"])
