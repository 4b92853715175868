"""An event whose window is far away: nothing runs, and it begins on time, once, and for good."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import given
import pytest
from given import CLOSES, DATABASE, OPENS, VOLUME_CLAIM, Given
from intake_operator import names
from intake_operator.children import access
from intake_operator.decide.steps import AddFinalizer, CreateCredentials, RemoveFinalizer
from intake_operator.decide.wait import WHILE_WAITING
from intake_operator.model.observed import ChildKey, Manifest, Observed
from intake_operator.reasons import ConditionType, DatabaseReason, IntakeReason, Phase
from planning import SECOND

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEKS_AHEAD = OPENS - 21 * DAY
RUNS = {"StatefulSet", "PersistentVolumeClaim", "PodDisruptionBudget", "Deployment", "ScaleBridges"}


def waiting(lead: int = 60, spec: dict[str, Any] | None = None, **changes: Any) -> Given:
    """An event three weeks before its window, after its first passes: anchor, Secrets and Services are there."""
    new = given.new(spec={"provisioning": {"leadTimeMinutes": lead}} | (spec or {}), **changes)
    new = new.changed(created_at=WEEKS_AHEAD).at(WEEKS_AHEAD)
    whole = given.make_observed(new.event)
    children = {key: child for key, child in whole.children.items() if key[0] in {"NetworkPolicy", "Secret", "Service"}}
    return new.seen(children=children, secret_fingerprints=whole.secret_fingerprints)


class TestWaiting:
    def test_the_finalizer_comes_first_then_the_anchor_then_all_that_a_shop_needs_and_nothing_that_runs(self) -> None:
        new = waiting().seen(**vars(Observed()))
        assert new.changed(finalizers=()).plan().steps == (AddFinalizer(),)
        assert new.plan().kinds == ["NetworkPolicy"]
        decided = new.only_anchor().plan()
        assert [step.secret for step in decided.all(CreateCredentials)] == [
            f"taylor-drop-{name}" for name in ("superuser", "app", "bridge")
        ]
        assert decided.kinds == ["NetworkPolicy", *3 * ["CreateCredentials"], "Service", "Service"]
        # No watch tells of the Secrets, and they have no owners yet.
        assert decided.requeue_after == SECOND

    def test_db1_is_not_made_before_its_time(self) -> None:
        for moment in (WEEKS_AHEAD, OPENS - HOUR - SECOND):
            assert not RUNS & set(waiting().at(moment).plan().kinds)
        assert {"StatefulSet", "PersistentVolumeClaim"} <= set(waiting().at(OPENS - HOUR).plan().kinds)

    def test_the_status_says_what_happens_next_and_the_shop_can_be_deployed(self) -> None:
        decided = waiting().plan()
        assert decided.status["phase"] == Phase.WAITING
        assert decided.status["nextTransitionTime"] == (OPENS - HOUR).isoformat()
        host = access.host(waiting().event)
        assert decided.status["connection"] == {"secretName": "taylor-drop-app", "host": host}
        assert decided.condition(ConditionType.READY)["status"] == "False"
        assert decided.reason(ConditionType.READY) == "Waiting"
        assert "DB1 is provisioned at 2026-12-01T17:00:00+00:00" in decided.message(ConditionType.READY)
        assert decided.reason(ConditionType.DATABASE_READY) == DatabaseReason.NOT_CREATED
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.NOT_YET_OPEN
        assert "provisioning" not in decided.status

    def test_a_waiting_event_costs_a_pass_every_few_minutes_and_is_on_time(self) -> None:
        assert waiting().plan().requeue_after == WHILE_WAITING
        assert waiting().at(OPENS - HOUR - 3 * SECOND).plan().requeue_after == 3 * SECOND

    @pytest.mark.parametrize(("lead", "waits"), [(0, True), (59, True), (60, False), (10_080, False)])
    def test_the_lead_time_may_be_edited_at_any_time(self, lead: int, waits: bool) -> None:
        assert (waiting(lead).at(OPENS - HOUR).plan().status["phase"] == Phase.WAITING) is waits

    def test_a_window_may_reach_to_the_ends_of_the_calendar(self) -> None:
        window = {"opensAt": "0001-01-01T00:00:00Z", "closesAt": "9999-12-31T23:59:59Z"}
        new = given.new(spec={"window": window, "provisioning": {"leadTimeMinutes": 10_080}})
        assert new.plan().status["provisioning"]["beganAt"] == (OPENS - HOUR).isoformat()
        window = {"opensAt": "9999-12-31T23:59:58Z", "closesAt": "9999-12-31T23:59:59Z"}
        assert given.new(spec={"window": window}).plan().status["phase"] == Phase.WAITING


class TestBegun:
    """What has begun is not undone: see `stage.begun`."""

    @pytest.mark.parametrize(
        "sale",
        [
            given.scheduled,
            lambda: given.scheduled().unmarked(),
            lambda: waiting().child(VOLUME_CLAIM, given.scheduled().unmarked().observed.children[VOLUME_CLAIM]),
            lambda: waiting().child(DATABASE, given.scheduled().unmarked().observed.children[DATABASE]),
            lambda: waiting().with_pod("database"),
            lambda: waiting(status={"database": {"systemIdentifier": "7251"}}),
        ],
        ids=["seeded", "not seeded", "a volume claim", "a StatefulSet", "only a pod", "only the status knows"],
    )
    def test_i11_a_window_that_moves_away_takes_no_db1_away(self, sale: Callable[[], Given]) -> None:
        moved = sale().at(WEEKS_AHEAD).plan()
        assert moved.status["phase"] != Phase.WAITING
        assert {"StatefulSet", "PersistentVolumeClaim"} <= set(moved.kinds)
        assert not {"Delete", "StopDatabase"} & set(moved.kinds)

    def test_an_event_of_which_nothing_runs_yet_waits_again(self) -> None:
        begins = waiting().at(OPENS - HOUR)
        begins = begins.after(begins.plan())
        assert "provisioning" in begins.event.status
        again = begins.at(WEEKS_AHEAD).plan()
        assert again.status["phase"] == Phase.WAITING
        assert "provisioning" not in again.status


class TestLate:
    def late(self, sale: Given) -> str:
        """What DatabaseReady says at the end; it is the same in Ready."""
        decided = sale.plan()
        _, _, said = decided.message(ConditionType.DATABASE_READY).partition("; provisioning began ")
        assert said in decided.message(ConditionType.READY)
        return said

    def test_an_event_that_is_applied_inside_its_lead_time_starts_at_once(self) -> None:
        new = given.new(finalizers=()).changed(created_at=OPENS - MINUTE).at(OPENS - MINUTE)
        assert not self.late(new)
        assert new.plan().status["provisioning"] == {
            "dueAt": (OPENS - MINUTE).isoformat(),
            "beganAt": (OPENS - MINUTE).isoformat(),
        }

    def test_an_operator_that_was_down_catches_up_and_says_how_late_it_is(self) -> None:
        seen = waiting().after(waiting().plan()).at(OPENS - 35 * MINUTE)
        assert "StatefulSet" in seen.plan().kinds
        expected = (
            "25 minutes late, at 2026-12-01T17:25:00+00:00 instead of 2026-12-01T17:00:00+00:00, because no pass "
        )
        assert self.late(seen).startswith(expected)
        # It still says so when DB1 starts, and DatabaseReady when it is there.
        later = seen.after(seen.plan()).at(OPENS - 30 * MINUTE)
        provisioned = later.seen(**vars(given.scheduled().observed))
        assert self.late(provisioned.new_db1()).startswith(expected)
        assert expected in provisioned.plan().message(ConditionType.DATABASE_READY)

    def test_one_that_was_down_since_the_event_was_applied_counts_from_there(self) -> None:
        new = given.new(finalizers=()).changed(created_at=OPENS - 40 * MINUTE).at(OPENS - 10 * MINUTE)
        assert self.late(new).startswith("30 minutes late")

    @pytest.mark.parametrize("late", [timedelta(0), MINUTE])
    def test_a_pass_that_comes_in_time_is_not_late(self, late: timedelta) -> None:
        assert not self.late(waiting().after(waiting().plan()).at(OPENS - HOUR + late))

    def test_an_edit_that_brings_the_window_near_is_not_late(self) -> None:
        seen = waiting().after(waiting().plan()).changed(generation=2).at(OPENS - MINUTE)
        assert not self.late(seen)

    def test_an_event_whose_status_was_lost_on_the_way_tells_no_time(self) -> None:
        sale = given.scheduled().new_db1()
        assert "provisioning" not in sale.plan().status
        assert not self.late(sale)


class TestEndsWithoutASale:
    def test_an_event_that_is_deleted_while_it_waits_leaves_nothing(self) -> None:
        deleted = waiting().changed(deleted_at=WEEKS_AHEAD)
        unguarded = deleted.seen(children=_without_guard(deleted))
        assert {"Delete"} == set(unguarded.plan().kinds)
        services = {k: c for k, c in unguarded.observed.children.items() if k[0] == "NetworkPolicy"}
        last = unguarded.seen(children=services, secret_fingerprints={}).plan()
        assert last.kinds == ["Unguard", "Delete"]
        gone = unguarded.seen(**vars(Observed())).plan()
        assert gone.steps == (RemoveFinalizer(),)
        assert gone.reason(ConditionType.INTAKE_OPEN) == IntakeReason.NEVER_OPENED

    def test_a_window_that_passes_while_no_operator_runs_never_opened(self) -> None:
        over = waiting().at(CLOSES)
        over = over.seen(children=_without_guard(over))
        decided = over.plan()
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.NEVER_OPENED
        assert set(decided.kinds) == {"Delete"}
        gone = over.seen(**vars(Observed()))
        assert gone.plan().steps == (RemoveFinalizer(),)
        # Without its finalizer it is inert, and Git may apply it for ever.
        inert = gone.changed(finalizers=()).plan()
        assert (inert.steps, inert.requeue_after) == ((), None)
        assert inert.reason(ConditionType.INTAKE_OPEN) == IntakeReason.WINDOW_PASSED

    def test_an_event_that_waits_is_not_in_the_way_of_its_namespace(self) -> None:
        going = waiting().changed(namespace_deleted_at=datetime(2026, 11, 11, tzinfo=UTC))
        assert going.seen(**vars(Observed())).plan().steps == (RemoveFinalizer(),)


def _without_guard(sale: Given) -> dict[ChildKey, Manifest]:
    """The children after the first pass of the removal."""
    return {
        key: {**child, "metadata": {**child["metadata"], "labels": _unguarded(child["metadata"]["labels"])}}
        for key, child in sale.observed.children.items()
    }


def _unguarded(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != names.GUARD_LABEL}
