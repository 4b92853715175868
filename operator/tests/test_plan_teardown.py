"""How an event ends: sealed, drained, proven, removed; and what is never removed, whatever was observed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from given import unmarked
from intake_operator import names
from intake_operator.children import common, kinship
from intake_operator.children.bridge import Installation
from intake_operator.children.bridge import deployment as bridge_deployment
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import (
    Apply,
    Configure,
    Delete,
    RemoveFinalizer,
    ScaleBridges,
    Seal,
    Seed,
    Step,
    StopDatabase,
    Unguard,
)
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, Manifest, Observed
from intake_operator.model.proof import LedgerAnswer
from intake_operator.reasons import ConditionType, DrainReason, IntakeReason, Phase, Problem
from planning import GOOD_PROOF, condition, drained, kinds, make_proof, with_status

type Make[T] = Callable[..., T]


class TestDrain:
    def test_the_window_s_end_seals_only_when_db1_says_so_too(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = event()
        early = plan(e, observed(e), installation, closes)
        assert not any(isinstance(s, Seal) for s in early.steps)
        late = plan(e, with_status(observed(e), engine_status(windowState="closed")), installation, closes)
        assert late.steps[-1] == Seal("the window closed")
        assert drained(late) == DrainReason.INTAKE_CLOSED

    def test_a_sealed_engine_stays_closed_though_the_window_is_moved(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        opens: datetime,
    ) -> None:
        e = event()
        decided = plan(e, with_status(observed(e), engine_status(sealed=True)), installation, opens)
        assert decided.status["phase"] == Phase.DRAINING
        assert condition(decided, ConditionType.INTAKE_OPEN)["reason"] == IntakeReason.WINDOW_CLOSED

    def test_deletion_seals_at_once(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(deleted_at=opens)
        assert plan(e, observed(e), installation, opens).steps[-1] == Seal("deleted")

    def test_the_states_in_their_order(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = event()

        def sealed(depth: int, dead: int) -> Observed:
            queue = {"depth": depth, "inFlight": 0, "oldestSeconds": 0, "deadLetters": dead}
            return with_status(observed(e), engine_status(sealed=True, windowState="closed", queue=queue))

        assert drained(plan(e, sealed(5, 1), installation, closes)) == DrainReason.QUEUE_DRAINING
        assert drained(plan(e, sealed(0, 1), installation, closes)) == DrainReason.DEAD_LETTERS_BLOCK
        assert drained(plan(e, sealed(0, 0), installation, closes)) == DrainReason.VERIFYING
        for one_less in ({"committed": 7}, {"voided": 1}, {"released": 0}):
            bad = replace(sealed(0, 0), proof=make_proof(**one_less))
            assert drained(plan(e, bad, installation, closes)) == DrainReason.PROOF_FAILED
        good = plan(e, replace(sealed(0, 0), proof=GOOD_PROOF), installation, closes)
        assert kinds(good) == ["ConfigMap"]
        # The copy comes first. What lets DB1 go is written only when it is there.
        assert "report" not in good.status
        assert good.after is not None
        assert (good.after["report"]["verified"], good.after["report"]["committed"]) == (True, 8)

    def test_the_drain_goes_on_while_children_are_repaired_and_bridges_scaled(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = event()
        queue = {"depth": 9_000, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
        seen = with_status(observed(e), engine_status(sealed=True, windowState="closed", queue=queue))
        decided = plan(e, seen, installation, closes)
        assert ScaleBridges(4) in decided.steps
        assert "StatefulSet" in kinds(decided)
        config = next(s.config for s in decided.steps if isinstance(s, Configure))
        assert not {"opensAt", "closesAt", "inventorySize"} & set(config)

    def test_a_drain_without_db1_waits_and_says_so(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, closes: datetime
    ) -> None:
        e = event()
        gone = replace(observed(e), database=DatabaseState(error="connection refused"))
        decided = plan(e, gone, installation, closes)
        assert "connection refused" in condition(decided, ConditionType.DRAINED)["message"]
        assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.DATABASE_UNREACHABLE
        assert not any(isinstance(s, Delete | RemoveFinalizer | StopDatabase | Unguard) for s in decided.steps)

    def test_only_the_event_s_own_name_abandons_it(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, closes: datetime
    ) -> None:
        wrong = event(annotations={names.ABANDON_ANNOTATION: "true"})
        assert not any(
            isinstance(s, Apply) and s.manifest["kind"] == "ConfigMap"
            for s in plan(wrong, observed(wrong), installation, closes).steps
        )
        right = event(annotations={names.ABANDON_ANNOTATION: "taylor-drop"})
        decided = plan(right, observed(right), installation, closes)
        (step,) = decided.steps
        assert isinstance(step, Apply)
        assert step.manifest["data"]["verified"] == "false"
        assert decided.after is not None
        assert decided.after["report"]["verified"] is False


def released(event: Event) -> Event:
    """An event whose status has the final account."""
    told = {"verified": True, "ledgerVerified": LedgerAnswer.AGREES, "writtenAt": "2026-12-01T20:00:05+00:00"}
    ends = {"claims": 11, "committed": 8, "voided": 2, "released": 1}
    return replace(event, status={"report": told | ends})


def after(seen: Observed, steps: Iterable[Step]) -> Observed:
    """What is there once the steps have been carried out and the controllers have followed."""
    children, pods = dict(seen.children), list(seen.pods)
    for step in steps:
        match step:
            case Unguard(kind, name, finalizer):
                meta = dict(children[kind, name]["metadata"])
                meta["labels"] = {k: v for k, v in meta["labels"].items() if k != names.GUARD_LABEL}
                meta["finalizers"] = [] if finalizer else meta.get("finalizers", [])
                children[kind, name] = {**children[kind, name], "metadata": meta}
            case ScaleBridges(0) | StopDatabase():
                component = "bridge" if isinstance(step, ScaleBridges) else "database"
                kind = "Deployment" if component == "bridge" else "StatefulSet"
                ((key, child),) = ((key, child) for key, child in children.items() if key[0] == kind)
                children[key] = {**child, "spec": {**child["spec"], "replicas": 0}}
                pods = [p for p in pods if p["metadata"]["labels"]["app.kubernetes.io/component"] != component]
            case Delete(kind, name):
                assert names.GUARD_LABEL not in children[kind, name]["metadata"]["labels"]
                assert not children[kind, name]["metadata"].get("finalizers")
                del children[kind, name]
    secrets = {name: word for name, word in seen.secret_fingerprints.items() if ("Secret", name) in children}
    return replace(seen, children=children, pods=tuple(pods), secret_fingerprints=secrets)


def to_the_end(event: Event, seen: Observed, installation: Installation, now: datetime) -> tuple[list[str], list[Step]]:
    """The states that the drain goes through, and all steps."""
    states, steps = [], list[Step]()
    for _ in range(30):
        decided = plan(event, seen, installation, now)
        states.append(drained(decided))
        steps += decided.steps
        if decided.requeue_after is None:
            return list(dict.fromkeys(states)), steps
        assert decided.steps, "it waits for something that nobody does"
        seen = after(seen, decided.steps)
    raise AssertionError(f"no end: {states}")


class TestRelease:
    def test_an_abandoned_event_that_is_deleted_needs_no_report(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(deleted_at=opens, annotations={names.ABANDON_ANNOTATION: "taylor-drop"})
        states, steps = to_the_end(e, observed(e), installation, opens)
        assert states[-1] == DrainReason.COMPLETED
        assert not any(isinstance(s, Apply) for s in steps)

    def test_bridges_then_db1_then_volume_then_secrets_then_the_anchor_then_the_finalizer(
        self,
        event: Make[Event],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = released(event())
        assert e.spec is not None
        seen = observed(e)
        bridges = kinship.as_child(
            bridge_deployment(e, e.spec, installation, {}), e, seen.children["NetworkPolicy", "taylor-drop-db"], "g"
        )
        seen = replace(
            seen,
            children={**seen.children, ("Deployment", names.bridge(e.name)): bridges},
            pods=(*seen.pods, pod(e, "bridge")),
        )
        now = closes + timedelta(minutes=10)
        states, steps = to_the_end(e, seen, installation, now)
        assert states == [
            DrainReason.BRIDGES_STOPPED,
            DrainReason.DATABASE_STOPPED,
            DrainReason.VOLUMES_REMOVED,
            DrainReason.COMPLETED,
        ]
        gone = [s.kind for s in steps if isinstance(s, Delete)]
        assert list(dict.fromkeys(gone)) == [
            "Deployment",
            "StatefulSet",
            "PersistentVolumeClaim",
            "Service",
            "PodDisruptionBudget",
            "Secret",
            "NetworkPolicy",
        ]
        # The garbage collector may not remove a guarded pod: their own controllers do, before the workload goes.
        assert steps.index(ScaleBridges(0)) < steps.index(Delete("Deployment", "taylor-drop-bridge"))
        assert steps.index(StopDatabase()) < steps.index(Delete("StatefulSet", "taylor-drop-db"))
        assert steps[-1] == RemoveFinalizer()
        status = plan(e, Observed(), installation, now).status
        assert [status[name] for name in ("phase", "committed", "voided", "released")] == [Phase.COMPLETED, 8, 2, 1]

    def test_a_running_pod_holds_the_next_state_back(
        self,
        event: Make[Event],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = released(event())
        unguarded = after(observed(e), [Unguard(*key) for key in observed(e).children])
        ending = pod(e, "bridge")
        ending["metadata"]["deletionTimestamp"] = closes.isoformat()
        decided = plan(e, replace(unguarded, pods=(ending,)), installation, closes + timedelta(minutes=10))
        assert (decided.steps, drained(decided)) == ((), DrainReason.BRIDGES_STOPPED)

    def test_pods_that_outlived_their_workload_are_removed(
        self,
        event: Make[Event],
        observed: Make[Observed],
        pod: Make[Manifest],
        installation: Installation,
        closes: datetime,
    ) -> None:
        """A workload that was deleted by force: the guard keeps its pods from the garbage collector."""
        e = released(event())
        unguarded = after(observed(e), [Unguard(*key) for key in observed(e).children])
        now = closes + timedelta(minutes=10)
        bridge = replace(unguarded, pods=(pod(e, "bridge"),))
        assert plan(e, bridge, installation, now).steps == (Delete("Pod", "taylor-drop-bridge-0"),)
        gone = {key: child for key, child in unguarded.children.items() if key[0] != "StatefulSet"}
        database = replace(unguarded, children=gone, pods=(pod(e, "database"),))
        assert plan(e, database, installation, now).steps == (Delete("Pod", "taylor-drop-database-0"),)

    def test_i11_a_config_map_called_like_the_report_lets_nothing_go(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        """Anybody who may create ConfigMaps can make one, labels and all."""
        e = event()
        queue = {"depth": 50, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
        seen = with_status(observed(e), engine_status(sealed=True, windowState="closed", queue=queue))
        forged = {"kind": "ConfigMap", "metadata": {"name": names.report(e.name), "labels": common.labels(e, "report")}}
        seen = replace(seen, children={**seen.children, ("ConfigMap", names.report(e.name)): forged})
        decided = plan(e, seen, installation, closes)
        assert drained(decided) == DrainReason.QUEUE_DRAINING
        assert not {"Delete", "Unguard", "StopDatabase"} & set(kinds(decided))

    def test_an_event_that_was_never_claimable_goes_without_a_proof(
        self, event: Make[Event], installation: Installation, observed: Make[Observed], opens: datetime
    ) -> None:
        e = event(deleted_at=opens)
        seen = observed(e, database=DatabaseState())
        states, steps = to_the_end(e, replace(seen, children=unmarked(seen.children)), installation, opens)
        assert states[-1] == DrainReason.COMPLETED
        assert steps[-1] == RemoveFinalizer()
        assert all(isinstance(s, Delete | RemoveFinalizer | Unguard | StopDatabase) for s in steps)

    def test_an_extended_window_does_not_bring_back_what_is_verified(
        self, event: Make[Event], spec: Make[Any], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        later = {"opensAt": opens.isoformat(), "closesAt": (opens + timedelta(days=2)).isoformat()}
        e = released(event(spec=spec(window=later, teardown={"keepMinutes": 0})))
        decided = plan(e, observed(e), installation, opens)
        assert not {"Seed", "Migrate"} & set(kinds(decided))
        assert decided.status["phase"] == Phase.DRAINING


class TestKept:
    def test_db1_stays_sealed_for_a_while_after_the_close_and_heals(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
    ) -> None:
        e = released(event())
        crashed = with_status(observed(e), engine_status(sealed=True, windowState="closed", ready=False))
        decided = plan(e, crashed, installation, closes + timedelta(minutes=9))
        assert drained(decided) == DrainReason.KEPT
        assert Seed() in decided.steps, "else claims are answered not_ready, and claim_status tells nothing"
        assert not {"Delete", "StopDatabase"} & set(kinds(decided))
        assert decided.status["nextTransitionTime"] == (closes + timedelta(minutes=10)).isoformat()
        assert decided.status["connection"]["secretName"] == "taylor-drop-app"
        # Every claim is accounted for: whoever removes something now, the guard does not refuse it.
        sent = [s.manifest for s in decided.steps if isinstance(s, Apply)]
        assert not [m for m in sent if names.GUARD_LABEL in m["metadata"]["labels"]]
        assert not [m for m in sent if m["kind"] == "PersistentVolumeClaim" and m["metadata"].get("finalizers")]

    @pytest.mark.parametrize("end", ["time", "deleted", "namespace", "abandoned", "nothing to keep"])
    def test_it_ends_with_its_time_or_a_deletion(
        self,
        event: Make[Event],
        spec: Make[Any],
        observed: Make[Observed],
        installation: Installation,
        closes: datetime,
        end: str,
    ) -> None:
        changes: dict[str, dict[str, Any]] = {
            "deleted": {"deleted_at": closes},
            "namespace": {"namespace_deleted_at": closes},
            "abandoned": {"annotations": {names.ABANDON_ANNOTATION: "taylor-drop"}},
            "nothing to keep": {"spec": spec(teardown={"keepMinutes": 0})},
        }
        e = released(event(**changes.get(end, {})))
        now = closes + timedelta(minutes=10 if end == "time" else 1)
        assert drained(plan(e, observed(e), installation, now)) == DrainReason.BRIDGES_STOPPED


class TestAbandoned:
    @pytest.mark.parametrize("reachable", [True, False])
    def test_the_report_keeps_what_db1_can_still_tell_or_told_last(
        self,
        event: Make[Event],
        observed: Make[Observed],
        engine_status: Make[EngineStatus],
        installation: Installation,
        closes: datetime,
        reachable: bool,
    ) -> None:
        ends = {"committed": 8, "voided": 2, "released": 1, "queue": {"depth": 3, "deadLetters": 4}}
        counted = (closes - timedelta(minutes=1)).isoformat()
        told = {} if reachable else {**ends, "inventory": {}, "countedAt": counted}
        e = event(annotations={names.ABANDON_ANNOTATION: "taylor-drop"}, status=told)
        seen = observed(e, database=DatabaseState(error="away"))
        if reachable:
            audit = ('{"action": "replay"}',)
            asked = DatabaseState(
                reachable=True, identity="7251", migrated=True, status=engine_status(**ends), audit=audit
            )
            seen = replace(seen, database=asked)
        decided = plan(e, seen, installation, closes)
        assert decided.after is not None
        account = decided.after["report"]
        assert [account[name] for name in ("claims", "committed", "queued", "deadLetters")] == [18, 8, 3, 4]
        assert account["countedAt"] == (closes.isoformat() if reachable else counted)
        (copy,) = (s.manifest for s in decided.steps if isinstance(s, Apply))
        assert copy["data"].get("audit") == ('{"action": "replay"}' if reachable else None)


class TestNamespace:
    def test_a_namespace_that_is_being_deleted_ends_the_sale(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(namespace_deleted_at=opens)
        decided = plan(e, observed(e), installation, opens)
        assert decided.steps[-1] == Seal("deleted")
        assert condition(decided, ConditionType.DEGRADED)["reason"] == Problem.NAMESPACE_TERMINATING

    def test_nothing_is_made_in_it_and_the_rest_goes_on(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(namespace_deleted_at=opens)
        seen = observed(e)
        gone = {("Service", "taylor-drop-rw"), ("Secret", "taylor-drop-app")}
        seen = replace(
            seen,
            children={key: child for key, child in seen.children.items() if key not in gone},
            secret_fingerprints={k: v for k, v in seen.secret_fingerprints.items() if k != "taylor-drop-app"},
        )
        decided = plan(e, seen, installation, opens)
        sent = {(s.manifest["kind"], s.manifest["metadata"]["name"]) for s in decided.steps if isinstance(s, Apply)}
        assert sent <= seen.children.keys()
        assert "CreateCredentials" not in kinds(decided)
        assert decided.steps[-1] == Seal("deleted")

    def test_what_cannot_be_drained_any_more_names_the_way_out(
        self, event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        e = event(namespace_deleted_at=opens)
        decided = plan(e, observed(e, database=DatabaseState(error="no pod"), pods=()), installation, opens)
        assert "intake-engine.io/abandon: taylor-drop" in condition(decided, ConditionType.DEGRADED)["message"]
        assert not {"Delete", "RemoveFinalizer"} & set(kinds(decided))

    @pytest.mark.parametrize(("minutes", "goes"), [(60, True), (6, True), (4, False), (-1, False)])
    def test_i11_a_waiting_event_lets_go_without_db1_only_well_before_the_earliest_opening(
        self,
        event: Make[Event],
        observed: Make[Observed],
        installation: Installation,
        opens: datetime,
        minutes: int,
        goes: bool,
    ) -> None:
        known = {"database": {"systemIdentifier": "7251", "sellsFrom": opens.isoformat()}}
        e = event(namespace_deleted_at=opens, status=known)
        seen = observed(e, database=DatabaseState(error="no pod"), pods=())
        decided = plan(e, seen, installation, opens - timedelta(minutes=minutes))
        assert (drained(decided) == DrainReason.BRIDGES_STOPPED) is goes

    def test_i11_an_opening_that_was_moved_back_is_remembered(
        self, event: Make[Event], spec: Make[Any], observed: Make[Observed], installation: Installation, opens: datetime
    ) -> None:
        known = {"database": {"systemIdentifier": "7251", "sellsFrom": opens.isoformat()}}
        later = {
            "opensAt": (opens + timedelta(days=1)).isoformat(),
            "closesAt": (opens + timedelta(days=2)).isoformat(),
        }
        e = event(status=known, spec=spec(window=later))
        told = plan(e, observed(e), installation, opens + timedelta(hours=1)).status
        assert told["database"]["sellsFrom"] == opens.isoformat()
        gone = replace(e, status=told, namespace_deleted_at=opens)
        decided = plan(gone, observed(e, database=DatabaseState(), pods=()), installation, opens + timedelta(hours=1))
        assert drained(decided) == DrainReason.INTAKE_CLOSED


@pytest.mark.parametrize("hours", [-48, -1, 0, 1, 2, 48])
def test_i2_nothing_is_removed_without_proof_once_claims_were_possible(
    event: Make[Event],
    observed: Make[Observed],
    engine_status: Make[EngineStatus],
    installation: Installation,
    opens: datetime,
    hours: int,
) -> None:
    """Whatever DB1 says or does not say, and whether or not somebody deletes the event."""
    databases = [
        DatabaseState(),
        DatabaseState(reachable=True),
        DatabaseState(reachable=True, migrated=True, status=engine_status(ready=False)),
        DatabaseState(reachable=True, migrated=True, status=engine_status(windowState="closed")),
        DatabaseState(reachable=True, migrated=True, status=engine_status(windowState="closed", sealed=True)),
    ]
    for database in databases:
        for deleted_at in (None, opens):
            for proof in (None, make_proof(ledger=LedgerAnswer.DIFFERS), make_proof(queued=1)):
                e = event(deleted_at=deleted_at)
                seen = replace(observed(e), database=database, proof=proof)
                decided = plan(e, seen, installation, opens + timedelta(hours=hours))
                assert not any(isinstance(s, Delete | RemoveFinalizer | StopDatabase | Unguard) for s in decided.steps)
                assert not any(isinstance(s, Apply) and s.manifest["kind"] == "ConfigMap" for s in decided.steps)
