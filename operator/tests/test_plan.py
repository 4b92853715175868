"""What is done next, from the first pass over an event until its window closes."""

from datetime import datetime, timedelta
from typing import ClassVar

import given
import pytest
from given import CLOSES, DATABASE, OPENS, UNUSED, VOLUME_CLAIM, Given, pool_announced
from intake_operator import names
from intake_operator.decide.serve import WARM_UP
from intake_operator.decide.steps import (
    AddFinalizer,
    Configure,
    CreateCredentials,
    RemoveFinalizer,
    ReplaceDatabasePod,
    ScaleBridges,
    Seed,
    SetLogins,
    Stock,
)
from intake_operator.model.observed import InventoryState, Observed
from intake_operator.reasons import ConditionType, IntakeReason, Phase, Problem
from planning import SECOND, Decided

HOUR = timedelta(hours=1)


class TestProvisioning:
    def test_the_finalizer_comes_before_the_first_child(self) -> None:
        decided = given.new(finalizers=()).plan()
        assert decided.steps == (AddFinalizer(),)
        assert decided.status["phase"] == Phase.PENDING

    def test_everything_around_db1_is_created_before_db1(self) -> None:
        # The anchor first, and alone: a child without it would be deleted by a foreground deletion of the event.
        assert given.new().plan().kinds == ["NetworkPolicy"]
        decided = given.new().only_anchor().plan()
        assert [(s.secret, s.role) for s in decided.all(CreateCredentials)] == [
            ("taylor-drop-superuser", "postgres"),
            ("taylor-drop-app", "claimer"),
            ("taylor-drop-bridge", "bridge"),
        ]
        children = ["Service", "Service", "PodDisruptionBudget", "PersistentVolumeClaim", "StatefulSet"]
        assert decided.kinds[4:] == children

    def test_db1_is_marked_before_a_claim_can_be_acknowledged(self) -> None:
        unseeded = given.scheduled(status=pool_announced()).only_anchor().seen(pool=UNUSED)
        decided = unseeded.new_db1(reachable=True, identity="7251").plan()
        assert decided.status["database"] == {"systemIdentifier": "7251", "sellsFrom": OPENS.isoformat()}
        assert marked(decided) == ["PersistentVolumeClaim", "StatefulSet"]
        assert decided.kinds[-5:] == ["Migrate", "LimitClaimers", "SetLogins", "Configure", "Seed"]

    def test_a_seeded_db1_waits_for_its_window_without_bridges(self) -> None:
        decided = given.scheduled().plan()
        assert decided.status["phase"] == Phase.SCHEDULED
        assert not {"Deployment", "Migrate", "SetLogins", "Seed"} & set(decided.kinds)
        assert decided.condition(ConditionType.READY)["status"] == "True"
        assert decided.message(ConditionType.READY) == "DB1 is ready; the window opens at 2026-12-01T18:00:00+00:00"

    def test_the_next_pass_is_due_in_time_to_start_the_bridges(self) -> None:
        assert given.scheduled().at(OPENS - WARM_UP - 3 * SECOND).plan().requeue_after == 3 * SECOND
        assert ScaleBridges(1) in given.scheduled().at(OPENS - WARM_UP).plan().steps

    def test_a_new_secret_becomes_the_role_s_password(self) -> None:
        sale = given.selling()
        rotated = {**sale.observed.secret_fingerprints, "taylor-drop-app": "new"}
        assert SetLogins({"claimer": "taylor-drop-app"}) in sale.seen(secret_fingerprints=rotated).plan().steps

    def test_a_password_that_a_role_gave_itself_is_set_again(self) -> None:
        decided = given.selling().db1(logins={names.BRIDGE_ROLE: "b"}).plan()
        assert SetLogins({"claimer": "taylor-drop-app"}) in decided.steps

    @pytest.mark.parametrize("when", [-HOUR, timedelta(0), 3 * HOUR])
    def test_settings_that_a_role_gave_itself_are_reset_at_all_times(self, when: timedelta) -> None:
        sale = given.scheduled().at(OPENS + when)
        assert "SetLogins" not in sale.plan().kinds
        altered = sale.db1(altered_roles=("claimer", "monitor"))
        assert SetLogins({}, ("claimer", "monitor")) in altered.plan().steps

    def test_a_db1_that_lost_its_hot_row_is_seeded_again(self) -> None:
        decided = given.selling().says(ready=False).plan()
        assert Seed() in decided.steps
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.NOT_READY

    def test_a_larger_inventory_seeds_the_new_slots(self) -> None:
        assert Seed() in given.selling(spec={"inventorySize": 30_000}).plan().steps

    def test_i1_a_db1_that_came_back_empty_sells_nothing(self) -> None:
        decided = given.selling().db1(identity="9999", migrated=False, status=None).plan()
        assert not {"Migrate", "Configure", "Seed", "SetLogins"} & set(decided.kinds)
        assert decided.reason(ConditionType.DEGRADED) == Problem.VOLUME_LOST
        marks = {m["metadata"].get("annotations", {}).get(names.CLAIMABLE_ANNOTATION) for m in decided.applied()}
        assert marks == {None, "7251"}


