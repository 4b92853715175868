"""What is done next, from the first look at an event until its window closes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from given import UNUSED, only_anchor, pool_told, unmarked
from intake_operator import names
from intake_operator.children.bridge import Installation
from intake_operator.decide.plan import plan
from intake_operator.decide.serve import WARM_UP
from intake_operator.decide.steps import (
    AddFinalizer,
    Apply,
    Configure,
    CreateCredentials,
    Plan,
    RemoveFinalizer,
    ReplaceDatabasePod,
    ScaleBridges,
    Seed,
    SetLogins,
    Stock,
)
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, InventoryState, Manifest, Observed
from intake_operator.reasons import ConditionType, IntakeReason, Phase, Problem
from planning import SECOND, condition, kinds, with_status

type Make[T] = Callable[..., T]


class TestProvisioning:
    def test_the_finalizer_comes_before_the_first_child(
        self, event: Make[Event], installation: Installation, opens: datetime
    ) -> None:
        decided = plan(event(finalizers=()), Observed(), installation, opens - timedelta(hours=1))
        assert decided.steps == (AddFinalizer(),)
        assert decided.status["phase"] == Phase.PENDING

    def test_first_everything_around_db1_then_db1(
        self, event: Make[Event], installation: Installation, opens: datetime
    ) -> None:
        # The anchor first, and alone: a child without it would go with a foreground deletion of the event.
        assert kinds(plan(event(), Observed(), installation, opens - timedelta(hours=1))) == ["NetworkPolicy"]
        anchored = Observed(children=only_anchor(event()))
        decided = plan(event(), anchored, installation, opens - timedelta(hours=1))
        made = [s for s in decided.steps if isinstance(s, CreateCredentials)]
        assert [(s.secret, s.role) for s in made] == [
            ("taylor-drop-superuser", "postgres"),
            ("taylor-drop-app", "claimer"),
            ("taylor-drop-bridge", "bridge"),
        ]
        assert kinds(decided)[4:] == [
            "Service",
            "Service",
            "PodDisruptionBudget",
            "PersistentVolumeClaim",
            "StatefulSet",
        ]

    def test_db1_is_marked_before_a_claim_can_be_acknowledged(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(status=pool_told())
        fresh = observed(
            e, children=only_anchor(e), database=DatabaseState(reachable=True, identity="7251"), pool=UNUSED
        )
        decided = plan(e, fresh, installation, opens - timedelta(hours=1))
        assert decided.status["database"] == {"systemIdentifier": "7251", "sellsFrom": opens.isoformat()}
        applied = [s.manifest for s in decided.steps if isinstance(s, Apply)]
        marked = [m["kind"] for m in applied if names.CLAIMABLE_ANNOTATION in m["metadata"].get("annotations", {})]
        assert marked == ["PersistentVolumeClaim", "StatefulSet"]
        assert kinds(decided)[-5:] == ["Migrate", "KeepRoom", "SetLogins", "Configure", "Seed"]

    def test_a_seeded_engine_waits_for_its_window_without_bridges(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        decided = plan(e, observed(e), installation, opens - timedelta(hours=1))
        assert decided.status["phase"] == Phase.SCHEDULED
        assert "Deployment" not in kinds(decided)
        assert not {"Migrate", "SetLogins", "Seed"} & set(kinds(decided))
        assert condition(decided, ConditionType.READY)["status"] == "True"

    def test_it_wakes_in_time_to_warm_up(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        assert plan(e, observed(e), installation, opens - WARM_UP - 3 * SECOND).requeue_after == 3.0
        warm = plan(e, observed(e), installation, opens - WARM_UP)
        assert ScaleBridges(1) in warm.steps

    def test_a_secret_made_anew_becomes_the_role_s_password(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        seen = observed(e)
        rotated = replace(seen, secret_fingerprints={**seen.secret_fingerprints, "taylor-drop-app": "new"})
        steps = plan(e, rotated, installation, opens).steps
        assert SetLogins({"claimer": "taylor-drop-app"}) in steps

    def test_a_password_that_a_role_gave_itself_is_set_again(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        seen = observed(e)
        changed = replace(seen, database=replace(seen.database, logins={names.BRIDGE_ROLE: "b"}))
        assert SetLogins({"claimer": "taylor-drop-app"}) in plan(e, changed, installation, opens).steps

    @pytest.mark.parametrize("when", [-timedelta(hours=1), timedelta(0), timedelta(hours=3)])
    def test_settings_that_a_role_gave_itself_are_taken_back_at_all_times(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime, when: timedelta
    ) -> None:
        e = event()
        seen = observed(e)
        assert "SetLogins" not in kinds(plan(e, seen, installation, opens + when))
        altered = replace(seen, database=replace(seen.database, altered_roles=("claimer", "monitor")))
        assert SetLogins({}, ("claimer", "monitor")) in plan(e, altered, installation, opens + when).steps

    def test_an_engine_that_lost_its_hot_row_is_seeded_again(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event()
        crashed = with_status(observed(e), engine_status(ready=False))
        decided = plan(e, crashed, installation, opens)
        assert Seed() in decided.steps
        assert condition(decided, ConditionType.INTAKE_OPEN)["reason"] == IntakeReason.NOT_READY

    def test_growing_the_inventory_seeds_the_new_slots(
        self, event: Make[Event], spec: Make[Any], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(spec=spec(inventorySize=30_000))
        assert Seed() in plan(e, observed(e), installation, opens).steps

    def test_i1_a_db1_that_came_back_empty_sells_nothing(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        seen = observed(e)
        lost = replace(seen, database=replace(seen.database, identity="9999", migrated=False, status=None))
        decided = plan(e, lost, installation, opens)
        assert not {"Migrate", "Configure", "Seed", "SetLogins"} & set(kinds(decided))
        assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.VOLUME_LOST
        applied = [s.manifest for s in decided.steps if isinstance(s, Apply)]
        marks = {m["metadata"].get("annotations", {}).get(names.CLAIMABLE_ANNOTATION) for m in applied}
        assert marks == {None, "7251"}


class TestOwnInventory:
    WANTED: ClassVar = {"inventory": {"configMapRef": {"name": "seats"}}}

    @staticmethod
    def stocked(observed: Observed, rows: int, status: EngineStatus | None) -> Observed:
        """DB1 has so many of the user's rows."""
        return replace(observed, database=replace(observed.database, stocked=rows, status=status))

    @staticmethod
    def configured(decided: Plan) -> int:
        """The inventory that DB1 is told."""
        return int(next(s.config["inventorySize"] for s in decided.steps if isinstance(s, Configure)))

    def test_rows_are_stocked_after_configuring_and_seeded_once_they_are_seen_to_be_there(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event(spec=spec(**self.WANTED))
        fresh = replace(self.stocked(observed(e), 0, None), inventory=InventoryState(due=True))
        first = plan(e, fresh, installation, opens - timedelta(hours=1))
        assert kinds(first)[-2:] == ["Configure", "Stock"]
        assert [s.size for s in first.steps if isinstance(s, Stock)] == [20_000]
        unseeded = engine_status(ready=False, inventory={"size": 20_000, "available": 0, "reserved": 0, "consumed": 0})
        second = plan(e, self.stocked(observed(e), 20_000, unseeded), installation, opens - timedelta(hours=1))
        assert kinds(second)[-2:] == ["Configure", "Seed"]

    def test_an_engine_that_waits_for_its_rows_is_not_claimable_and_can_be_let_go(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        unseeded = engine_status(ready=False, inventory={"size": 20_000, "available": 0, "reserved": 0, "consumed": 0})
        missing = InventoryState(Problem.INVENTORY_MISSING, "there is no such ConfigMap")
        e = event(spec=spec(**self.WANTED))
        waiting = replace(self.stocked(observed(e), 0, unseeded), children=only_anchor(e), inventory=missing)
        decided = plan(e, waiting, installation, opens)
        applied = [s.manifest for s in decided.steps if isinstance(s, Apply)]
        assert not [m for m in applied if names.CLAIMABLE_ANNOTATION in m["metadata"].get("annotations", {})]
        assert not {"Seed", "Stock"} & set(kinds(decided))
        assert condition(decided, ConditionType.READY)["reason"] == Problem.INVENTORY_MISSING

        made = {(m["kind"], m["metadata"]["name"]): m for m in applied}
        deleted = event(spec=spec(**self.WANTED), deleted_at=opens, status=decided.status)
        assert kinds(plan(deleted, replace(waiting, children=made), installation, opens))[0] == "Unguard"

    def test_growth_waits_for_its_rows_so_that_a_crash_meanwhile_can_be_repaired(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event(spec=spec(inventorySize=30_000, **self.WANTED))
        short = InventoryState(Problem.INVENTORY_TOO_SMALL, "it has 20000 rows")
        selling = replace(self.stocked(observed(e), 20_000, engine_status()), inventory=short)
        decided = plan(e, selling, installation, opens)
        assert self.configured(decided) == 20_000
        assert not {"Seed", "Stock"} & set(kinds(decided))
        ready_to_grow = replace(selling, inventory=InventoryState(due=True))
        assert "Stock" in kinds(plan(e, ready_to_grow, installation, opens))
        crashed = plan(e, self.stocked(ready_to_grow, 20_000, engine_status(ready=False)), installation, opens)
        assert self.configured(crashed) == 20_000
        assert kinds(crashed)[-1] == "Seed", "the rebuild does not wait for the growth"
        assert "Stock" not in kinds(crashed)

        grown = plan(e, self.stocked(selling, 30_000, engine_status()), installation, opens)
        assert self.configured(grown) == 30_000
        assert Seed() in grown.steps

    def test_nothing_is_stocked_while_it_drains(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = event(spec=spec(**self.WANTED))
        draining = self.stocked(observed(e), 20_000, observed(e).database.status)
        decided = plan(e, draining, installation, closes)
        assert not {"Seed", "Stock"} & set(kinds(decided))
        assert decided.status["phase"] == Phase.DRAINING


class TestServing:
    def test_the_live_configuration_is_pushed_on_every_pass(
        self, event: Make[Event], spec: Make[Any], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(spec=spec(batchSize=25))
        pushed = [s for s in plan(e, observed(e), installation, opens).steps if isinstance(s, Configure)]
        assert [s.config["batchSize"] for s in pushed] == [25]
        assert "secretRef" not in str(pushed)

    def test_bridges_scale_with_the_queue(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event()
        queue = {"depth": 6_001, "inFlight": 0, "oldestSeconds": 1, "deadLetters": 0}
        busy = with_status(observed(e), engine_status(queue=queue))
        decided = plan(e, busy, installation, opens)
        assert ScaleBridges(4) in decided.steps
        assert decided.status["bridge"]["desired"] == 4

    def test_open_from_the_first_second_to_the_last(
        self,
        event: Make[Event],
        observed: Make[Observed],
        installation: Installation,
        opens: datetime,
        closes: datetime,
    ) -> None:
        e = event()
        for moment, reason in (
            (opens - SECOND, IntakeReason.NOT_YET_OPEN),
            (opens, IntakeReason.WINDOW_OPEN),
            (closes - SECOND, IntakeReason.WINDOW_OPEN),
            (closes, IntakeReason.WINDOW_CLOSED),
        ):
            assert condition(plan(e, observed(e), installation, moment), ConditionType.INTAKE_OPEN)["reason"] == reason

    def test_a_pod_that_cannot_start_is_replaced_once_its_definition_changed(
        self,
        event: Make[Event],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event()
        seen = observed(e)
        broken = pod(e, "database", status={"conditions": [], "containerStatuses": []})
        broken["metadata"]["labels"]["controller-revision-hash"] = "old"
        key = ("StatefulSet", "taylor-drop-db")
        moved = {**seen.children[key], "status": {"updateRevision": "new"}}
        stuck = replace(seen, pods=(broken,), database=DatabaseState(), children={**seen.children, key: moved})
        assert any(isinstance(s, ReplaceDatabasePod) for s in plan(e, stuck, installation, opens).steps)
        healthy = pod(e, "database")
        healthy["metadata"]["labels"]["controller-revision-hash"] = "old"
        assert not any(
            isinstance(s, ReplaceDatabasePod)
            for s in plan(e, replace(stuck, pods=(healthy,)), installation, opens).steps
        )

    def test_a_changed_definition_restarts_db1_only_while_the_window_is_far(
        self,
        event: Make[Event],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event()
        seen = observed(e)
        old = pod(e, "database")
        old["metadata"]["labels"]["controller-revision-hash"] = "old"
        key = ("StatefulSet", "taylor-drop-db")
        moved = replace(
            seen,
            pods=(old,),
            children={**seen.children, key: {**seen.children[key], "status": {"updateRevision": "new"}}},
        )

        def restarted(moment: datetime) -> bool:
            return any(isinstance(s, ReplaceDatabasePod) for s in plan(e, moved, installation, moment).steps)

        assert restarted(opens - timedelta(hours=1))
        assert not restarted(opens - timedelta(minutes=1))
        assert not restarted(opens)

    def test_a_window_may_reach_to_the_ends_of_the_calendar(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        opens: datetime,
    ) -> None:
        # What Go writes for a time that was never set, and the last second that the API server takes.
        e = event(spec=spec(window={"opensAt": "0001-01-01T00:00:00Z", "closesAt": "9999-12-31T23:59:59Z"}))
        old = pod(e, "database")
        old["metadata"]["labels"]["controller-revision-hash"] = "old"
        seen = observed(e, pods=(old,))
        key = ("StatefulSet", "taylor-drop-db")
        moved = {**seen.children, key: {**seen.children[key], "status": {"updateRevision": "new"}}}
        decided = plan(e, replace(seen, children=moved), installation, opens)
        assert condition(decided, ConditionType.INTAKE_OPEN)["reason"] == IntakeReason.WINDOW_OPEN
        assert not any(isinstance(s, ReplaceDatabasePod) for s in decided.steps)

    def test_a_volume_that_somebody_has_grown_keeps_its_size(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        seen = observed(e)
        key = ("PersistentVolumeClaim", "data-taylor-drop-db-0")
        grown = {**seen.children[key], "spec": {"resources": {"requests": {"storage": "20Gi"}}}}
        decided = plan(e, replace(seen, children={**seen.children, key: grown}), installation, opens)
        sent = {s.manifest["kind"]: s.manifest.get("spec") for s in decided.steps if isinstance(s, Apply)}
        # The API server refuses to shrink a volume, and nothing after that step would be done: no scaling, no drain.
        assert sent["PersistentVolumeClaim"]["resources"]["requests"]["storage"] == "20Gi"
        # That one cannot be changed at all.
        assert sent["StatefulSet"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"

    def test_i2_an_ephemeral_db1_that_may_hold_claims_is_never_replaced(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event(spec=spec(database={"ephemeral": {}}))
        seen = observed(e)
        old = pod(e, "database")
        old["metadata"]["labels"]["controller-revision-hash"] = "old"
        unready = {**old, "status": {"conditions": [], "containerStatuses": []}}
        key = ("StatefulSet", "taylor-drop-db")
        moved = {**seen.children, key: {**seen.children[key], "status": {"updateRevision": "new"}}}
        marked = replace(seen, pods=(old,), children=moved)
        unmarked = {**moved[key], "metadata": {**moved[key]["metadata"], "annotations": {}}}

        def replaced(seen: Observed, moment: datetime) -> bool:
            return any(isinstance(s, ReplaceDatabasePod) for s in plan(e, seen, installation, moment).steps)

        # An upgraded operator, a probe that failed, a Secret made anew; opensAt may be moved after sales.
        assert not replaced(marked, opens - timedelta(hours=1))
        assert not replaced(replace(marked, pods=(unready,), database=DatabaseState()), opens)
        assert not replaced(replace(marked, database=DatabaseState(login_failed=True)), opens)
        fresh = replace(marked, database=DatabaseState(), children={**moved, key: unmarked})
        assert replaced(fresh, opens - timedelta(hours=1))


class TestInertAndInvalid:
    def test_a_completed_event_whose_report_was_deleted_stays_over(
        self, event: Make[Event], installation: Installation, closes: datetime
    ) -> None:
        told = {"conditions": [{"type": "IntakeOpen", "status": "False", "reason": "WindowClosed"}]}
        told["conditions"][0]["lastTransitionTime"] = closes.isoformat()
        decided = plan(event(finalizers=(), status=told), Observed(), installation, closes)
        assert decided.steps == ()

    def test_an_event_whose_window_has_passed_creates_nothing(
        self, event: Make[Event], installation: Installation, closes: datetime
    ) -> None:
        decided = plan(event(finalizers=()), Observed(), installation, closes)
        assert decided.steps == ()
        assert decided.requeue_after is None
        assert decided.status["phase"] == Phase.COMPLETED
        assert condition(decided, ConditionType.INTAKE_OPEN)["reason"] == IntakeReason.WINDOW_PASSED

    def test_a_spec_that_makes_no_sense_touches_nothing_and_says_so(
        self, event: Make[Event], installation: Installation, opens: datetime
    ) -> None:
        decided = plan(event(spec=None, spec_error="spec.pool: bad"), Observed(), installation, opens)
        assert decided.steps == ()
        degraded = condition(decided, ConditionType.DEGRADED)
        assert (degraded["reason"], "spec.pool: bad" in degraded["message"]) == (Problem.SPEC_INVALID, True)

    def test_a_broken_event_that_never_sold_anything_can_be_deleted(
        self, event: Make[Event], installation: Installation, opens: datetime
    ) -> None:
        broken = event(spec=None, spec_error="spec.pool: bad", deleted_at=opens)
        assert plan(broken, Observed(), installation, opens).steps == (RemoveFinalizer(),)

    def test_a_broken_event_that_never_sold_anything_can_be_deleted_after_it_was_looked_at(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        broken = event(spec=None, spec_error="spec.pool: bad")
        seen = Observed(children=unmarked(observed(event()).children))
        told = plan(broken, seen, installation, opens).status  # what one pass says, the next one reads
        assert (
            condition(plan(broken, seen, installation, opens), ConditionType.INTAKE_OPEN)["reason"]
            == IntakeReason.NOT_READY
        )
        deleted = replace(broken, status=told, deleted_at=opens)
        assert set(kinds(plan(deleted, seen, installation, opens))) == {"Unguard"}
        assert plan(deleted, Observed(), installation, opens).steps == (RemoveFinalizer(),)

    def test_i2_a_broken_event_that_may_have_sold_something_is_not_let_go(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        broken = event(spec=None, spec_error="spec.pool: bad")
        told = plan(broken, observed(event()), installation, opens).status
        deleted = replace(broken, status=told, deleted_at=opens)
        # Both marks gone: the status alone remembers.
        assert plan(deleted, Observed(), installation, opens).steps == ()
