"""I11: no object with an unsettled claim is removed, whatever a user, a controller or a script deletes.

Each case has its own open sale in its own namespace. Its queue cannot empty, because the validator fails. All cases
start at once, because most of the time is waiting. Each test deletes something and checks that DB1 and the bridge are
untouched. Then the validator is repaired, and at the end the ledger must have every acknowledged claim.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.e2e import account, events, namespaces, release, services, sql
from tests.e2e.kube import Kube, Object, condition, eventually

pytestmark = pytest.mark.alone

CLAIMS: Final = 50
SALES: Final = ("foreground", "orphan", "namespace", "forged", "status", "anchor")
OPEN_SECONDS: Final = 120.0
UNTOUCHED_SECONDS: Final = 45.0
GONE_SECONDS: Final = 120.0


@dataclass
class Sale:
    """An event and its acknowledged claims; its ledger is in another namespace."""

    kube: Kube
    name: str
    answers: list[Object] = field(default_factory=list)
    pods: dict[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        """The name of its pool."""
        return f"{self.name}-pool"

    def claim(self, prefix: str = "buyer", claims: int = CLAIMS) -> None:
        """Claim once for each of so many users, and keep the answers."""
        self.answers += sql.claim(self.kube, self.name, self.pool, claims, prefix)

    def event(self) -> Object:
        """The IntakeEvent as it is now."""
        return self.kube.get("intakeevent", self.name)

    def condition(self, kind: str) -> Object:
        """One of its conditions."""
        return condition(self.event(), kind)

    def running(self) -> dict[str, str]:
        """Name and uid of every pod of DB1 and of the bridges that is not terminating."""
        found = self.kube.items("pods", f"{events.EVENT_LABEL}={self.name}")
        return {p["metadata"]["name"]: p["metadata"]["uid"] for p in found if "deletionTimestamp" not in p["metadata"]}

    def queued(self) -> int:
        """How many claims are on DB1's queue."""
        return int(sql.in_database(self.kube, self.name, "SELECT count(*) FROM pgmq.q_intake_queue"))


type Sales = dict[str, Sale]


@pytest.fixture(scope="module")
def sales(shared_kube: Kube) -> Iterator[Sales]:
    """An open sale for each case, with its claims on the queue."""
    services.validator(shared_kube, "/faults?mode=500")
    made = {name: open_sale(shared_kube, name) for name in SALES}
    for sale in made.values():
        events.await_phase(sale.kube, sale.name, "Open", OPEN_SECONDS)
        sale.claim()
        assert {answer["outcome"] for answer in sale.answers} == {"claimed"}
    for sale in made.values():
        eventually(lambda sale=sale: len(sale.running()) == 2, 60, "DB1 and a bridge run")  # type: ignore[misc]
        sale.pods = sale.running()
    yield made
    services.validator(shared_kube, "/faults?mode=ok")
    for sale in made.values():
        namespaces.abandon_events_and_delete(sale.kube)


@pytest.fixture(scope="module")
def validator_works(sales: Sales, shared_kube: Kube) -> Sales:
    """The same sales, with a validator that approves."""
    services.validator(shared_kube, "/faults?mode=ok")
    return sales


def test_i11_a_foreground_deletion_removes_no_child(sales: Sales) -> None:
    sale = sales["foreground"]
    sale.kube.delete("intakeevent", sale.name, "--cascade=foreground")

    def draining() -> bool:
        assert sale.condition("Drained")["reason"] == "QueueDraining", sale.condition("Drained")
        assert "foregroundDeletion" not in sale.event()["metadata"]["finalizers"], "the garbage collector is not done"
        return True

    eventually(draining, UNTOUCHED_SECONDS, "the event drains, and the garbage collector is done")
    assert_untouched(sale)


def test_i11_an_orphaned_event_drains_with_its_children(sales: Sales) -> None:
    sale = sales["orphan"]
    sale.kube.delete("intakeevent", sale.name, "--cascade=orphan")

    def adopted() -> bool:
        assert sale.condition("Drained")["reason"] == "QueueDraining", sale.condition("Drained")
        owners = sale.kube.get("statefulset", f"{sale.name}-db")["metadata"]["ownerReferences"]
        assert sale.event()["metadata"]["uid"] in {owner["uid"] for owner in owners}
        return True

    eventually(adopted, UNTOUCHED_SECONDS, "the event drains, and owns its children again")
    assert_untouched(sale)


def test_i11_a_namespace_that_is_deleted_during_a_sale_waits_for_the_drain(sales: Sales) -> None:
    sale = sales["namespace"]
    sale.kube.delete("namespace", sale.kube.namespace)

    def draining() -> bool:
        assert sale.condition("Drained")["reason"] == "QueueDraining", sale.condition("Drained")
        assert sale.condition("Degraded")["reason"] == "NamespaceTerminating", sale.condition("Degraded")
        return True

    eventually(draining, UNTOUCHED_SECONDS, "the sale is sealed and drains")
    assert_untouched(sale)


