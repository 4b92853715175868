"""What the status remembers: the DB1 that was sold from, the last counts, what a rebuilt DB1 has."""

from datetime import datetime, timedelta
from typing import Any

import given
import pytest
from given import OPENS, UNUSED, Given, make_status, pool_announced
from intake_operator import names
from intake_operator.decide import memory
from intake_operator.decide.steps import Recover, ScaleBridges
from intake_operator.model.observed import InventoryState, PoolCheck
from intake_operator.reasons import ConditionType, DrainReason, Phase, PoolReason, Problem

KNOWN = {"database": {"systemIdentifier": "7251"}}
ASKED = {names.RECOVER_ANNOTATION: "taylor-drop"}
MINUTE = timedelta(minutes=1)


def lost(sale: Given, **status: Any) -> Given:
    """The same event with a new, empty DB1; with a `status`, its schema is installed."""
    found = make_status(**status) if status else None
    return sale.new_db1(reachable=True, identity="9999", migrated=found is not None, status=found)


def recovering(**changes: Any) -> Given:
    """The same, and the annotation asks for a rebuild."""
    return lost(given.selling(status=KNOWN, annotations=ASKED, **changes), ready=False)


@pytest.mark.parametrize("forgotten", ["children", "status", "nothing"])
def test_i11_an_empty_db1_is_reported_whatever_else_was_lost(forgotten: str) -> None:
    """StatefulSet and volume claim were deleted by hand, or a restore dropped the status: the other remembers."""
    sale = lost(given.selling(status={} if forgotten == "status" else KNOWN)).seen(pool=UNUSED)
    decided = (sale.unmarked() if forgotten == "children" else sale).plan()
    assert decided.reason(ConditionType.DEGRADED) == Problem.VOLUME_LOST
    assert not {"Migrate", "Configure", "Seed"} & set(decided.kinds)
    assert decided.status["database"]["systemIdentifier"] == "7251"


def test_a_status_that_a_restore_has_dropped_gets_the_identity_back_and_no_opening() -> None:
    # The first opening is unknown: DB1 may have been given an earlier one.
    assert given.selling(status={}).plan().status["database"] == KNOWN["database"]


@pytest.mark.parametrize("deleted_at", [None, OPENS], ids=["stays", "deleted"])
@pytest.mark.parametrize("empty", [False, True], ids=["away", "empty"])
def test_counts_stay_with_their_time_while_db1_cannot_be_asked(deleted_at: datetime | None, empty: bool) -> None:
    first = given.selling().plan()
    assert first.status["countedAt"] == OPENS.isoformat()
    sale = given.selling(deleted_at=deleted_at).after(first).at(OPENS + timedelta(hours=1))
    later = (lost(sale) if empty else sale.new_db1(error="away")).plan().status
    kept = (*memory.COUNTS, "countedAt")
    assert [later[name] for name in kept] == [first.status[name] for name in kept]
    assert "claimsPerSecond" not in later


@pytest.mark.parametrize(("seconds", "written"), [(299, 0), (300, 300)])
def test_counts_that_do_not_change_are_written_every_five_minutes(seconds: int, written: int) -> None:
    sale = given.selling().after(given.selling().plan())
    later = sale.at(OPENS + timedelta(seconds=seconds)).plan().status
    assert later["countedAt"] == (OPENS + timedelta(seconds=written)).isoformat()


class TestPool:
    @staticmethod
    def unseeded(**changes: Any) -> Given:
        """DB1 has its schema, and no slots."""
        return given.selling(**changes).only_anchor().new_db1(reachable=True, identity="7251", migrated=True)

    @pytest.mark.parametrize("reason", list(PoolReason))
    def test_i1_slots_are_seeded_only_when_their_pool_may_be_sold(self, reason: PoolReason) -> None:
        status = pool_announced()
        status["conditions"][0]["reason"] = reason.value
        decided = self.unseeded(status=status).seen(pool=PoolCheck(reason, "so")).plan()
        may_be_sold = reason in {PoolReason.UNUSED, PoolReason.NOT_CHECKED}
        assert ("Seed" in decided.kinds) is may_be_sold
        assert ("database" in decided.status) is may_be_sold, "an event that waits can be removed"
        assert decided.reason(ConditionType.POOL_UNUSED) == reason
        blocked = decided.reason(ConditionType.DEGRADED) in {Problem.POOL_USED_BEFORE, Problem.POOL_IN_USE}
        assert blocked is (reason in {PoolReason.USED_BEFORE, PoolReason.IN_USE})

    def test_the_status_announces_it_before_the_first_slot_is_seeded(self) -> None:
        sale = self.unseeded().seen(pool=UNUSED)
        first = sale.plan()
        assert "Seed" not in first.kinds
        assert "Seed" in sale.after(first).plan().kinds

    def test_the_last_check_stands_once_claims_were_possible(self) -> None:
        decided = given.selling(status=pool_announced(KNOWN)).plan()
        assert decided.condition(ConditionType.POOL_UNUSED)["status"] == "True"