class TestOwnInventory:
    WANTED: ClassVar = {"inventory": {"configMapRef": {"name": "seats"}}}
    UNSEEDED: ClassVar = {"size": 20_000, "available": 0, "held": 0, "withheld": 0, "reserved": 0, "consumed": 0}

    @staticmethod
    def configured(decided: Decided) -> int:
        """The inventory size that DB1 is configured for."""
        return int(decided.all(Configure)[0].config["inventorySize"])

    def test_rows_are_stocked_after_the_configuration_and_seeded_in_a_later_pass(self) -> None:
        fresh = given.scheduled(spec=self.WANTED).db1(stocked=0, status=None)
        first = fresh.seen(inventory=InventoryState(due=True)).plan()
        assert first.kinds[-2:] == ["Configure", "Stock"]
        assert [s.size for s in first.all(Stock)] == [20_000]
        second = fresh.db1(stocked=20_000).says(ready=False, inventory=self.UNSEEDED).plan()
        assert second.kinds[-2:] == ["Configure", "Seed"]

    def test_a_db1_that_waits_for_its_rows_is_not_claimable_and_can_be_removed(self) -> None:
        missing = InventoryState(Problem.INVENTORY_MISSING, "there is no such ConfigMap")
        waiting = given.selling(spec=self.WANTED).only_anchor().seen(inventory=missing)
        waiting = waiting.says(ready=False, inventory=self.UNSEEDED)
        decided = waiting.plan()
        assert marked(decided) == []
        assert not {"Seed", "Stock"} & set(decided.kinds)
        assert decided.reason(ConditionType.READY) == Problem.INVENTORY_MISSING

        made = {(m["kind"], m["metadata"]["name"]): m for m in decided.applied()}
        deleted = waiting.seen(children=made).after(decided).changed(deleted_at=OPENS)
        assert deleted.plan().kinds[0] == "Unguard"

    def test_a_larger_inventory_waits_for_its_rows_so_that_a_crash_in_between_can_be_repaired(self) -> None:
        short = InventoryState(Problem.INVENTORY_TOO_SMALL, "it has 20000 rows")
        sale = given.selling(spec={"inventorySize": 30_000, **self.WANTED}).db1(stocked=20_000)
        decided = sale.seen(inventory=short).plan()
        assert self.configured(decided) == 20_000
        assert not {"Seed", "Stock"} & set(decided.kinds)
        ready_to_grow = sale.seen(inventory=InventoryState(due=True))
        assert "Stock" in ready_to_grow.plan().kinds
        crashed = ready_to_grow.says(ready=False).plan()
        assert self.configured(crashed) == 20_000
        assert crashed.kinds[-1] == "Seed", "the rebuild does not wait for the new rows"
        assert "Stock" not in crashed.kinds

        grown = sale.seen(inventory=short).db1(stocked=30_000).plan()
        assert self.configured(grown) == 30_000
        assert Seed() in grown.steps

    def test_nothing_is_stocked_during_the_drain(self) -> None:
        decided = given.closed(spec=self.WANTED).db1(stocked=20_000).plan()
        assert not {"Seed", "Stock"} & set(decided.kinds)
        assert decided.status["phase"] == Phase.DRAINING


