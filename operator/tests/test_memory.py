"""What the status remembers: the DB1 that was sold from, the last counts, what a rebuilt DB1 has."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from given import UNUSED, only_anchor, pool_told, unmarked
from intake_operator import names
from intake_operator.children.bridge import Installation
from intake_operator.decide import memory
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import Recover, ScaleBridges
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, InventoryState, Manifest, Observed, PoolCheck
from intake_operator.reasons import ConditionType, DrainReason, Phase, PoolReason, Problem
from planning import condition, drained, kinds, with_status

type Make[T] = Callable[..., T]

KNOWN = {"database": {"systemIdentifier": "7251"}}
ASKED = {names.RECOVER_ANNOTATION: "taylor-drop"}


def empty(seen: Observed, status: EngineStatus | None = None) -> Observed:
    """The same event with a new, empty DB1."""
    database = DatabaseState(reachable=True, identity="9999", migrated=status is not None, status=status, logins={})
    return replace(seen, database=database)


@pytest.mark.parametrize("lost", ["children", "status", "nothing"])
def test_i11_an_empty_db1_is_told_whatever_else_was_lost(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime, lost: str
) -> None:
    """StatefulSet and volume claim deleted by hand, or the status dropped by a restore: the other remembers."""
    e = event(status={} if lost == "status" else KNOWN)
    seen = empty(observed(e))
    if lost == "children":
        seen = replace(seen, children=unmarked(seen.children))
    decided = plan(e, replace(seen, pool=UNUSED), installation, opens)
    assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.VOLUME_LOST
    assert not {"Migrate", "Configure", "Seed"} & set(kinds(decided))
    assert decided.status["database"]["systemIdentifier"] == "7251"


def test_the_status_gets_the_identity_back_that_a_restore_has_dropped_and_no_opening(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
) -> None:
    e = event(status={})
    # The first opening is not known any more: DB1 may have been given an earlier one.
    assert plan(e, observed(e), installation, opens).status["database"] == KNOWN["database"]


@pytest.mark.parametrize("deleted", [False, True])
def test_counts_stay_with_their_time_while_db1_cannot_be_asked(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime, deleted: bool
) -> None:
    e = event()
    first = plan(e, observed(e), installation, opens).status
    assert first["countedAt"] == opens.isoformat()
    for seen in (observed(e, database=DatabaseState(error="away")), empty(observed(e))):
        e = event(status=first, deleted_at=opens if deleted else None)
        later = plan(e, seen, installation, opens + timedelta(hours=1)).status
        assert [later[name] for name in (*memory.COUNTS, "countedAt")] == [
            first[name] for name in (*memory.COUNTS, "countedAt")
        ]
        assert "claimsPerSecond" not in later


def test_counts_that_do_not_change_are_not_written_with_every_pass(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
) -> None:
    first = plan(event(), observed(event()), installation, opens).status
    e = event(status=first)
    for seconds, at in ((59, opens), (60, opens + timedelta(seconds=60))):
        told = plan(e, observed(e), installation, opens + timedelta(seconds=seconds)).status
        assert told["countedAt"] == at.isoformat()


class TestPool:
    @pytest.mark.parametrize("reason", list(PoolReason))
    def test_i1_slots_are_seeded_only_when_their_pool_may_be_sold(
        self,
        event: Make[Event],
        observed: Make[Observed],
        installation: Installation,
        opens: datetime,
        reason: PoolReason,
    ) -> None:
        told = pool_told()
        told["conditions"][0]["reason"] = reason.value
        e = event(status=told)
        seen = observed(
            e, children=only_anchor(e), database=DatabaseState(reachable=True, identity="7251", migrated=True)
        )
        decided = plan(e, replace(seen, pool=PoolCheck(reason, "so")), installation, opens)
        may = reason in {PoolReason.UNUSED, PoolReason.NOT_CHECKED}
        assert ("Seed" in kinds(decided)) is may
        assert ("database" in decided.status) is may, "an event that waits can be let go"
        assert condition(decided, ConditionType.POOL_UNUSED)["reason"] == reason
        blocked = condition(decided, ConditionType.DEGRADED)["reason"] in {"PoolUsedBefore", "PoolInUse"}
        assert blocked is (reason in {PoolReason.USED_BEFORE, PoolReason.IN_USE})

    def test_the_status_tells_it_before_the_first_slot_is_seeded(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event()
        seen = observed(
            e, children=only_anchor(e), database=DatabaseState(reachable=True, identity="7251", migrated=True)
        )
        first = plan(e, replace(seen, pool=UNUSED), installation, opens)
        assert "Seed" not in kinds(first)
        second = plan(replace(e, status=first.status), replace(seen, pool=UNUSED), installation, opens)
        assert "Seed" in kinds(second)

    def test_what_was_told_stands_once_claims_were_possible(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(status=pool_told(KNOWN))
        assert condition(plan(e, observed(e), installation, opens), ConditionType.POOL_UNUSED)["status"] == "True"


class TestRecovery:
    def test_a_person_s_word_rebuilds_an_empty_db1_and_nothing_else_does(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        fresh = engine_status(ready=False, restored=None)
        for annotations, recovers in (({}, False), ({names.RECOVER_ANNOTATION: "other"}, False), (ASKED, True)):
            e = event(status=KNOWN, annotations=annotations)
            decided = plan(e, empty(observed(e), fresh), installation, opens)
            assert any(isinstance(s, Recover) for s in decided.steps) is recovers
            assert "Seed" not in kinds(decided)
            assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.VOLUME_LOST

    def test_the_bridges_are_gone_before_the_ledger_is_read(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        pod: Make[Manifest],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event(status=KNOWN, annotations=ASKED)
        seen = empty(observed(e), engine_status(ready=False, restored=None))
        bridges: Manifest = {"kind": "Deployment", "metadata": {"labels": {}}, "spec": {"replicas": 2}}
        children = {**seen.children, ("Deployment", "taylor-drop-bridge"): bridges}
        running = plan(e, replace(seen, children=children, pods=(*seen.pods, pod(e, "bridge"))), installation, opens)
        assert ScaleBridges(0) in running.steps
        assert not {"Recover", "Configure"} & set(kinds(running))
        bridges["spec"]["replicas"] = 0
        ending = plan(e, replace(seen, children=children, pods=(*seen.pods, pod(e, "bridge"))), installation, opens)
        assert not {"Recover", "ScaleBridges"} & set(kinds(ending)), "a bridge that is ending may still commit"
        assert "Recover" in kinds(plan(e, replace(seen, children=children), installation, opens))

    def test_own_rows_come_before_the_claims_that_stand_on_them(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event(status=KNOWN, annotations=ASKED, spec=spec(inventory={"configMapRef": {"name": "seats"}}))
        fresh = engine_status(ready=False, restored=None)
        seen = replace(empty(observed(e), fresh), inventory=InventoryState(due=True))
        assert kinds(plan(e, seen, installation, opens))[-1] == "Stock"
        stocked = replace(seen, database=replace(seen.database, stocked=20_000))
        assert kinds(plan(e, stocked, installation, opens))[-1] == "Recover"

    def test_a_webhook_ledger_cannot_be_recovered_and_says_so(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        target = {"webhook": {"url": "https://ledger/commit"}}
        e = event(status=KNOWN, annotations=ASKED, spec=spec(commitTarget=target))
        decided = plan(e, empty(observed(e), engine_status(ready=False, restored=None)), installation, opens)
        assert "Recover" not in kinds(decided)
        assert "cannot be asked what it holds" in condition(decided, ConditionType.DEGRADED)["message"]

    def test_a_rebuilt_db1_is_the_one_to_sell_from_and_what_is_missing_is_counted(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        # 60 had been told `claimed`: 40 committed, 3 voided, 15 on the queue, 2 dead; the ledger has 45 and 3.
        counts = {"inventory": {"reserved": 17}, "queue": {"depth": 15}, "committed": 40, "voided": 3, "released": 1}
        e = event(status=KNOWN | counts | {"countedAt": opens.isoformat()}, annotations=ASKED)
        restored = {"at": (opens + timedelta(minutes=9)).isoformat(), "committed": 45, "voided": 3}
        seen = empty(observed(e), engine_status(ready=False, restored=restored))
        decided = plan(e, seen, installation, opens + timedelta(minutes=10))
        assert kinds(decided)[-1] == "Seed"
        assert decided.status["database"]["systemIdentifier"] == "9999"
        assert decided.status["recovery"] == restored | {"unaccounted": 12, "countedAt": opens.isoformat()}
        # From then on it needs no word any more, and the number stays.
        e = event(status=decided.status)
        ready = with_status(seen, engine_status(restored=restored, committed=45))
        later = plan(e, ready, installation, opens + timedelta(minutes=11))
        assert later.status["phase"] == Phase.OPEN
        assert later.status["recovery"]["unaccounted"] == 12

    def test_the_drain_of_a_lost_db1_waits_and_never_seals_an_empty_one(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = event(status=KNOWN, annotations=ASKED)
        seen = empty(observed(e), engine_status(ready=False, restored=None, windowState="closed"))
        decided = plan(e, seen, installation, closes)
        assert drained(decided) == DrainReason.INTAKE_CLOSED
        assert kinds(decided)[-1] == "Recover"
        sealed = with_status(seen, engine_status(restored=None, sealed=True, windowState="closed"))
        assert drained(plan(event(status=KNOWN), sealed, installation, closes)) == DrainReason.INTAKE_CLOSED
