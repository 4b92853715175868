"""Slots with the user's own ids and labels: they survive crashes, more can be added, and errors are reported."""

from typing import Any, Final
from uuid import UUID

import pytest
import yaml

from tests.e2e import events, services, sql
from tests.e2e.kube import REPOSITORY, Kube, await_rollout, eventually

EXAMPLE: Final = "examples/seated.yaml"
KILL: Final = ("--grace-period=0", "--force")


@pytest.fixture(scope="module")
def kube(shared_namespace: Kube) -> Kube:
    """A namespace that the tests of this module share, with a ledger, which may have a table of seats too."""
    services.start_ledger(shared_namespace)
    await_rollout(shared_namespace, "statefulset/core-ledger")
    return shared_namespace


def test_the_example_sells_seats_by_label_and_keeps_their_ids_after_a_crash_and_with_more_seats(kube: Kube) -> None:
    seats, event = yaml.safe_load_all((REPOSITORY / EXAMPLE).read_text())
    _, *lines = seats["data"]["seats.csv"].split()
    wanted = {label: resource_id for resource_id, label, *_ in (line.split(",") for line in lines)}
    small = events.event("chamber", events.window(opens_in=2, lasts=3600))["spec"]
    event["spec"] |= {name: small[name] for name in ("window", "bridge", "database")}
    kube.apply(seats, event)
    events.await_phase(kube, "chamber", "Open", 60)
    assert _slots(kube, "chamber") == list(wanted.items())[:8]

    assert _claim_seat(kube, "ann", "A-3") == f"claimed|{wanted['A-3']}|3"
    assert _claim_seat(kube, "bob", "A-3") == f"taken|{wanted['A-3']}|3"
    attributes = "SELECT attributes ->> 'section', attributes ->> 'price'"
    answer = sql.in_database(kube, "chamber", f"{attributes} FROM intake.claim_status('chamber-night-1', 'ann', 'r1')")
    assert answer == "front|90"
    first = sql.in_database(
        kube, "chamber", "SELECT resource_id FROM intake.claim_resource('chamber-night-1', 'bob', 'r')"
    )
    assert first in wanted.values()

    # When one of its processes is killed, Postgres restarts and empties the UNLOGGED tables.
    kube.delete("configmap", "chamber-seats")
    victim = sql.in_database(kube, "chamber", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    kube.execute("chamber-db-0", "sh", "-c", f"kill -9 {victim}")
    eventually(lambda: _slots(kube, "chamber") == list(wanted.items())[:8], 60, "the same slots can be claimed")
    pod = kube.get("pod", "chamber-db-0")["metadata"]["uid"]
    kube.delete("pod", "chamber-db-0", *KILL)
    eventually(lambda: kube.get("pod", "chamber-db-0")["metadata"]["uid"] != pod, 30, "DB1 has a new pod")
    eventually(lambda: _slots(kube, "chamber") == list(wanted.items())[:8], 60, "the same slots can be claimed")
    assert _claim_seat(kube, "ann", "A-3") == f"replayed|{wanted['A-3']}|3"
    assert _claim_seat(kube, "cy", wanted["A-3"]) == f"taken|{wanted['A-3']}|3"

    kube.apply(seats)
    kube.patch("intakeevent", "chamber", {"spec": {"inventorySize": 10}})
    eventually(lambda: _slots(kube, "chamber") == list(wanted.items()), 30, "the added slots can be claimed")
    assert _claim_seat(kube, "cy", "B-5") == f"claimed|{wanted['B-5']}|10"
    kube.delete("intakeevent", "chamber")
    eventually(lambda: kube.find("intakeevent", "chamber") is None, 90, "the event has drained and is gone")
    query = (
        "SELECT c.user_id, s.resource_id FROM ledger.claims c JOIN ledger.sold_slots s USING (claim_id)"
        " WHERE c.pool_id = 'chamber-night-1' ORDER BY 1"
    )
    assert sql.in_ledger(kube, query).splitlines() == [
        f"ann|{wanted['A-3']}",
        f"bob|{first}",
        f"cy|{wanted['B-5']}",
    ]


def test_an_error_in_a_config_map_is_reported_until_it_is_corrected(kube: Kube) -> None:
    source = {"configMapRef": {"name": "late", "key": "hall.csv"}}
    sale = events.window(opens_in=2, lasts=3600)
    kube.apply(events.event("late", sale, inventorySize=4, batchSize=4, inventory=source))
    rows = [f"{UUID(int=n)},{n}" for n in range(1, 7)]
    events.await_degraded(kube, "late", "InventoryMissing", "ConfigMap late, key hall.csv: there is no such ConfigMap")
    _config_map(kube, rows[:3])
    events.await_degraded(kube, "late", "InventoryTooSmall", "it has 3 rows, spec.inventorySize wants 4")
    _config_map(kube, [*rows[:3], "seat-4,4"])
    events.await_degraded(kube, "late", "InventoryInvalid", "line 5: 'seat-4' is not a UUID")
    _config_map(kube, rows[:4])
    events.await_phase(kube, "late", "Open", events.CONDITION_SECONDS)
    events.await_healed(kube, "late")

    # The row of a slot on sale is changed, and a slot is added after it.
    _config_map(kube, [rows[0], rows[5], *rows[2:5]])
    kube.patch("intakeevent", "late", {"spec": {"inventorySize": 5}})
    events.await_degraded(kube, "late", "InventoryChanged", "slot 2")
    assert [label for label, _ in _slots(kube, "late")] == ["1", "2", "3", "4"], (
        "the sale goes on with the former slots"
    )
    _config_map(kube, rows[:5])
    events.await_healed(kube, "late")
    eventually(lambda: len(_slots(kube, "late")) == 5, events.CONDITION_SECONDS, "the fifth slot can be claimed")
    _delete(kube, "late")


def test_seats_can_come_from_a_table_and_an_event_without_its_seats_can_be_deleted(kube: Kube) -> None:
    source = {"table": {"secretRef": {"name": "core-ledger"}, "name": "hall.seats"}}
    sale = events.window(opens_in=2, lasts=3600)
    kube.apply(events.event("tabled", sale, inventorySize=3, batchSize=3, inventory=source))
    never = {"table": {"secretRef": {"name": "core-ledger"}, "name": "hall.never_created"}}
    kube.apply(events.event("never", sale, inventorySize=3, batchSize=3, inventory=never))
    events.await_degraded(kube, "tabled", "InventoryMissing", 'relation "hall.seats" does not exist')
    sql.in_ledger(
        kube,
        """
        CREATE SCHEMA hall;
        CREATE TABLE hall.seats (resource_id uuid PRIMARY KEY, label text UNIQUE);
        INSERT INTO hall.seats SELECT gen_random_uuid(), label FROM unnest(ARRAY['C-1', 'A-1', 'B-1']) AS label;
        """,
    )
    events.await_degraded(kube, "tabled", "InventoryMissing", "permission denied")
    sql.in_ledger(kube, "GRANT USAGE ON SCHEMA hall TO ledger_writer; GRANT SELECT ON hall.seats TO ledger_writer;")
    events.await_phase(kube, "tabled", "Open", events.CONDITION_SECONDS)
    events.await_healed(kube, "tabled")
    theirs = sql.in_ledger(kube, "SELECT label, resource_id FROM hall.seats ORDER BY label").splitlines()
    assert [f"{label}|{resource_id}" for label, resource_id in _slots(kube, "tabled")] == theirs

    events.await_degraded(kube, "never", "InventoryMissing", "hall.never_created")
    _delete(kube, "never")
    _delete(kube, "tabled")


def _config_map(kube: Kube, rows: list[str]) -> None:
    data = {"hall.csv": "\n".join(["resource_id,label", *rows])}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": data})


def _claim_seat(kube: Kube, user: str, seat: str) -> str:
    claimed = f"intake.claim_seats('chamber-night-1', '{user}', ARRAY['{seat}'], 'r1')"
    return sql.in_database(kube, "chamber", f"SELECT outcome, resource_id, slot_no FROM {claimed}")


def _slots(kube: Kube, event: str) -> list[tuple[Any, ...]]:
    """Label and resource id of every slot that can be claimed, in the order of the slots."""
    query = """
        SELECT a.label, a.resource_id FROM intake.allocations a JOIN intake.pools p USING (pool_id)
        WHERE a.slot_no <= p.capacity ORDER BY a.slot_no
    """
    return [tuple(line.split("|")) for line in sql.in_database(kube, event, query).splitlines()]


def _delete(kube: Kube, name: str) -> None:
    kube.delete("intakeevent", name)
    eventually(lambda: kube.find("intakeevent", name) is None, 60, f"{name} is gone")
    assert events.leftovers(kube, name) == []
