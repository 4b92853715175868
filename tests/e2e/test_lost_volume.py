"""DB1's volume is lost during a sale: the empty one sells nothing, and the sale is recovered from the ledger."""

import json
from typing import Final

import pytest

from tests.e2e import events, release, services, sql
from tests.e2e.kube import CommandError, Kube, condition, eventually

SEATS: Final = 60
COMMITTED: Final = 30
QUEUED: Final = 12
POOL: Final = "lost-pool"


@pytest.mark.alone
def test_i11_a_sale_whose_volume_was_removed_by_force_is_recovered_and_sells_no_slot_twice(kube: Kube) -> None:
    sale = events.window(opens_in=1, lasts=3600)
    small = {"inventorySize": SEATS, "batchSize": 20, "maxRetries": 100}
    kube.apply(events.event("lost", sale, **small))
    events.await_phase(kube, "lost", "Open", 60)
    first = claim(kube, "early", COMMITTED)
    eventually(lambda: sold(kube) == COMMITTED, 60, "the first claims are in the ledger")
    # From here on nothing reaches the ledger.
    services.validator(kube, "/faults?mode=500")
    kube.patch("intakeevent", "lost", {"spec": {"validation": {"webhook": {"url": services.VALIDATOR_URL}}}})
    eventually(lambda: generation(kube) == configured(kube), 30, "the bridge has the new configuration")
    assert len(claim(kube, "late", QUEUED)) == QUEUED
    eventually(
        lambda: kube.get("intakeevent", "lost")["status"]["queue"]["depth"] == QUEUED, 30, "status has the queue depth"
    )

    # First the volume claim, while the operator runs; then, without the operator, everything that keeps the volume.
    release.delete_as_operator(kube, "pvc", "data-lost-db-0")
    eventually(lambda: degraded(kube) == "VolumeClaimTerminating", 30, "the deletion is reported, and the volume stays")
    with release.scaled_to_zero(kube):
        kube.patch("pvc", "data-lost-db-0", {"metadata": {"finalizers": None}})
        release.delete_as_operator(kube, "statefulset", "lost-db")
        eventually(lambda: not kube.find("statefulset", "lost-db"), 60, "the StatefulSet is gone")
        release.delete_as_operator(kube, "pod", "lost-db-0", "--grace-period=0", "--force")

    def lost() -> bool:
        assert degraded(kube) == "VolumeLost", degraded(kube)
        status = kube.get("intakeevent", "lost")["status"]
        assert status["queue"]["depth"] == QUEUED, "the last counts stay in status"
        return True

    eventually(lost, 120, "the loss is reported")
    assert_nothing_is_sold(kube)

    kube.kubectl("annotate", "intakeevent", "lost", f"{events.RECOVER_ANNOTATION}=lost")
    found = events.await_phase(kube, "lost", "Open", 120)
    recovery = found["status"]["recovery"]
    assert (recovery["committed"], recovery["voided"], recovery["unaccounted"]) == (COMMITTED, 0, QUEUED)
    kube.patch("intakeevent", "lost", {"spec": {"validation": None}})
    again = claim(kube, "early", COMMITTED)
    assert {a["outcome"] for a in again} == {"replayed"}
    assert {(a["user_id"], a["claim_id"], a["slot_no"]) for a in again} == {
        (a["user_id"], a["claim_id"], a["slot_no"]) for a in first
    }
    rest = claim(kube, "second", SEATS)
    assert sum(a["outcome"] == "claimed" for a in rest) == SEATS - COMMITTED
    assert {a["outcome"] for a in rest} == {"claimed", "sold_out"}

    events.close_now(kube, "lost")
    events.await_phase(kube, "lost", "Completed", 120)
    assert sold(kube) == SEATS
    report = kube.get("configmap", "lost-report")["data"]
    assert (report["verified"], report["committed"], report["unaccounted"]) == ("true", str(SEATS), str(QUEUED))
    assert report["countedAt"] == recovery["countedAt"]
    assert '"restore"' in report["audit"]


def claim(kube: Kube, prefix: str, users: int) -> list[dict[str, object]]:
    """Claim once for each of `users` users; return the answers."""
    callers = f"(SELECT array_agg('{prefix}-' || g) AS users FROM generate_series(1, {users}) g)"
    script = (
        "SELECT jsonb_build_object('user_id', a.users[c.n], 'outcome', c.outcome, 'claim_id', c.claim_id,"
        " 'slot_no', c.slot_no)"
        f" FROM {callers} a CROSS JOIN LATERAL intake.claim_batch('{POOL}', a.users, a.users) c"
    )
    return [json.loads(line) for line in sql.in_database(kube, "lost", script).splitlines()]


def configured(kube: Kube) -> str:
    """The generation of DB1's configuration; empty before it has the validator."""
    asked = f"SELECT generation FROM intake.engine_config WHERE pool_id = '{POOL}' AND validation IS NOT NULL"
    return sql.in_database(kube, "lost", asked)


def generation(kube: Kube) -> str:
    """The generation of the configuration that the bridge uses."""
    return sql.in_database(kube, "lost", "SELECT max(generation) FROM intake.workers")


def sold(kube: Kube) -> int:
    """How many slots of the pool are in the ledger. Its primary key refuses a slot a second time."""
    return int(sql.in_ledger(kube, f"SELECT slots FROM ledger_proof('{POOL}')"))


def degraded(kube: Kube) -> str:
    """The reason of Degraded."""
    return str(condition(kube.get("intakeevent", "lost"), "Degraded")["reason"])


def assert_nothing_is_sold(kube: Kube) -> None:
    """A claim fails: the empty DB1 has no pool, or not even the schema."""
    try:
        answered = claim(kube, "intruder", 1)
    except CommandError:
        return
    raise AssertionError(f"an empty DB1 answered a claim: {answered}")
