"""What is checked while an event waits: what each check finds, and what follows from it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import given
import pytest
from given import INSTALLATION, OPENS, Given
from intake_operator.decide import preflight, quota
from intake_operator.decide.preflight import SELDOM, SOON, WHILE_GOOD, question, rest
from intake_operator.decide.steps import CheckAhead
from intake_operator.decide.wait import WHILE_WAITING
from intake_operator.model.observed import InventoryState, LedgerState, Manifest, PoolCheck
from intake_operator.model.preflight import Answer, Check, Preflight, failed, not_asked, ok
from intake_operator.model.quantity import amount, shown
from intake_operator.model.spec import Storage
from intake_operator.reasons import ConditionType, PoolReason, Problem
from planning import SECOND
from test_waiting import HOUR, WEEKS_AHEAD, waiting

PASSED, DEGRADED = ConditionType.PREFLIGHT_PASSED, ConditionType.DEGRADED
GOOD = (ok("secrets"), ok("ledger"), not_asked("quota", "no right to read it"))
UNREACHABLE = failed("ledger", Problem.LEDGER_UNREACHABLE, "the ledger cannot be reached. Correct the Secret.")
NO_ROWS = failed("inventory", Problem.INVENTORY_TOO_SMALL, "it has 3 rows. Append rows.")


def answered(*checks: Check, **changes: Any) -> Preflight:
    """Answers of three weeks ahead."""
    since = WEEKS_AHEAD if any(check.problem for check in checks) else None
    return Preflight(checks, WEEKS_AHEAD, **({"generation": 1, "failing_since": since} | changes))


def checked(*checks: Check, **changes: Any) -> Given:
    """An event that waits, with these answers."""
    return waiting(**changes).seen(preflight=answered(*checks))


class TestCondition:
    def test_each_check_is_a_line_and_what_may_not_be_asked_blocks_nothing(self) -> None:
        decided = checked(*GOOD).plan()
        condition = decided.condition(PASSED)
        assert (condition["status"], condition["reason"]) == ("True", "ChecksPassed")
        lines = ["checked at 2026-11-10T18:00:00+00:00", "secrets: ok", "ledger: ok"]
        assert condition["message"].splitlines() == [*lines, "quota: NotAsked (no right to read it)"]
        assert decided.condition(DEGRADED)["status"] == "False"

    def test_a_failed_check_has_the_reason_that_it_would_have_later_the_most_fundamental_first(self) -> None:
        decided = checked(UNREACHABLE, NO_ROWS, *GOOD).plan()
        for kind in (PASSED, DEGRADED, ConditionType.READY):
            assert decided.reason(kind) == Problem.INVENTORY_TOO_SMALL
        assert decided.condition(PASSED)["status"] == "False"
        assert "ledger: Failed (the ledger cannot be reached" in decided.message(PASSED)
        assert "cannot be reached" in decided.message(DEGRADED)
        assert decided.reason(ConditionType.LEDGER_READY) == Problem.LEDGER_UNREACHABLE

    def test_before_the_first_answer_nothing_is_known(self) -> None:
        decided = waiting().plan()
        assert (decided.condition(PASSED)["status"], decided.reason(PASSED)) == ("Unknown", "ChecksRunning")
        # It came too late to be answered.
        later = waiting().after(decided).at(OPENS).plan()
        assert (later.condition(PASSED)["status"], later.reason(PASSED)) == ("Unknown", "NotChecked")

    def test_a_failed_check_stops_no_provisioning(self) -> None:
        sale = checked(UNREACHABLE).at(OPENS - HOUR)
        assert "StatefulSet" in sale.after(checked(UNREACHABLE).plan()).plan().kinds

    def test_after_provisioning_the_last_answer_stands_with_its_time_and_is_not_asked_again(self) -> None:
        before = checked(UNREACHABLE)
        sale = before.after(before.plan()).changed(generation=2).at(OPENS).seen(preflight_due=True)
        for later in (sale, sale.seen(**vars(given.selling().observed))):
            decided = later.plan()
            assert decided.condition(PASSED) == before.plan().condition(PASSED)
            assert decided.condition(PASSED)["observedGeneration"] == 1
            assert decided.condition(DEGRADED)["status"] == "False"
            assert not decided.all(CheckAhead)

    def test_an_edit_or_a_restart_leaves_the_last_answer_until_the_next(self) -> None:
        before = checked(UNREACHABLE, NO_ROWS)
        restarted = before.after(before.plan()).seen(preflight=None, preflight_due=True).plan()
        assert restarted.condition(PASSED) == before.plan().condition(PASSED)
        assert restarted.condition(DEGRADED) == before.plan().condition(DEGRADED)
        assert restarted.all(CheckAhead) == [CheckAhead()]
        edited = before.changed(generation=2).plan()
        assert edited.condition(PASSED)["observedGeneration"] == 1
        assert edited.condition(DEGRADED)["observedGeneration"] == 2

    def test_a_spec_that_was_invalid_is_not_taken_for_a_failed_check(self) -> None:
        broken = given.invalid()
        corrected = waiting().after(broken.plan()).plan()
        assert corrected.condition(DEGRADED)["status"] == "False"


class TestWhen:
    def test_checks_are_asked_once_the_finalizer_is_there(self) -> None:
        due = waiting().seen(preflight_due=True)
        assert due.plan().steps[0] == CheckAhead()
        assert not due.changed(finalizers=()).plan().all(CheckAhead)

    @pytest.mark.parametrize(
        ("failing", "again"), [(0, SOON), (60, 60 * SECOND), (299, 299 * SECOND), (3600, SELDOM)], ids=str
    )
    def test_what_fails_is_asked_again_after_as_long_as_it_has_failed(self, failing: int, again: timedelta) -> None:
        known = answered(UNREACHABLE, failing_since=WEEKS_AHEAD - failing * SECOND)
        assert rest(known) == again
        assert waiting().seen(preflight=known).plan().requeue_after == again

    def test_what_is_good_counts_for_an_hour(self) -> None:
        assert rest(answered(*GOOD)) == WHILE_GOOD
        assert checked(*GOOD).plan().requeue_after == WHILE_WAITING

    def test_an_edit_an_annotation_and_a_changed_secret_are_another_question(self) -> None:
        event, secrets = waiting().event, {"core-ledger": "a"}
        asked = question(event, secrets)
        assert question(event, dict(secrets)) == asked
        annotated = waiting(annotations={"ask": "again"}).event
        others = [question(waiting(generation=2).event, secrets), question(annotated, secrets)]
        others += [question(event, {}), question(event, {"core-ledger": "b"})]
        assert asked not in others


MISSING = LedgerState(Problem.LEDGER_SECRET_MISSING, "Secret a does not exist. Create it.")
NO_KEY = LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, "Secret b has no key uri. Add it.")


class TestSecretsAndPool:
    def test_every_secret_that_is_missing_is_named(self) -> None:
        found = preflight.of_secrets([LedgerState(), MISSING, NO_KEY])
        assert (found.answer, found.problem) == (Answer.FAILED, Problem.LEDGER_SECRET_MISSING)
        assert "Secret a" in found.message
        assert "Secret b" in found.message
        assert preflight.of_secrets([LedgerState()]) == ok("secrets")

    @pytest.mark.parametrize(
        ("reason", "answer", "problem"),
        [
            (PoolReason.UNUSED, Answer.OK, None),
            (PoolReason.NOT_CHECKED, Answer.NOT_ASKED, None),
            (PoolReason.WAITING, Answer.NOT_ASKED, None),
            (PoolReason.USED_BEFORE, Answer.FAILED, Problem.POOL_USED_BEFORE),
            (PoolReason.IN_USE, Answer.FAILED, Problem.POOL_IN_USE),
        ],
    )
    def test_a_pool_that_was_sold_or_is_about_to_be_fails(
        self, reason: PoolReason, answer: Answer, problem: Problem | None
    ) -> None:
        found = preflight.of_pool(PoolCheck(reason, "why"))
        assert (found.answer, found.problem) == (answer, problem)


@pytest.mark.parametrize(
    ("volume", "there", "answer"),
    [
        (Storage(storage_class_name="fast"), ["fast"], Answer.OK),
        (Storage(storage_class_name="fast"), [], Answer.FAILED),
        (Storage(), ["default"], Answer.OK),
        (Storage(), ["other"], Answer.NOTED),
        (Storage(), [], Answer.NOTED),
    ],
    ids=["there", "missing", "the default", "no default", "none at all"],
)
def test_the_storage_class_exists(volume: Storage, there: list[str], answer: Answer) -> None:
    default = {preflight.DEFAULT_CLASS: "true"}
    found = [{"metadata": {"name": name, "annotations": default if name == "default" else None}} for name in there]
    check = preflight.of_storage_class(volume, found)
    assert check.answer == answer
    assert (check.problem is Problem.PODS_NOT_STARTING) is (answer == Answer.FAILED)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"window": (0, 59)}, "open for 59 seconds"),
        ({"window": (0, 32 * 86_400)}, "open for 32 days"),
        ({"window": (367 * 86_400, 7200)}, "opens in 388 days"),
        ({"provisioning": {"leadTimeMinutes": 2}}, "made 2 minutes before it opens"),
        ({"checkout": {"holdSeconds": 601}}, "keepMinutes 10 is shorter than a hold"),
        ({"checkout": {"holdSeconds": 600}}, ""),
    ],
)
def test_a_window_that_a_person_may_not_have_meant_is_noted(changes: dict[str, Any], says: str) -> None:
    if "window" in changes:
        begin, length = (timedelta(seconds=each) for each in changes["window"])
        window = {"opensAt": (OPENS + begin).isoformat(), "closesAt": (OPENS + begin + length).isoformat()}
        changes = {"window": window}
    found = preflight.of_window(given.make_spec(**changes), WEEKS_AHEAD)
    assert found.answer == (Answer.NOTED if says else Answer.OK)
    assert says in found.message


def test_a_large_inventory_is_read_in_part_and_that_is_told() -> None:
    assert preflight.of_inventory(InventoryState(), 50_000, 50_000) == ok("inventory")
    large = preflight.of_inventory(InventoryState(), 10_000_000, 50_000)
    assert str(large) == "inventory: ok (the first 50000 of 10000000 rows were read)"


class TestQuota:
    @staticmethod
    def room(*quotas: Manifest, **spec: Any) -> Check:
        """What is said of these quotas; an event with the default resources, and four bridges."""
        event = given.make_event(spec=given.make_spec(**spec))
        assert event.spec is not None
        return quota.room(event, event.spec, INSTALLATION, quotas)

    @staticmethod
    def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Manifest:
        return {"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}

    # DB1 requests 250m and 512Mi, a bridge 100m and 96Mi.
    @pytest.mark.parametrize(
        ("hard", "used", "answer", "says"),
        [
            ({"requests.memory": "896Mi"}, {}, Answer.OK, ""),
            ({"memory": "895Mi"}, {}, Answer.NOTED, "895Mi of memory left, and 896Mi are wanted for DB1 and 4 bridges"),
            ({"requests.memory": "1Gi"}, {"requests.memory": "417Mi"}, Answer.FAILED, "607Mi of requests.memory left"),
            ({"cpu": "0.35"}, {}, Answer.NOTED, "350m of cpu left, and 650m are wanted"),
            ({"requests.cpu": "349m"}, {}, Answer.FAILED, "too little for DB1 and 1 bridge"),
            ({"pods": "1"}, {}, Answer.FAILED, "1 of pods left, and 2 are wanted"),
            ({"pods": "5"}, {"pods": "0"}, Answer.OK, ""),
            ({"requests.storage": "1Gi"}, {}, Answer.FAILED, "1024Mi of requests.storage left, and 2048Mi are wanted"),
            ({"persistentvolumeclaims": "3"}, {"persistentvolumeclaims": "3"}, Answer.FAILED, "0 of persistentvolume"),
            ({"count/deployments.apps": "0"}, {}, Answer.FAILED, "count/deployments.apps"),
            ({"requests.memory": "1Gi"}, {"requests.memory": "2Gi"}, Answer.FAILED, "has 0Mi of requests.memory"),
            ({"limits.cpu": "10"}, {}, Answer.NOTED, "counts limits.cpu, and DB1 and bridges have none"),
            ({"services": "0", "example.com/gpu": "0"}, {}, Answer.OK, ""),
        ],
        ids=str,
    )
    def test_what_is_left_is_compared_with_what_db1_and_the_bridges_want(
        self, hard: dict[str, str], used: dict[str, str], answer: Answer, says: str
    ) -> None:
        found = self.room(self.quota(hard, used))
        assert (found.answer, found.problem is None) == (answer, answer != Answer.FAILED)
        assert says in found.message

    def test_no_quota_is_room_enough(self) -> None:
        assert self.room() == ok("quota")

    def test_a_volume_of_a_class_is_counted_under_that_class_and_none_without_a_volume(self) -> None:
        name = "fast.storageclass.storage.k8s.io/requests.storage"
        classed = {"database": {"storage": {"size": "2Gi", "storageClassName": "fast"}}}
        assert self.room(self.quota({name: "1Gi"}), **classed).answer == Answer.FAILED
        assert self.room(self.quota({name: "1Gi"})).answer == Answer.OK
        assert self.room(self.quota({"requests.storage": "0"}), database={"ephemeral": {}}).answer == Answer.OK

    def test_a_limit_is_the_request_where_none_is_given(self) -> None:
        big = {"database": {"resources": {"limits": {"memory": "4Gi", "cpu": "1"}}}}
        assert self.room(self.quota({"requests.memory": "4Gi"}), **big).answer == Answer.FAILED
        assert self.room(self.quota({"limits.memory": "4Gi"}), **big).answer == Answer.NOTED

    @pytest.mark.parametrize(
        ("scope", "answer"),
        [
            ({"scopes": ["NotTerminating"]}, Answer.FAILED),
            ({"scopes": ["BestEffort"]}, Answer.OK),
            ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass"}]}}, Answer.NOTED),
        ],
        ids=str,
    )
    def test_a_quota_for_other_pods_is_not_compared(self, scope: dict[str, Any], answer: Answer) -> None:
        assert self.room(self.quota({"pods": "0"}, **scope)).answer == answer


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", 1),
        (2, 2),
        ("250m", Decimal("0.25")),
        ("0.5", Decimal("0.5")),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("2k", 2000),
        ("3M", 3_000_000),
        ("1e3", 1000),
        ("1E", 10**18),
        ("12E2", 1200),
        ("100n", Decimal("1e-7")),
        ("5u", Decimal("5e-6")),
        ("1Ei", 2**60),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(quantity: str | int, number: Decimal | int) -> None:
    assert amount(quantity) == number


@pytest.mark.parametrize("wrong", ["", "1 Gi", "1Kb", "m", "1.2.3"])
def test_what_is_no_quantity_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        amount(wrong)


def test_quantities_are_shown_for_people() -> None:
    assert shown("requests.memory", Decimal(2**30)) == "1024Mi"
    assert shown("cpu", Decimal("1.5")) == "1500m"
    assert shown("pods", Decimal(3)) == "3"