def test_i11_a_forged_report_removes_nothing(sales: Sales) -> None:
    sale = sales["forged"]
    uid = sale.event()["metadata"]["uid"]
    labels = {events.EVENT_LABEL: sale.name, "intake-engine.io/event-uid": uid}
    owner = {"apiVersion": "intake-engine.io/v1alpha1", "kind": "IntakeEvent", "name": sale.name, "uid": uid}
    claims = {"verified": "true", "ledger": "the ledger agrees", "claims": "50", "committed": "50", "voided": "0"}
    meta = {
        "name": f"{sale.name}-report",
        "labels": labels,
        "ownerReferences": [owner],
        "annotations": {"intake-engine.io/verified": "true"},
    }
    forged = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": claims | {"released": "0"}}
    sale.kube.apply(forged)
    events.close_now(sale.kube, sale.name)
    eventually(
        lambda: sale.condition("Drained")["reason"] == "QueueDraining", UNTOUCHED_SECONDS, "the window has closed"
    )
    version = sale.event()["metadata"]["resourceVersion"]
    eventually(lambda: sale.event()["metadata"]["resourceVersion"] != version, 90, "another pass has been made")
    assert sale.condition("Drained")["reason"] == "QueueDraining"
    assert "report" not in sale.event()["status"]
    assert_untouched(sale)


def test_i11_a_removed_status_loses_no_claim(sales: Sales) -> None:
    sale = sales["status"]
    with release.scaled_to_zero(sale.kube):
        empty = {"metadata": {"name": sale.name}, "status": None}
        sale.kube.kubectl(
            "patch", "intakeevent", sale.name, "--subresource=status", "--type=merge", "-p", json.dumps(empty)
        )
        assert "status" not in sale.event()

    def remembered() -> bool:
        known = sale.event().get("status", {}).get("database")
        assert known
        assert known["systemIdentifier"] == identity(sale), known
        return True

    eventually(remembered, UNTOUCHED_SECONDS, "status has the identity of DB1 again, read from the volume claim")
    sale.kube.delete("intakeevent", sale.name)
    eventually(lambda: sale.condition("Drained")["reason"] == "QueueDraining", UNTOUCHED_SECONDS, "the event drains")
    assert_untouched(sale)


def test_i11_an_anchor_that_was_removed_by_force_is_created_again_and_keeps_the_children(sales: Sales) -> None:
    sale = sales["anchor"]
    anchor = f"{sale.name}-db"
    before = sale.kube.get("networkpolicy", anchor)["metadata"]["uid"]
    release.delete_as_operator(sale.kube, "networkpolicy", anchor)

    def anchored() -> bool:
        found = sale.kube.get("networkpolicy", anchor)["metadata"]
        assert found["uid"] != before
        for kind in ("statefulset", "persistentvolumeclaim", "service"):
            name = f"data-{sale.name}-db-0" if kind == "persistentvolumeclaim" else f"{sale.name}-db"
            owners = sale.kube.get(kind, name)["metadata"]["ownerReferences"]
            assert {owner["uid"] for owner in owners} == {found["uid"], sale.event()["metadata"]["uid"]}
        return True

    eventually(anchored, UNTOUCHED_SECONDS, "every child has the new anchor as an owner")
    sale.kube.delete("intakeevent", sale.name, "--cascade=foreground")
    eventually(lambda: sale.condition("Drained")["reason"] == "QueueDraining", UNTOUCHED_SECONDS, "the event drains")
    assert_untouched(sale)


@pytest.mark.parametrize("name", SALES)
def test_i2_every_claim_is_in_the_ledger_when_the_event_is_gone(
    validator_works: Sales, shared_kube: Kube, name: str
) -> None:
    sale = validator_works[name]
    if name == "forged":
        found = events.await_phase(sale.kube, name, "Completed", GONE_SECONDS)
        report = found["status"]["report"]
        assert (report["verified"], report["committed"] + report["voided"], report["claims"]) == (True, CLAIMS, CLAIMS)
        assert sale.kube.get("configmap", f"{name}-report")["data"]["writtenAt"] == report["writtenAt"]
    else:
        eventually(lambda: sale.kube.find("intakeevent", name) is None, GONE_SECONDS, f"{name} is gone")
    settled = account.of_pool(shared_kube, sale.pool, sale.answers)
    assert (settled.acknowledged, settled.lost, settled.duplicated) == (CLAIMS, 0, 0), settled.line()
    assert account.violations(shared_kube, sale.pool, sale.answers) == ""
    assert events.leftovers(sale.kube, name) == []


def test_the_deleted_namespace_is_gone_after_its_event(validator_works: Sales, cluster: Kube) -> None:
    namespace = validator_works["namespace"].kube.namespace
    # The namespace controller has backed off while it was refused.
    eventually(lambda: cluster.find("namespace", namespace) is None, 180, "the namespace is gone")


