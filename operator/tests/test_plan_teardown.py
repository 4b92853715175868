"""How an event ends: sealed, drained, proven, removed; and what is never removed, whatever was observed."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import given
import pytest
from given import CLOSES, OPENS, Given, make_status
from intake_operator import names
from intake_operator.children import common
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
from intake_operator.model import pods
from intake_operator.model.observed import DatabaseState, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from intake_operator.reasons import ConditionType, DrainReason, IntakeReason, Phase, Problem
from planning import GOOD_PROOF, Decided, make_proof

MINUTE = timedelta(minutes=1)
REMOVAL = Delete | RemoveFinalizer | StopDatabase | Unguard
ABANDONED = {names.ABANDON_ANNOTATION: "taylor-drop"}


class TestDrain:
    def test_the_end_of_the_window_seals_only_when_db1_says_so_too(self) -> None:
        assert not given.closed().plan().all(Seal)
        late = given.closed().says(windowState="closed").plan()
        assert late.steps[-1] == Seal("the window closed")
        assert late.drained == DrainReason.INTAKE_CLOSED

    def test_a_sealed_db1_stays_closed_though_the_window_is_moved(self) -> None:
        decided = given.selling().says(sealed=True).plan()
        assert decided.status["phase"] == Phase.DRAINING
        assert decided.reason(ConditionType.INTAKE_OPEN) == IntakeReason.WINDOW_CLOSED

    def test_deletion_seals_at_once(self) -> None:
        assert given.selling(deleted_at=OPENS).plan().steps[-1] == Seal("deleted")

    def test_the_states_in_their_order(self) -> None:
        sale = given.closed()
        assert sale.sealed(depth=5, deadLetters=1).plan().drained == DrainReason.QUEUE_DRAINING
        assert sale.sealed(deadLetters=1).plan().drained == DrainReason.DEAD_LETTERS_BLOCK
        assert sale.sealed().plan().drained == DrainReason.VERIFYING
        for one_less in ({"committed": 7}, {"voided": 1}, {"released": 0}, {"expired": 1}):
            wrong = sale.sealed().seen(proof=make_proof(**one_less))
            assert wrong.plan().drained == DrainReason.PROOF_FAILED
        good = sale.sealed().seen(proof=GOOD_PROOF).plan()
        assert good.kinds == ["ConfigMap"]
        # The copy comes first. The report that permits the removal is written only when the copy exists.
        assert "report" not in good.status
        assert good.after is not None
        assert (good.after["report"]["verified"], good.after["report"]["committed"]) == (True, 8)

    def test_a_state_that_waits_for_a_person_is_looked_at_less_often(self) -> None:
        draining, blocked = given.closed().sealed(depth=5).plan(), given.closed().sealed(deadLetters=1).plan()
        assert draining.requeue_after is not None
        assert blocked.requeue_after is not None
        assert draining.requeue_after < blocked.requeue_after

    def test_the_drain_goes_on_while_children_are_repaired_and_bridges_scaled(self) -> None:
        decided = given.closed().sealed(depth=9_000).plan()
        assert ScaleBridges(4) in decided.steps
        assert "StatefulSet" in decided.kinds
        (configure,) = decided.all(Configure)
        assert not {"opensAt", "closesAt", "inventorySize"} & set(configure.config)

    def test_a_drain_without_db1_waits_and_says_so(self) -> None:
        decided = given.closed().new_db1(error="connection refused").plan()
        assert "connection refused" in decided.message(ConditionType.DRAINED)
        assert decided.reason(ConditionType.DEGRADED) == Problem.DATABASE_UNREACHABLE
        assert not decided.all(REMOVAL)

    def test_only_the_event_s_own_name_abandons_it(self) -> None:
        wrong = given.closed(annotations={names.ABANDON_ANNOTATION: "true"}).plan()
        assert not wrong.applied("ConfigMap")
        right = given.closed(annotations=ABANDONED).plan()
        (copy,) = right.applied()
        assert copy["data"]["verified"] == "false"
        assert right.after is not None
        assert right.after["report"]["verified"] is False


class TestRemoval:
    def test_an_abandoned_event_that_is_deleted_needs_no_report(self) -> None:
        states, steps = to_the_end(given.selling(deleted_at=OPENS, annotations=ABANDONED))
        assert states[-1] == DrainReason.COMPLETED
        assert not any(isinstance(s, Apply) for s in steps)

    def test_bridges_then_db1_then_volume_then_secrets_then_the_anchor_then_the_finalizer(self) -> None:
        states, steps = to_the_end(given.finished().bridges(1).with_pod("bridge"))
        assert states == [
            DrainReason.BRIDGES_STOPPED,
            DrainReason.DATABASE_STOPPED,
            DrainReason.VOLUMES_REMOVED,
            DrainReason.COMPLETED,
        ]
        assert list(dict.fromkeys(s.kind for s in steps if isinstance(s, Delete))) == [
            "Deployment",
            "StatefulSet",
            "PersistentVolumeClaim",
            "Service",
            "PodDisruptionBudget",
            "Secret",
            "NetworkPolicy",
        ]
        # The garbage collector may not remove a guarded pod: the controllers do, before the workload is deleted.
        assert steps.index(ScaleBridges(0)) < steps.index(Delete("Deployment", "taylor-drop-bridge"))
        assert steps.index(StopDatabase()) < steps.index(Delete("StatefulSet", "taylor-drop-db"))
        assert steps[-1] == RemoveFinalizer()
        status = given.finished().seen(**vars(Observed())).plan().status
        assert [status[name] for name in ("phase", "committed", "voided", "released")] == [Phase.COMPLETED, 8, 2, 1]

    def test_a_pod_that_has_not_ended_keeps_the_next_state_back(self) -> None:
        ending = given.make_pod(given.make_event(), "bridge")
        ending["metadata"]["deletionTimestamp"] = CLOSES.isoformat()
        decided = unguarded(given.finished()).seen(pods=(ending,)).plan()
        assert (decided.steps, decided.drained) == ((), DrainReason.BRIDGES_STOPPED)

    def test_pods_that_outlived_their_workload_are_deleted(self) -> None:
        """A workload was deleted by force: the guard keeps its pods from the garbage collector."""
        event = unguarded(given.finished()).seen(pods=())
        assert event.with_pod("bridge").plan().steps == (Delete("Pod", "taylor-drop-bridge-0"),)
        left = {key: child for key, child in event.observed.children.items() if key[0] != "StatefulSet"}
        database = event.seen(children=left).with_pod("database")
        assert database.plan().steps == (Delete("Pod", "taylor-drop-database-0"),)

    def test_i11_a_config_map_with_the_name_of_the_report_permits_no_removal(self) -> None:
        """Every user who may create ConfigMaps can make one, labels and all."""
        sale = given.closed().sealed(depth=50)
        key = ("ConfigMap", names.report("taylor-drop"))
        forged = {"kind": key[0], "metadata": {"name": key[1], "labels": common.labels(sale.event, "report")}}
        decided = sale.child(key, forged).plan()
        assert decided.drained == DrainReason.QUEUE_DRAINING
        assert not decided.all(REMOVAL)

    def test_an_event_that_was_never_claimable_is_removed_without_a_proof(self) -> None:
        states, steps = to_the_end(given.selling(deleted_at=OPENS).unmarked().new_db1())
        assert states[-1] == DrainReason.COMPLETED
        assert steps[-1] == RemoveFinalizer()
        assert all(isinstance(s, REMOVAL) for s in steps)

    def test_an_extended_window_does_not_reopen_a_finished_event(self) -> None:
        later = {"opensAt": OPENS.isoformat(), "closesAt": (OPENS + timedelta(days=2)).isoformat()}
        event = given.finished(spec={"window": later, "teardown": {"keepMinutes": 0}}).at(OPENS)
        decided = event.plan()
        assert not {"Seed", "Migrate"} & set(decided.kinds)
        assert decided.status["phase"] == Phase.DRAINING


class TestKept:
    def test_db1_stays_sealed_for_a_while_after_the_close_and_is_repaired(self) -> None:
        decided = given.finished().says(sealed=True, windowState="closed", ready=False)
        decided = decided.at(CLOSES + 9 * MINUTE).plan()
        assert decided.drained == DrainReason.KEPT
        assert Seed() in decided.steps, "else claims are answered not_ready, and claim_status says nothing"
        assert not {"Delete", "StopDatabase"} & set(decided.kinds)
        assert decided.status["nextTransitionTime"] == (CLOSES + 10 * MINUTE).isoformat()
        assert decided.status["connection"]["secretName"] == "taylor-drop-app"
        # Every claim is settled: the guard does not refuse it if a user deletes something now.
        assert not [m for m in decided.applied() if names.GUARD_LABEL in m["metadata"]["labels"]]
        assert not [m for m in decided.applied("PersistentVolumeClaim") if m["metadata"].get("finalizers")]

    @pytest.mark.parametrize(
        ("minutes", "changes"),
        [
            (10, {}),
            (1, {"deleted_at": CLOSES}),
            (1, {"namespace_deleted_at": CLOSES}),
            (1, {"annotations": ABANDONED}),
            (1, {"spec": {"teardown": {"keepMinutes": 0}}}),
        ],
        ids=["time", "deleted", "namespace", "abandoned", "nothing to keep"],
    )
    def test_it_ends_with_its_time_or_a_deletion(self, minutes: int, changes: dict[str, Any]) -> None:
        event = given.finished(**changes).at(CLOSES + minutes * MINUTE)
        assert event.plan().drained == DrainReason.BRIDGES_STOPPED


class TestAbandoned:
    ENDS: dict[str, Any] = {"committed": 8, "voided": 2, "released": 1, "queue": {"depth": 3, "deadLetters": 4}}  # noqa: RUF012
    COUNTS = ("claims", "committed", "queued", "deadLetters")

    def test_the_report_has_the_counts_and_the_audit_that_db1_gives(self) -> None:
        sale = given.closed(annotations=ABANDONED).says(**self.ENDS).db1(audit=('{"action": "replay"}',))
        final = self.report(sale.plan())
        assert [final[name] for name in (*self.COUNTS, "countedAt")] == [18, 8, 3, 4, CLOSES.isoformat()]
        assert sale.plan().applied()[0]["data"]["audit"] == '{"action": "replay"}'

    def test_the_report_has_the_last_counts_where_db1_cannot_be_asked(self) -> None:
        counted = (CLOSES - MINUTE).isoformat()
        status = self.ENDS | {"inventory": {}, "countedAt": counted}
        sale = given.closed(annotations=ABANDONED, status=status).new_db1(error="away")
        final = self.report(sale.plan())
        assert [final[name] for name in (*self.COUNTS, "countedAt")] == [18, 8, 3, 4, counted]
        assert "audit" not in sale.plan().applied()[0]["data"]

    @staticmethod
    def report(decided: Decided) -> dict[str, Any]:
        """The report that is written after the steps."""
        assert decided.after is not None
        return dict(decided.after["report"])


class TestNamespace:
    KNOWN: dict[str, Any] = {"database": {"systemIdentifier": "7251", "sellsFrom": OPENS.isoformat()}}  # noqa: RUF012

    def test_a_namespace_that_is_being_deleted_ends_the_sale(self) -> None:
        decided = given.selling(namespace_deleted_at=OPENS).plan()
        assert decided.steps[-1] == Seal("deleted")
        assert decided.reason(ConditionType.DEGRADED) == Problem.NAMESPACE_TERMINATING

    def test_no_object_is_created_in_it_and_the_drain_goes_on(self) -> None:
        sale = given.selling(namespace_deleted_at=OPENS)
        gone = {("Service", "taylor-drop-rw"), ("Secret", "taylor-drop-app")}
        children = {key: child for key, child in sale.observed.children.items() if key not in gone}
        secrets = {k: v for k, v in sale.observed.secret_fingerprints.items() if k != "taylor-drop-app"}
        decided = sale.seen(children=children, secret_fingerprints=secrets).plan()
        assert {(m["kind"], m["metadata"]["name"]) for m in decided.applied()} <= children.keys()
        assert "CreateCredentials" not in decided.kinds
        assert decided.steps[-1] == Seal("deleted")

    def test_a_drain_that_cannot_end_names_the_annotation_that_gives_it_up(self) -> None:
        decided = given.selling(namespace_deleted_at=OPENS).new_db1(error="no pod").seen(pods=()).plan()
        assert "intake-engine.io/abandon: taylor-drop" in decided.message(ConditionType.DEGRADED)
        assert not {"Delete", "RemoveFinalizer"} & set(decided.kinds)

    @pytest.mark.parametrize(("minutes", "removed"), [(60, True), (6, True), (4, False), (-1, False)])
    def test_i11_a_scheduled_event_is_removed_without_db1_only_well_before_the_earliest_opening(
        self, minutes: int, removed: bool
    ) -> None:
        event = given.scheduled(namespace_deleted_at=OPENS, status=self.KNOWN).new_db1(error="no pod").seen(pods=())
        decided = event.at(OPENS - minutes * MINUTE).plan()
        assert (decided.drained == DrainReason.BRIDGES_STOPPED) is removed

    def test_i11_the_earliest_opening_is_remembered_when_it_is_moved_back(self) -> None:
        opens = OPENS + timedelta(days=1)
        later = {"opensAt": opens.isoformat(), "closesAt": (opens + timedelta(days=1)).isoformat()}
        event = given.scheduled(status=self.KNOWN, spec={"window": later}).at(OPENS + timedelta(hours=1))
        decided = event.plan()
        assert decided.status["database"]["sellsFrom"] == OPENS.isoformat()
        gone = event.after(decided).changed(namespace_deleted_at=OPENS).new_db1().seen(pods=())
        assert gone.plan().drained == DrainReason.INTAKE_CLOSED


CLOSED = {"windowState": "closed"}


@pytest.mark.parametrize("hours", [-48, -1, 0, 1, 2, 48])
@pytest.mark.parametrize("deleted", [False, True], ids=["stays", "deleted"])
@pytest.mark.parametrize(
    "proof",
    [None, make_proof(LedgerAnswer.DIFFERS), make_proof(queued=1)],
    ids=["no proof", "the ledger differs", "a claim is queued"],
)
@pytest.mark.parametrize(
    "database",
    [
        DatabaseState(),
        DatabaseState(reachable=True),
        DatabaseState(reachable=True, migrated=True, status=make_status(ready=False)),
        DatabaseState(reachable=True, migrated=True, status=make_status(**CLOSED)),
        DatabaseState(reachable=True, migrated=True, status=make_status(**CLOSED, sealed=True)),
        DatabaseState(reachable=True, migrated=True, status=make_status(**CLOSED, sealed=True, held=1)),
    ],
    ids=["unreachable", "not migrated", "not ready", "closed", "sealed", "a claim is held"],
)
def test_i2_nothing_is_removed_without_proof_once_claims_were_possible(
    hours: int, deleted: bool, proof: Proof | None, database: DatabaseState
) -> None:
    """Whatever DB1 says or does not say, and whether or not the event is deleted."""
    event = given.scheduled(deleted_at=OPENS if deleted else None).seen(database=database, proof=proof)
    decided = event.at(OPENS + timedelta(hours=hours)).plan()
    assert not decided.all(REMOVAL)
    assert not decided.applied("ConfigMap")


def unguarded(event: Given) -> Given:
    """The same event without guard labels."""
    return after(event, [Unguard(*key) for key in event.observed.children])


def after(event: Given, steps: Iterable[Step]) -> Given:
    """What exists when the steps are done and the controllers have followed."""
    children, left = dict(event.observed.children), list(event.observed.pods)
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
                left = [pod for pod in left if pods.component(pod) != component]
            case Delete(kind, name):
                assert names.GUARD_LABEL not in children[kind, name]["metadata"]["labels"]
                assert not children[kind, name]["metadata"].get("finalizers")
                del children[kind, name]
    secrets = {name: word for name, word in event.observed.secret_fingerprints.items() if ("Secret", name) in children}
    observed = replace(event.observed, children=children, pods=tuple(left), secret_fingerprints=secrets)
    return replace(event, observed=observed)


def to_the_end(event: Given) -> tuple[list[str], list[Step]]:
    """The states of the removal, and all its steps."""
    states, steps = [], list[Step]()
    for _ in range(30):
        decided = event.plan()
        states.append(decided.drained)
        steps += decided.steps
        if decided.requeue_after is None:
            return list(dict.fromkeys(states)), steps
        assert decided.steps, "it waits for something that will not happen"
        event = after(event, decided.steps)
    raise AssertionError(f"no end: {states}")
