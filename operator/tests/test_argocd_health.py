"""Argo CD's health check of an IntakeEvent: its own cases, and every phase and problem that the operator can say."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import given
import pytest
import yaml
from given import CLOSES, Given
from intake_operator.model.observed import Observed
from intake_operator.reasons import ConditionType, DrainReason, Phase, Problem
from lupa import lua51
from planning import make_proof
from test_preflight import GOOD, UNREACHABLE, checked
from test_waiting import WEEKS_AHEAD, waiting

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "docs/argocd/resource_customizations/intake-engine.io/IntakeEvent"
SETTINGS = ROOT / "docs/argocd/argocd-cm.yaml"
CASES = yaml.safe_load((CHECK / "health_test.yaml").read_text(encoding="utf-8"))["tests"]
# Within the two minutes in which something may still come, and after them.
AT_FIRST = timedelta(seconds=119)
LATER = timedelta(seconds=121)

# What Argo CD's machine does not have for a check in argocd-cm, or what is of lupa.
NOT_THERE = ("string", "math", "io", "debug", "coroutine", "python")


@cache
def _machine() -> tuple[lua51.LuaRuntime, Any]:
    """Lua 5.1 as Argo CD runs it, with the check as a function."""
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    check = runtime.compile((CHECK / "health.lua").read_text(encoding="utf-8"))
    runtime.execute('getmetatable("").__index = nil')
    runtime.execute("local time, date = os.time, os.date; package.loaded.os = {time = time, date = date}; os = nil")
    for name in NOT_THERE:
        runtime.globals()[name] = None
    return runtime, check


def health(event: Mapping[str, Any], now: datetime | None = None) -> dict[str, str]:
    """What Argo CD shows of an event, now or at another time."""
    # Argo CD asks no check about an object that is being deleted.
    if "deletionTimestamp" in event["metadata"]:
        return {"status": "Progressing", "message": "Pending deletion"}
    runtime, check = _machine()
    _set_clock(runtime, now or datetime.now(UTC))
    # A copy without shared parts, which lupa loses.
    runtime.globals()["obj"] = runtime.table_from(json.loads(json.dumps(event)), recursive=True)
    return dict(check().items())


def _set_clock(runtime: lua51.LuaRuntime, now: datetime) -> None:
    """`os.date("!*t")` is this time."""
    set_clock = runtime.eval(
        """function(now)
            local os = require("os")
            local date = real_date or os.date
            real_date = date
            os.date = function(format, time)
                if time == nil then return date(format, now) end
                return date(format, time)
            end
        end"""
    )
    set_clock(now.timestamp())


def shown(sale: Given) -> dict[str, str]:
    """What Argo CD shows after this pass."""
    return with_status(sale, sale.plan().status)


def with_status(sale: Given, status: Mapping[str, Any], now: datetime | None = None) -> dict[str, str]:
    """What Argo CD shows of an event with this status, at the time of the pass or later."""
    paused = bool(sale.event.spec and sale.event.spec.paused)
    return health({"metadata": {"generation": 1}, "spec": {"paused": paused}, "status": status}, now or sale.now)


@pytest.mark.parametrize("case", CASES, ids=lambda case: Path(case["inputPath"]).stem)
def test_a_case_in_argo_cds_own_form(case: dict[str, Any]) -> None:
    event = yaml.safe_load((CHECK / case["inputPath"]).read_text(encoding="utf-8"))
    assert health(event) == case["healthStatus"]


def test_every_recorded_event_has_its_case() -> None:
    recorded = {f"testdata/{file.name}" for file in (CHECK / "testdata").iterdir()}
    assert [case["inputPath"] for case in CASES] == sorted(recorded)


def test_argocd_cm_has_the_same_check() -> None:
    data = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["data"]
    key = "resource.customizations.health.intake-engine.io_IntakeEvent"
    assert data == {key: (CHECK / "health.lua").read_text(encoding="utf-8")}


PHASES = {
    Phase.PENDING: (given.new(), "Progressing"),
    Phase.WAITING: (checked(*GOOD), "Healthy"),
    Phase.PROVISIONING: (given.scheduled().says(ready=False), "Progressing"),
    Phase.SCHEDULED: (given.scheduled(), "Healthy"),
    Phase.OPEN: (given.selling(), "Healthy"),
    Phase.DRAINING: (given.closed().sealed(depth=3), "Progressing"),
    Phase.COMPLETED: (given.finished().seen(children={}, pods=()), "Healthy"),
    Phase.FAILED: (given.invalid(), "Degraded"),
}

STARTING = (given.new(), checked(*GOOD), given.scheduled().says(ready=False))


@pytest.mark.parametrize("phase", Phase)
def test_the_health_of_a_phase(phase: Phase) -> None:
    sale, wanted = PHASES[phase]
    decided = sale.plan()
    assert decided.status["phase"] == phase
    seen = shown(sale)
    assert seen["status"] == wanted
    assert seen["message"] in {condition["message"] for condition in decided.status["conditions"]}


def test_a_waiting_event_is_progressing_while_it_is_checked_and_degraded_if_it_lacks_something() -> None:
    assert shown(waiting())["status"] == "Progressing"
    lacks = checked(UNREACHABLE).plan().status
    assert with_status(checked(UNREACHABLE), lacks)["status"] == "Progressing"
    assert with_status(checked(UNREACHABLE), lacks, WEEKS_AHEAD + LATER)["status"] == "Degraded"


def test_an_event_whose_window_had_passed_is_healthy() -> None:
    assert shown(replace(given.closed(finalizers=()), observed=Observed()))["status"] == "Healthy"


@pytest.mark.parametrize("sale", [waiting, given.scheduled, given.selling])
def test_a_paused_event_is_suspended(sale: given.Make[Given]) -> None:
    assert shown(sale(spec={"paused": True}))["status"] == "Suspended"


def test_a_paused_event_starts_all_the_same() -> None:
    assert shown(given.scheduled(spec={"paused": True}).says(ready=False))["status"] == "Progressing"


def test_a_paused_drain_is_suspended_and_a_paused_event_that_is_over_is_healthy() -> None:
    paused = {"spec": {"paused": True}}
    assert shown(given.closed(**paused).sealed(depth=3))["status"] == "Suspended"
    assert shown(given.finished(**paused).seen(children={}, pods=()))["status"] == "Healthy"


def test_a_kept_database_is_healthy_because_every_claim_is_settled() -> None:
    sale = given.finished(spec={"teardown": {"keepMinutes": 60}}).at(CLOSES + timedelta(minutes=20))
    assert sale.plan().drained == DrainReason.KEPT
    assert shown(sale)["status"] == "Healthy"


def test_a_drain_that_waits_for_a_person_is_degraded() -> None:
    dead = given.closed().sealed(deadLetters=2)
    failed = given.closed().sealed().seen(proof=make_proof(committed=7))
    for sale, reason in ((dead, DrainReason.DEAD_LETTERS_BLOCK), (failed, DrainReason.PROOF_FAILED)):
        assert sale.plan().drained == reason
        assert shown(sale)["status"] == "Degraded"


def degraded(sale: Given, problem: Problem, since: timedelta = timedelta(0)) -> dict[str, str]:
    """What Argo CD shows of an event that has had this problem for so long."""
    status = sale.plan().status
    began = sale.now.isoformat(timespec="seconds")
    found = {"status": "True", "reason": problem.value, "message": "what to do", "lastTransitionTime": began}
    conditions = [c | found if c["type"] == ConditionType.DEGRADED else c for c in status["conditions"]]
    return with_status(sale, status | {"conditions": conditions}, sale.now + since)


@pytest.mark.parametrize("problem", Problem)
def test_every_problem_is_degraded(problem: Problem) -> None:
    for sale in (given.scheduled(), given.selling(), given.closed().sealed(depth=3)):
        assert degraded(sale, problem) == {"status": "Degraded", "message": "what to do"}


# While the whole Application is being applied: what is not there may be the next to come.
MAY_COME = {
    Problem.PODS_NOT_STARTING,
    Problem.DATABASE_UNREACHABLE,
    Problem.LEDGER_SECRET_MISSING,
    Problem.LEDGER_SECRET_KEY_MISSING,
    Problem.LEDGER_UNREACHABLE,
    Problem.LEDGER_FUNCTION_MISSING,
    Problem.INVENTORY_MISSING,
    Problem.LEDGER_DOWN,
    Problem.VALIDATOR_DOWN,
}


@pytest.mark.parametrize("problem", Problem)
def test_only_what_may_still_come_is_progressing_and_only_at_first(problem: Problem) -> None:
    wanted = "Progressing" if problem in MAY_COME else "Degraded"
    for sale in STARTING:
        assert degraded(sale, problem, AT_FIRST) == {"status": wanted, "message": "what to do"}
        assert degraded(sale, problem, LATER) == {"status": "Degraded", "message": "what to do"}


@pytest.mark.parametrize("month", [1, 7])
def test_the_two_minutes_are_those_of_utc_wherever_argo_cd_runs(month: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    now = datetime(2027, month, 1, tzinfo=UTC)
    try:
        for ago, wanted in ((AT_FIRST, "Progressing"), (LATER, "Degraded")):
            since = (now - ago).isoformat(timespec="seconds")
            missing = {"type": "Degraded", "status": "True", "reason": "LedgerUnreachable", "lastTransitionTime": since}
            status = {"phase": "Pending", "conditions": [missing | {"message": ""}]}
            assert health({"metadata": {}, "spec": {}, "status": status}, now)["status"] == wanted
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_status_of_an_older_spec_is_progressing() -> None:
    status = given.selling().plan().status
    seen = health({"metadata": {"generation": 2}, "spec": {}, "status": status})
    assert seen == {"status": "Progressing", "message": "waiting for the operator to see the new spec"}


def test_an_event_that_no_pass_has_seen_is_progressing() -> None:
    for status in (None, {}, {"kopf": {}}):
        event = {"metadata": {"generation": 1}, "spec": {}} | ({} if status is None else {"status": status})
        assert health(event) == {"status": "Progressing", "message": "waiting for the operator"}