def test_a_namespace_with_a_scheduled_event_is_deleted_at_once(cluster: Kube) -> None:
    kube = cluster.create_namespace(f"e2e-waiting-{secrets.token_hex(2)}")
    kube.apply(events.unchecked(events.event("waiting", events.window(opens_in=3000, lasts=3600))))
    events.await_phase(kube, "waiting", "Scheduled", 60)
    kube.delete("namespace", kube.namespace)
    eventually(lambda: cluster.find("namespace", kube.namespace) is None, GONE_SECONDS, "event and namespace are gone")


def test_i11_an_event_that_cannot_drain_in_a_terminating_namespace_waits_for_the_abandon_annotation(kube: Kube) -> None:
    """DB1's pod dies in a namespace that is being deleted, where no object can be created any more."""
    services.validator(kube, "/faults?mode=500")
    webhook = {"url": services.VALIDATOR_URL}
    sale = Sale(kube, "inside")
    kube.apply(events.event("inside", events.window(opens_in=1, lasts=3600), validation={"webhook": webhook}))
    events.await_phase(kube, "inside", "Open", 60)
    sale.claim()
    eventually(lambda: len(sale.running()) == 2, 60, "DB1 and a bridge run")
    sale.pods = sale.running()
    kube.delete("namespace", kube.namespace)
    eventually(
        lambda: sale.condition("Drained")["reason"] == "QueueDraining",
        UNTOUCHED_SECONDS,
        "the sale is sealed and drains",
    )
    assert_untouched(sale)
    assert kube.find("pod", services.LEDGER_POD) is not None, "the drain needs the ledger in this namespace"
    kube.delete("pod", "inside-db-0", "--grace-period=0", "--force")

    def reported() -> bool:
        degraded = sale.condition("Degraded")
        assert degraded["reason"] == "NamespaceTerminating", degraded
        assert f"{events.ABANDON_ANNOTATION}: inside" in degraded["message"], degraded
        return True

    eventually(reported, 90, "Degraded says what to do")
    kube.kubectl("annotate", "intakeevent", "inside", f"{events.ABANDON_ANNOTATION}=inside")
    eventually(lambda: kube.find("intakeevent", "inside") is None, GONE_SECONDS, "the abandoned event is gone")


def test_i11_an_event_that_is_applied_again_does_not_take_over_the_children_of_the_former_one(
    validator_works: Sales, shared_kube: Kube
) -> None:
    """While no operator ran, its finalizer was removed by hand, and it was deleted and applied again from Git."""
    sale = open_sale(shared_kube, "again")
    events.await_phase(sale.kube, "again", "Open", OPEN_SECONDS)
    sale.claim()
    settled = "the claims are in the ledger"
    eventually(lambda: account.of_pool(shared_kube, sale.pool, sale.answers).lost == 0, 60, settled)
    sale.pods = sale.running()
    manifest = {key: sale.event()[key] for key in ("apiVersion", "kind", "spec")}
    with release.scaled_to_zero(sale.kube):
        sale.kube.patch("intakeevent", "again", {"metadata": {"finalizers": None}})
        sale.kube.kubectl("delete", "intakeevent", "again", "--timeout=120s")
        sale.kube.apply(manifest | {"metadata": {"name": "again"}})

    def refused() -> bool:
        degraded = sale.condition("Degraded")
        assert degraded["reason"] == "ChildNotOurs", degraded
        assert "earlier IntakeEvent of this name" in degraded["message"]
        return True

    eventually(refused, UNTOUCHED_SECONDS, "Degraded says that the name was used before")
    assert sale.running() == sale.pods
    assert not sale.event()["status"].get("database")
    sale.kube.delete("intakeevent", "again")
    eventually(lambda: sale.kube.find("intakeevent", "again") is None, 60, "the new event is gone, it has no children")
    assert sale.running() == sale.pods
    events.remove_by_hand(sale.kube, "again")
    namespaces.abandon_events_and_delete(sale.kube)


def open_sale(ledger: Kube, name: str) -> Sale:
    """Create a namespace with an event; its ledger and its validator are in another namespace."""
    kube = ledger.create_namespace(f"e2e-{name}-{secrets.token_hex(2)}")
    uri = f"postgresql://ledger_writer:example-writer@core-ledger.{ledger.namespace}.svc:5432/ledger"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "core-ledger"}, "stringData": {"uri": uri}}
    webhook = {"url": f"http://validator.{ledger.namespace}.svc:8080/validate"}
    sale = events.window(opens_in=1, lasts=3600)
    kube.apply(secret, events.event(name, sale, maxRetries=100, validation={"webhook": webhook}))
    return Sale(kube, name)


def identity(sale: Sale) -> str:
    """The system identifier of DB1."""
    return sql.in_database(sale.kube, sale.name, "SELECT system_identifier FROM pg_control_system()")


def assert_untouched(sale: Sale) -> None:
    """DB1 and the bridge are the same pods as before, and every claim is still on the queue."""
    assert sale.running() == sale.pods
    assert sale.queued() == CLAIMS
    late = f"SELECT outcome FROM intake.claim_resource('{sale.pool}', 'late', 'late')"
    assert sql.in_database(sale.kube, sale.name, late) == "closed"