class TestServing:
    def test_the_live_configuration_is_set_on_every_pass(self) -> None:
        (configure,) = given.selling(spec={"batchSize": 25}).plan().all(Configure)
        assert configure.config["batchSize"] == 25
        assert "secretRef" not in str(configure)

    def test_bridges_scale_with_the_queue(self) -> None:
        decided = given.selling().says(queue={"depth": 6_001}).plan()
        assert ScaleBridges(4) in decided.steps
        assert decided.status["bridge"]["desired"] == 4

    @pytest.mark.parametrize(
        ("moment", "reason"),
        [
            (OPENS - SECOND, IntakeReason.NOT_YET_OPEN),
            (OPENS, IntakeReason.WINDOW_OPEN),
            (CLOSES - SECOND, IntakeReason.WINDOW_OPEN),
            (CLOSES, IntakeReason.WINDOW_CLOSED),
        ],
    )
    def test_the_intake_is_open_from_the_first_second_to_the_last(self, moment: datetime, reason: str) -> None:
        assert given.scheduled().at(moment).plan().reason(ConditionType.INTAKE_OPEN) == reason

    def test_a_pod_that_cannot_start_is_replaced_once_its_definition_changed(self) -> None:
        unready = {"conditions": [], "containerStatuses": []}
        assert replaced(given.selling().new_db1().outdated(status=unready))
        assert not replaced(given.selling().new_db1().outdated())

    def test_a_changed_definition_restarts_db1_only_while_the_window_is_far(self) -> None:
        sale = given.scheduled().outdated()
        assert replaced(sale.at(OPENS - HOUR))
        assert not replaced(sale.at(OPENS - timedelta(minutes=1)))
        assert not replaced(sale.at(OPENS))

    def test_a_window_may_reach_to_the_ends_of_the_calendar(self) -> None:
        # What Go writes for a time that was never set, and the last second that the API server accepts.
        window = {"opensAt": "0001-01-01T00:00:00Z", "closesAt": "9999-12-31T23:59:59Z"}
        decided = given.selling(spec={"window": window}).outdated().plan()
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.WINDOW_OPEN
        assert not decided.all(ReplaceDatabasePod)

    def test_a_volume_that_was_grown_by_hand_keeps_its_size(self) -> None:
        sale = given.selling()
        grown = sale.observed.children[VOLUME_CLAIM] | {"spec": {"resources": {"requests": {"storage": "20Gi"}}}}
        decided = sale.child(VOLUME_CLAIM, grown).plan()
        # The API server refuses to shrink a volume, and no later step would be done: no scaling, no drain.
        (claim,) = decided.applied("PersistentVolumeClaim")
        assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
        # The template of a StatefulSet cannot be changed.
        (database,) = decided.applied("StatefulSet")
        template = database["spec"]["volumeClaimTemplates"][0]
        assert template["spec"]["resources"]["requests"]["storage"] == "2Gi"

    def test_i2_an_ephemeral_db1_that_may_have_claims_is_never_replaced(self) -> None:
        # The operator was upgraded, a probe failed, a Secret is new; opensAt may be moved after sales.
        sale = given.scheduled(spec={"database": {"ephemeral": {}}}).outdated()
        unready = {"conditions": [], "containerStatuses": []}
        assert not replaced(sale)
        assert not replaced(sale.outdated(status=unready).new_db1().at(OPENS))
        assert not replaced(sale.new_db1(login_failed=True))
        database = sale.observed.children[DATABASE]
        unmarked = database | {"metadata": {**database["metadata"], "annotations": {}}}
        assert replaced(sale.child(DATABASE, unmarked).new_db1())


class TestInertAndInvalid:
    def test_a_completed_event_without_its_status_stays_completed(self) -> None:
        closed = {"type": "IntakeOpen", "status": "False", "reason": "WindowClosed"}
        status = {"conditions": [closed | {"lastTransitionTime": CLOSES.isoformat()}]}
        assert given.new(finalizers=(), status=status).at(CLOSES).plan().steps == ()

    def test_an_event_whose_window_has_passed_creates_nothing(self) -> None:
        decided = given.new(finalizers=()).at(CLOSES).plan()
        assert decided.steps == ()
        assert decided.requeue_after is None
        assert decided.status["phase"] == Phase.COMPLETED
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.WINDOW_PASSED

    def test_an_invalid_spec_changes_nothing_and_is_reported(self) -> None:
        decided = given.invalid().plan()
        assert decided.steps == ()
        assert decided.reason(ConditionType.DEGRADED) == Problem.SPEC_INVALID
        assert "spec.pool: bad" in decided.message(ConditionType.DEGRADED)

    def test_an_invalid_event_that_never_sold_can_be_deleted(self) -> None:
        assert given.invalid(deleted_at=OPENS).plan().steps == (RemoveFinalizer(),)

    def test_an_invalid_event_that_never_sold_can_be_deleted_after_a_pass(self) -> None:
        broken = given.invalid().seen(children=given.selling().unmarked().observed.children)
        first = broken.plan()
        assert first.reason(ConditionType.INTAKE_OPEN) == IntakeReason.NOT_READY
        deleted = broken.after(first).changed(deleted_at=OPENS)
        assert set(deleted.plan().kinds) == {"Unguard"}
        assert deleted.seen(children={}).plan().steps == (RemoveFinalizer(),)

    def test_i2_an_invalid_event_that_may_have_sold_is_not_removed(self) -> None:
        broken = given.invalid().seen(**vars(given.selling().observed))
        # Both annotations are gone: only the status remembers.
        deleted = broken.after(broken.plan()).changed(deleted_at=OPENS).seen(**vars(Observed()))
        assert deleted.plan().steps == ()


def marked(decided: Decided) -> list[str]:
    """The kinds of the applied objects that carry DB1's identity."""
    applied = decided.applied()
    return [m["kind"] for m in applied if names.CLAIMABLE_ANNOTATION in m["metadata"].get("annotations", {})]


def replaced(sale: Given) -> bool:
    """Whether DB1's pod is replaced."""
    return bool(sale.plan().all(ReplaceDatabasePod))
