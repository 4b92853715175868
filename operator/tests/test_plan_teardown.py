"""How an event ends: sealed, drained, proven, removed; and what is never removed, whatever was observed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from intake_operator import names
from intake_operator.build import report
from intake_operator.build.bridge import BridgeImage
from intake_operator.build.bridge import deployment as bridge_deployment
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import (
    Apply,
    Configure,
    Delete,
    Migrate,
    RemoveFinalizer,
    ScaleBridges,
    Seal,
    Seed,
    Step,
)
from intake_operator.model.observed import Engine, Event, Manifest, Observed
from intake_operator.reasons import ConditionType, Drain, Intake, Phase, Problem
from planning import GOOD_PROOF, condition, drained, kinds, with_status

type Make[T] = Callable[..., T]


class TestDrain:
    def test_the_window_s_end_seals_only_when_db1_says_so_too(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[dict[str, Any]],
        image: BridgeImage,
        closes: datetime,
    ) -> None:
        e = event()
        early = plan(e, observed(e), image, closes)
        assert not any(isinstance(s, Seal) for s in early.steps)
        late = plan(e, with_status(observed(e), engine_status(windowState="closed")), image, closes)
        assert late.steps[-1] == Seal("the window closed")
        assert drained(late) == Drain.INTAKE_CLOSED

    def test_a_sealed_engine_stays_closed_though_the_window_is_moved(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[dict[str, Any]],
        image: BridgeImage,
        opens: datetime,
    ) -> None:
        e = event()
        decided = plan(e, with_status(observed(e), engine_status(sealed=True)), image, opens)
        assert decided.status["phase"] == Phase.DRAINING
        assert condition(decided, ConditionType.INTAKE_OPEN)["reason"] == Intake.WINDOW_CLOSED

    def test_deletion_seals_at_once(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, opens: datetime
    ) -> None:
        e = event(deleted_at=opens)
        assert plan(e, observed(e), image, opens).steps[-1] == Seal("deleted")

    def test_the_states_in_their_order(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[dict[str, Any]],
        image: BridgeImage,
        closes: datetime,
    ) -> None:
        e = event()

        def sealed(depth: int, dead: int) -> Observed:
            queue = {"depth": depth, "inFlight": 0, "oldestSeconds": 0, "deadLetters": dead}
            return with_status(observed(e), engine_status(sealed=True, windowState="closed", queue=queue))

        assert drained(plan(e, sealed(5, 1), image, closes)) == Drain.QUEUE_DRAINING
        assert drained(plan(e, sealed(0, 1), image, closes)) == Drain.DEAD_LETTERS_BLOCK
        assert drained(plan(e, sealed(0, 0), image, closes)) == Drain.VERIFYING
        for one_less in ({"committed": 7}, {"voided": 1}, {"released": 0}):
            bad = replace(sealed(0, 0), proof=replace(GOOD_PROOF, **one_less))
            assert drained(plan(e, bad, image, closes)) == Drain.PROOF_FAILED
        good = plan(e, replace(sealed(0, 0), proof=GOOD_PROOF), image, closes)
        assert kinds(good) == ["ConfigMap"]

    def test_the_drain_goes_on_while_children_are_repaired_and_bridges_scaled(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[dict[str, Any]],
        image: BridgeImage,
        closes: datetime,
    ) -> None:
        e = event()
        queue = {"depth": 9_000, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
        seen = with_status(observed(e), engine_status(sealed=True, windowState="closed", queue=queue))
        decided = plan(e, seen, image, closes)
        assert ScaleBridges(4) in decided.steps
        assert "StatefulSet" in kinds(decided)
        config = next(s.config for s in decided.steps if isinstance(s, Configure))
        assert not {"opensAt", "closesAt", "inventorySize"} & set(config)

    def test_a_drain_without_db1_waits_and_says_so(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, closes: datetime
    ) -> None:
        e = event()
        gone = replace(observed(e), engine=Engine(error="connection refused"))
        decided = plan(e, gone, image, closes)
        assert "connection refused" in condition(decided, ConditionType.DRAINED)["message"]
        assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.DATABASE_UNREACHABLE
        assert not any(isinstance(s, Delete | RemoveFinalizer) for s in decided.steps)

    def test_only_the_event_s_own_name_abandons_it(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, closes: datetime
    ) -> None:
        wrong = event(annotations={names.ABANDON_ANNOTATION: "true"})
        assert not any(
            isinstance(s, Apply) and s.manifest["kind"] == "ConfigMap"
            for s in plan(wrong, observed(wrong), image, closes).steps
        )
        right = event(annotations={names.ABANDON_ANNOTATION: "taylor-drop"})
        decided = plan(right, observed(right), image, closes)
        (step,) = decided.steps
        assert isinstance(step, Apply)
        assert step.manifest["data"]["verified"] == "false"


class TestRelease:
    def test_an_abandoned_event_that_is_deleted_needs_no_report(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, opens: datetime
    ) -> None:
        e = event(deleted_at=opens, annotations={names.ABANDON_ANNOTATION: "taylor-drop"})
        assert plan(e, observed(e), image, opens).steps == (Delete("StatefulSet", "taylor-drop-db"),)

    def test_bridges_then_db1_then_volume_then_secrets_then_the_finalizer(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, closes: datetime
    ) -> None:
        e = event()
        assert e.spec is not None
        seen = observed(e)
        bridges = bridge_deployment(e, e.spec, image, {})
        seen = replace(
            seen,
            report=report.report(e, GOOD_PROOF, closes),
            children={**seen.children, ("Deployment", names.bridge(e.name)): bridges},
        )
        states = []
        for _ in range(20):
            decided = plan(e, seen, image, closes)
            states.append(drained(decided))
            if decided.requeue_after is None:
                break
            gone = {(s.kind, s.name) for s in decided.steps if isinstance(s, Delete)}
            assert gone
            seen = replace(
                seen,
                children={k: v for k, v in seen.children.items() if k not in gone},
                secret_fingerprints={k: v for k, v in seen.secret_fingerprints.items() if ("Secret", k) not in gone},
                pods=tuple(p for p in seen.pods if ("StatefulSet", names.database(e.name)) not in gone),
            )
        assert list(dict.fromkeys(states)) == [
            Drain.BRIDGES_STOPPED,
            Drain.DATABASE_STOPPED,
            Drain.VOLUMES_RELEASED,
            Drain.COMPLETED,
        ]
        assert plan(e, seen, image, closes).steps == (RemoveFinalizer(),)
        status = plan(e, seen, image, closes).status
        assert [status[name] for name in ("phase", "committed", "voided", "released")] == [Phase.COMPLETED, 8, 2, 1]

    def test_a_running_pod_holds_the_next_state_back(
        self, event: Make[Event], observed: Make[Observed], pod: Make[Manifest], image: BridgeImage, closes: datetime
    ) -> None:
        e = event()
        seen = replace(observed(e), report=report.report(e, GOOD_PROOF, closes), pods=(pod(e, "bridge"),))
        decided = plan(e, seen, image, closes)
        assert (decided.steps, drained(decided)) == ((), Drain.BRIDGES_STOPPED)

    def test_an_event_that_was_never_claimable_goes_without_a_proof(
        self, event: Make[Event], image: BridgeImage, observed: Make[Observed], opens: datetime
    ) -> None:
        e = event(deleted_at=opens)
        seen = observed(e, engine=Engine())
        unmarked = {key: {**m, "metadata": {**m["metadata"], "annotations": {}}} for key, m in seen.children.items()}
        steps: list[Step] = []
        seen = replace(seen, children=unmarked)
        for _ in range(10):
            decided = plan(e, seen, image, opens)
            steps += decided.steps
            e = replace(e, status=decided.status)  # what one pass says, the next one reads
            gone = {(s.kind, s.name) for s in decided.steps if isinstance(s, Delete)}
            seen = replace(
                seen,
                children={k: v for k, v in seen.children.items() if k not in gone},
                secret_fingerprints={k: v for k, v in seen.secret_fingerprints.items() if ("Secret", k) not in gone},
                pods=(),
            )
            if RemoveFinalizer() in steps:
                break
        assert steps[0] == Delete("StatefulSet", "taylor-drop-db")
        assert steps[-1] == RemoveFinalizer()
        assert all(isinstance(s, Delete | RemoveFinalizer) for s in steps)

    def test_an_extended_window_does_not_bring_back_what_is_verified(
        self, event: Make[Event], observed: Make[Observed], image: BridgeImage, opens: datetime, closes: datetime
    ) -> None:
        e = event()
        seen = replace(observed(e), report=report.report(e, GOOD_PROOF, closes))
        assert not any(isinstance(s, Apply | Seed | Migrate) for s in plan(e, seen, image, opens).steps)


@pytest.mark.parametrize("hours", [-48, -1, 0, 1, 2, 48])
def test_i2_nothing_is_removed_without_proof_once_claims_were_possible(
    event: Make[Event],
    observed: Make[Observed],
    engine_status: Make[dict[str, Any]],
    image: BridgeImage,
    opens: datetime,
    hours: int,
) -> None:
    """Whatever DB1 says or does not say, and whether or not somebody deletes the event."""
    engines = [
        Engine(),
        Engine(reachable=True),
        Engine(reachable=True, migrated=True, status=engine_status(ready=False)),
        Engine(reachable=True, migrated=True, status=engine_status(windowState="closed")),
        Engine(reachable=True, migrated=True, status=engine_status(windowState="closed", sealed=True)),
    ]
    for engine in engines:
        for deleted_at in (None, opens):
            for proof in (None, replace(GOOD_PROOF, ledger="the ledger differs"), replace(GOOD_PROOF, queued=1)):
                e = event(deleted_at=deleted_at)
                seen = replace(observed(e), engine=engine, proof=proof)
                decided = plan(e, seen, image, opens + timedelta(hours=hours))
                assert not any(isinstance(s, Delete | RemoveFinalizer) for s in decided.steps)
                assert not any(isinstance(s, Apply) and s.manifest["kind"] == "ConfigMap" for s in decided.steps)