class TestRecovery:
    @pytest.mark.parametrize(
        ("annotations", "recovers"), [({}, False), ({names.RECOVER_ANNOTATION: "other"}, False), (ASKED, True)]
    )
    def test_only_the_annotation_rebuilds_an_empty_db1(self, annotations: dict[str, str], recovers: bool) -> None:
        decided = lost(given.selling(status=KNOWN, annotations=annotations), ready=False).plan()
        assert bool(decided.all(Recover)) is recovers
        assert "Seed" not in decided.kinds
        assert decided.reason(ConditionType.DEGRADED) == Problem.VOLUME_LOST

    def test_the_bridges_have_ended_before_the_ledger_is_read(self) -> None:
        running = recovering().bridges(2).with_pod("bridge").plan()
        assert ScaleBridges(0) in running.steps
        assert not {"Recover", "Configure"} & set(running.kinds)
        ending = recovering().bridges(0).with_pod("bridge").plan()
        assert not {"Recover", "ScaleBridges"} & set(ending.kinds), "a bridge that is ending may still commit"
        assert "Recover" in recovering().bridges(0).plan().kinds

    def test_inventory_rows_come_before_the_claims_that_refer_to_them(self) -> None:
        sale = recovering(spec={"inventory": {"configMapRef": {"name": "seats"}}})
        sale = sale.seen(inventory=InventoryState(due=True))
        assert sale.plan().kinds[-1] == "Stock"
        assert sale.db1(stocked=20_000).plan().kinds[-1] == "Recover"

    def test_a_webhook_ledger_cannot_be_recovered_from_and_the_condition_says_so(self) -> None:
        decided = recovering(spec={"commitTarget": {"webhook": {"url": "https://ledger/commit"}}}).plan()
        assert "Recover" not in decided.kinds
        assert "cannot be asked what it holds" in decided.message(ConditionType.DEGRADED)

    def test_a_rebuilt_db1_is_sold_from_and_the_missing_claims_are_counted(self) -> None:
        # 64 claims were in a place: 40 committed, 3 voided, 15 queued, 2 dead, 4 held; the ledger has 45 and 3. How
        # many slots they had does not matter, and those that were released or expired are in no ledger.
        queue = {"depth": 15, "deadLetters": 2}
        counts = {"held": 4, "committed": 40, "voided": 3, "released": 1, "expired": 6}
        counts |= {"inventory": {"held": 9, "reserved": 17, "consumed": 80}, "queue": queue}
        restored = {"at": (OPENS + 9 * MINUTE).isoformat(), "committed": 45, "voided": 3}
        sale = given.selling(status=KNOWN | counts | {"countedAt": OPENS.isoformat()}, annotations=ASKED)
        decided = lost(sale, ready=False, restored=restored).at(OPENS + 10 * MINUTE).plan()
        assert decided.kinds[-1] == "Seed"
        assert decided.status["database"]["systemIdentifier"] == "9999"
        assert decided.status["recovery"] == restored | {"unaccounted": 16, "countedAt": OPENS.isoformat()}
        # From then on it needs no annotation any more, and the number stays.
        ready = lost(given.selling().after(decided), restored=restored, committed=45).at(OPENS + 11 * MINUTE).plan()
        assert ready.status["phase"] == Phase.OPEN
        assert ready.status["recovery"]["unaccounted"] == 16

    def test_the_drain_of_a_lost_db1_waits_and_never_seals_an_empty_one(self) -> None:
        over = lost(given.closed(status=KNOWN, annotations=ASKED), ready=False, windowState="closed").plan()
        assert over.drained == DrainReason.INTAKE_CLOSED
        assert over.kinds[-1] == "Recover"
        sealed = lost(given.closed(status=KNOWN), sealed=True, windowState="closed")
        assert sealed.plan().drained == DrainReason.INTAKE_CLOSED
