"""A claim that is held is not settled: what the operator does for it, waits for, and says.

With `spec.checkout` a claim waits to be confirmed. It is in DB1, on no queue, and has its slots.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import given
import pytest
from given import CLOSES, OPENS, Given, make_spec, make_status
from intake_operator import names
from intake_operator.decide import needs, scaling
from intake_operator.decide.steps import Apply, Configure, Delete, RemoveFinalizer, ScaleBridges, Seal, Seed, Unguard
from intake_operator.model.observed import DatabaseState
from intake_operator.reasons import ConditionType, DrainReason, IntakeReason, Problem
from planning import GOOD_PROOF, SECOND, make_proof

MINUTE: Final = timedelta(minutes=1)
ENDS: Final = CLOSES + 10 * MINUTE
NONE_AT_LEAST: Final = {"minReplicas": 0}
CHECKOUT: Final = {"checkout": {"holdSeconds": 600}, "bridge": NONE_AT_LEAST}
ABANDONED: Final = {names.ABANDON_ANNOTATION: "taylor-drop"}


def closed(**changes: Any) -> Given:
    """A sale with a checkout in the first moment after its window."""
    return given.closed(spec=CHECKOUT, **changes)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("spec", "configured"),
        [
            ({}, {"maxPayloadBytes": 4096}),
            ({"claims": {"maxPayloadBytes": 100}}, {"maxPayloadBytes": 100}),
            ({"checkout": {"holdSeconds": 600}}, {"maxPayloadBytes": 4096, "holdSeconds": 600}),
            (
                {"checkout": {"holdSeconds": 600, "extendSeconds": 60}},
                {"maxPayloadBytes": 4096, "holdSeconds": 600, "extendSeconds": 60},
            ),
        ],
    )
    def test_db1_gets_the_fields_of_the_spec_and_no_null(
        self, spec: dict[str, Any], configured: dict[str, int]
    ) -> None:
        config = make_spec(**spec).engine_config()
        keys = {"maxPayloadBytes", "holdSeconds", "extendSeconds"}
        assert {name: value for name, value in config.items() if name in keys} == configured

    def test_a_sealed_db1_still_gets_them(self) -> None:
        """`configure` takes what is left out for its default, and a pool cannot change between holds and none."""
        (configure,) = closed().sealed(held=1).plan().all(Configure)
        assert (configure.config["holdSeconds"], configure.config["maxPayloadBytes"]) == (600, 4096)

    def test_held_and_withheld_slots_are_seeded_slots(self) -> None:
        slots = {"size": 20_000, "available": 19_989, "held": 5, "withheld": 3, "reserved": 2, "consumed": 1}
        assert make_status(inventory=slots).inventory.seeded == 20_000
        assert not given.selling().says(inventory=slots).plan().all(Seed)


class TestBridges:
    @pytest.mark.parametrize(
        ("checkout", "least", "status", "wanted"),
        [
            (True, 0, {}, 1),
            (True, 2, {}, 2),
            (True, 0, {"sealed": True}, 0),
            (True, 0, {"sealed": True, "held": 1}, 1),
            (False, 0, {}, 0),
            (False, 0, {"held": 1}, 1),
        ],
        ids=["open", "more", "sealed", "sealed, held", "no checkout", "no checkout any more, held"],
    )
    def test_one_at_least_while_there_may_be_holds(
        self, checkout: bool, least: int, status: dict[str, Any], wanted: int
    ) -> None:
        spec = make_spec(bridge={"minReplicas": least}, **({"checkout": {"holdSeconds": 600}} if checkout else {}))
        policy = scaling.policy_for(spec, DatabaseState(status=make_status(**status)))
        assert (policy.min_replicas, policy.max_replicas) == (wanted, spec.bridge.max_replicas)

    @pytest.mark.parametrize("paused", [False, True])
    def test_it_is_there_as_long_as_the_window_is_open_and_stays_for_the_last_hold(self, paused: bool) -> None:
        sale = given.selling(spec=CHECKOUT | {"paused": paused})
        assert ScaleBridges(1) in sale.plan().steps
        idle = sale.bridges(1).says(peakDepth=0).at(CLOSES - SECOND)
        assert idle.plan().status["bridge"]["desired"] == 1
        assert ScaleBridges(1) in closed().sealed(held=1).plan().steps
        assert not closed().sealed().plan().all(ScaleBridges)
        assert not given.selling(spec={"bridge": NONE_AT_LEAST}).plan().all(ScaleBridges)

    def test_a_hold_that_is_left_when_the_opening_is_moved_back_keeps_a_bridge(self) -> None:
        waiting = given.scheduled(spec=CHECKOUT)
        assert not waiting.plan().all(ScaleBridges)
        assert ScaleBridges(1) in waiting.says(held=1).plan().steps

    def test_paused_says_that_holds_go_on(self) -> None:
        paused = {"paused": True}
        decided = given.selling(spec=CHECKOUT | paused).plan()
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.PAUSED
        assert "holds may still be confirmed" in decided.message(ConditionType.INTAKE_OPEN)
        assert "hold" not in given.selling(spec=paused).plan().message(ConditionType.INTAKE_OPEN)


class TestDrain:
    def test_it_seals_as_without_holds(self) -> None:
        assert closed().says(windowState="closed", held=2).plan().steps[-1] == Seal("the window closed")
        deleted = given.selling(spec=CHECKOUT, deleted_at=OPENS).says(held=2).plan()
        assert (deleted.steps[-1], deleted.drained) == (Seal("deleted"), DrainReason.INTAKE_CLOSED)

    @pytest.mark.parametrize(
        ("held", "queue", "paused", "message"),
        [
            (1, {}, False, "1 claim is held and may still be confirmed, the last until 2026-12-01T20:10:00+00:00"),
            (7, {}, True, "7 claims are held and may still be confirmed, the last until 2026-12-01T20:10:00+00:00"),
            (
                7,
                {"depth": 3},
                True,
                "7 claims are held and may still be confirmed, the last until 2026-12-01T20:10:00+00:00; "
                "3 intents are not committed yet; spec.paused keeps them in the queue: set it to false",
            ),
        ],
    )
    def test_it_says_how_many_holds_are_left_and_until_when(
        self, held: int, queue: dict[str, int], paused: bool, message: str
    ) -> None:
        sale = given.closed(spec=CHECKOUT | {"paused": paused}).sealed(held=held, **queue)
        decided = sale.plan()
        assert decided.condition(ConditionType.DRAINED)["status"] == "False"
        assert (decided.drained, decided.message(ConditionType.DRAINED)) == (DrainReason.HOLDS_PENDING, message)
        assert decided.status["nextTransitionTime"] == "2026-12-01T20:10:00+00:00"
        assert (decided.status["held"], decided.status["phase"]) == (held, "Draining")

    def test_a_hold_whose_time_is_over_waits_for_a_bridge(self) -> None:
        decided = closed().sealed(held=1).at(ENDS).plan()
        assert decided.drained == DrainReason.HOLDS_PENDING
        assert "a bridge ends them" in decided.message(ConditionType.DRAINED)
        assert "nextTransitionTime" not in decided.status

    def test_the_states_go_on_behind_the_last_hold(self) -> None:
        assert closed().sealed(held=1, depth=5, deadLetters=1).plan().drained == DrainReason.HOLDS_PENDING
        assert closed().sealed(depth=5, deadLetters=1).plan().drained == DrainReason.QUEUE_DRAINING
        assert closed().sealed(deadLetters=1).plan().drained == DrainReason.DEAD_LETTERS_BLOCK
        assert closed().sealed().plan().drained == DrainReason.VERIFYING

    @pytest.mark.parametrize("deleted_at", [None, CLOSES], ids=["stays", "deleted"])
    def test_i11_nothing_is_removed_while_a_claim_is_held(self, deleted_at: datetime | None) -> None:
        """Not even with a proof, which may be older than what DB1 says now."""
        sale = closed(deleted_at=deleted_at).sealed(held=1).seen(proof=GOOD_PROOF)
        decided = sale.at(CLOSES + 5 * MINUTE).plan()
        assert decided.drained == DrainReason.HOLDS_PENDING
        assert not decided.all(Delete | RemoveFinalizer | Unguard)
        assert not decided.applied("ConfigMap")
        assert decided.after is None

    @pytest.mark.parametrize("held", [0, 1])
    def test_i11_no_proof_is_made_while_a_claim_is_held(self, held: int) -> None:
        sale = closed().sealed(held=held)
        assert needs.proof(sale.event, sale.observed, sale.now) is (not held)

    def test_i11_a_claim_that_is_in_no_place_of_the_proof_fails_it(self) -> None:
        for wrong in (make_proof(expired=1), make_proof(claims=12, held=1), make_proof(held=1)):
            assert closed().sealed().seen(proof=wrong).plan().drained == DrainReason.PROOF_FAILED


class TestTime:
    """`drainTimeoutSeconds` is 60; holds last 600 s, and may be extended by 300 s."""

    SPEC: Final = {"checkout": {"holdSeconds": 600, "extendSeconds": 300}, "teardown": {"drainTimeoutSeconds": 60}}

    @pytest.mark.parametrize(
        ("held", "ends", "seconds", "overdue"),
        [
            (1, CLOSES + 10 * MINUTE, 61, False),
            (1, CLOSES + 10 * MINUTE, 660, False),
            (1, CLOSES + 10 * MINUTE, 661, True),
            (1, CLOSES - MINUTE, 30, False),
            (1, CLOSES - MINUTE, 61, True),
            (0, CLOSES, 661, False),
            (0, CLOSES, 960, False),
            (0, CLOSES, 961, True),
        ],
    )
    def test_a_drain_is_not_overdue_by_the_time_in_which_holds_may_be_confirmed(
        self, held: int, ends: datetime, seconds: int, overdue: bool
    ) -> None:
        sale = given.closed(spec=self.SPEC).sealed(held=held, ends=ends, depth=1)
        decided = sale.at(CLOSES + seconds * SECOND).plan()
        assert (decided.reason(ConditionType.DEGRADED) == Problem.DRAIN_OVERDUE) is overdue
        assert not overdue or "after the last hold" in decided.message(ConditionType.DEGRADED)

    def test_it_counts_from_a_deletion_where_that_came_first(self) -> None:
        deleted = given.selling(spec=self.SPEC, deleted_at=OPENS).sealed(depth=1)
        assert deleted.at(OPENS + 960 * SECOND).plan().reason(ConditionType.DEGRADED) == "AsExpected"
        assert deleted.at(OPENS + 961 * SECOND).plan().reason(ConditionType.DEGRADED) == Problem.DRAIN_OVERDUE


class TestReport:
    SLOTS: Final = {"size": 20_000, "available": 19_970, "held": 4, "withheld": 5, "reserved": 6, "consumed": 15}

    def test_a_proven_report_counts_claims_and_slots(self) -> None:
        slots = self.SLOTS | {"available": 19_979, "held": 0, "reserved": 0, "consumed": 16}
        proof = make_proof(claims=14, expired=3, slots=16)
        decided = closed().says(sealed=True, windowState="closed", inventory=slots).seen(proof=proof).plan()
        (step,) = decided.all(Apply)
        assert decided.after is not None
        final = decided.after["report"]
        counted = {"claims": 14, "committed": 8, "voided": 2, "released": 1, "expired": 3}
        assert {name: final[name] for name in counted} == counted
        assert final["inventory"] == slots
        copy = step.manifest["data"]
        assert (copy["claims"], copy["expired"], copy["inventory.consumed"], copy["inventorySize"]) == (
            "14",
            "3",
            "16",
            "20000",
        )
        assert not {"held", "queued", "deadLetters"} & final.keys(), "all of them are 0 in a proof"

    def test_the_status_has_the_report_s_slots_when_db1_is_gone(self) -> None:
        status = given.finished().new_db1().plan().status
        assert status["inventory"] == {
            "size": 20_000,
            "available": 19_980,
            "held": 0,
            "withheld": 4,
            "reserved": 0,
            "consumed": 16,
        }
        assert [status[name] for name in ("committed", "voided", "released", "expired")] == [8, 2, 1, 3]

    def test_a_hold_of_an_abandoned_event_is_counted(self) -> None:
        ends = {"committed": 8, "voided": 2, "released": 1, "expired": 3}
        queue = {"depth": 3, "deadLetters": 1}
        sale = closed(annotations=ABANDONED).says(sealed=True, held=2, inventory=self.SLOTS, queue=queue, **ends)
        decided = sale.plan()
        assert decided.after is not None
        final = decided.after["report"]
        assert {name: final[name] for name in (*ends, "held", "queued", "deadLetters", "claims")} == ends | {
            "held": 2,
            "queued": 3,
            "deadLetters": 1,
            "claims": 20,
        }
        assert final["inventory"] == self.SLOTS
        later = sale.after(decided).plan().status
        assert (later["held"], later["inventory"], later["expired"]) == (2, self.SLOTS, 3)
