"""The pure rules, as tables with a clock that the test turns."""

import itertools
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_bridge.adapters.webhook import finish
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.backoff import Backoff
from intake_bridge.domain.breaker import Breaker, BreakerTuning, Circuit
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message, State
from intake_bridge.domain.outcomes import Blame, Result, Transport
from intake_bridge.observability.logs import JsonFormatter
from intake_bridge.ports import HttpReply
from intake_bridge.redaction import redacted
from intake_bridge.settings import MissingSettingError, Secrets, load
from pydantic import ValidationError


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def highest(_: float, high: float) -> float:
    """The longest wait that the jitter may choose."""
    return high


# --- outcomes ---

VALIDATE = [
    # status, word, result, blame, counted
    (200, "approved", Result.APPROVED, Blame.CLAIM, False),
    (201, "declined", Result.DECLINED, Blame.CLAIM, False),
    (200, None, Result.RETRY, Blame.TARGET, False),
    (200, "maybe", Result.RETRY, Blame.TARGET, False),
    (204, None, Result.RETRY, Blame.TARGET, False),
    (301, None, Result.RETRY, Blame.TARGET, False),
    (302, "approved", Result.RETRY, Blame.TARGET, False),
    (400, None, Result.RETRY, Blame.SUSPECT, True),
    (401, None, Result.RETRY, Blame.TARGET, False),
    (402, None, Result.DECLINED, Blame.CLAIM, False),
    (403, None, Result.RETRY, Blame.TARGET, False),
    (403, "declined", Result.DECLINED, Blame.CLAIM, False),
    (404, "declined", Result.RETRY, Blame.TARGET, False),
    (405, None, Result.RETRY, Blame.TARGET, False),
    (408, None, Result.RETRY, Blame.SUSPECT, True),
    (409, None, Result.RETRY, Blame.CLAIM, True),
    (409, "declined", Result.DECLINED, Blame.CLAIM, False),
    (410, None, Result.DECLINED, Blame.CLAIM, False),
    (415, None, Result.RETRY, Blame.TARGET, False),
    (418, None, Result.RETRY, Blame.SUSPECT, True),
    (422, None, Result.DECLINED, Blame.CLAIM, False),
    (422, "approved", Result.RETRY, Blame.TARGET, False),  # it contradicts itself: nobody is declined or approved
    (425, None, Result.RETRY, Blame.CLAIM, True),
    (429, None, Result.RETRY, Blame.CLAIM, False),
    (500, None, Result.RETRY, Blame.SUSPECT, True),
    (500, "approved", Result.RETRY, Blame.SUSPECT, True),
    (503, None, Result.RETRY, Blame.SUSPECT, True),
    (700, None, Result.RETRY, Blame.TARGET, False),
]


@pytest.mark.parametrize(("status", "word", "result", "blame", "counted"), VALIDATE)
def test_validate(status: int, word: str | None, result: Result, blame: Blame, counted: bool) -> None:
    outcome = table.of_status(status, word, table.DECISIONS, table.VALIDATE_STATUS)
    assert (outcome.result, outcome.blame, outcome.counted) == (result, blame, counted)


COMMIT = [
    (200, "committed", Result.COMMITTED, False),
    (200, "duplicate", Result.COMMITTED, False),
    (200, "voided", Result.DEAD, False),
    (200, "conflict", Result.DEAD, True),
    (200, None, Result.RETRY, False),
    (402, None, Result.DEAD, False),
    (409, "conflict", Result.DEAD, True),
    (409, None, Result.RETRY, False),
    (422, None, Result.DEAD, False),
    (500, "committed", Result.RETRY, False),
]


@pytest.mark.parametrize(("status", "word", "result", "page"), COMMIT)
def test_commit_webhook_ends_in_committed_or_dead(status: int, word: str | None, result: Result, page: bool) -> None:
    outcome = table.of_status(status, word, table.COMMIT_WORDS, table.COMMIT_STATUS)
    assert (outcome.result, outcome.page) == (result, page)


@given(st.integers(100, 999), st.none() | st.sampled_from(["approved", "declined", "x"]))
def test_only_a_2xx_approves(status: int, word: str | None) -> None:
    outcome = table.of_status(status, word, table.DECISIONS, table.VALIDATE_STATUS)
    assert (outcome.result is Result.APPROVED) == (word == "approved" and 200 <= status < 300)


@given(st.integers(100, 999), st.none() | st.sampled_from([*table.COMMIT_WORDS, "x"]))
def test_only_a_2xx_commits(status: int, word: str | None) -> None:
    outcome = table.of_status(status, word, table.COMMIT_WORDS, table.COMMIT_STATUS)
    assert (outcome.result is Result.COMMITTED) == (word in {"committed", "duplicate"} and 200 <= status < 300)


@given(st.integers(100, 999))
def test_one_status_never_declines_a_whole_batch(status: int) -> None:
    outcome = table.of_status(status, None, table.DECISIONS, table.BATCH_STATUS)
    assert outcome.result is Result.RETRY


@given(st.integers(100, 999), st.none() | st.text())
def test_i3_a_commit_webhook_never_voids(status: int, word: str | None) -> None:
    outcome = table.of_status(status, word, table.COMMIT_WORDS, table.COMMIT_STATUS)
    assert outcome.result in {Result.COMMITTED, Result.DEAD, Result.RETRY}


@pytest.mark.parametrize(
    ("kind", "blame", "counted"),
    [
        (Transport.UNREACHABLE, Blame.TARGET, False),
        (Transport.TIMEOUT, Blame.SUSPECT, True),
        (Transport.BROKEN, Blame.SUSPECT, True),
        (Transport.TOO_LARGE, Blame.TARGET, False),
    ],
)
def test_without_an_answer_it_is_retried(kind: Transport, blame: Blame, counted: bool) -> None:
    outcome = table.of_transport(kind, "why")
    assert (outcome.result, outcome.blame, outcome.counted, outcome.reason) == (Result.RETRY, blame, counted, "why")


@pytest.mark.parametrize(
    ("sqlstate", "blame", "counted"),
    [
        (None, Blame.TARGET, False),
        ("08006", Blame.TARGET, False),
        ("25006", Blame.TARGET, False),
        ("28P01", Blame.TARGET, False),
        ("3D000", Blame.TARGET, False),
        ("42883", Blame.TARGET, False),
        ("42501", Blame.TARGET, False),
        ("53300", Blame.TARGET, False),
        ("57P01", Blame.TARGET, False),
        ("57014", Blame.SUSPECT, False),
        ("40001", Blame.SUSPECT, False),
        ("40P01", Blame.SUSPECT, False),
        ("55P03", Blame.SUSPECT, False),
        ("22P02", Blame.CLAIM, True),
        ("23505", Blame.CLAIM, True),
        ("P0001", Blame.CLAIM, True),
    ],
)
def test_a_failed_ledger_statement(sqlstate: str | None, blame: Blame, counted: bool) -> None:
    outcome = table.of_sqlstate(sqlstate, "why")
    assert (outcome.result, outcome.blame, outcome.counted) == (Result.RETRY, blame, counted)


def test_the_words_of_a_ledger() -> None:
    said = {word: table.of_word(word, table.LEDGER_WORDS) for word in ("committed", "duplicate", "voided", "conflict")}
    assert [each.result for each in said.values()] == [Result.COMMITTED, Result.COMMITTED, Result.VOIDED, Result.DEAD]
    assert said["conflict"].page
    assert table.of_word("ok", table.LEDGER_WORDS).blame is Blame.TARGET
    assert table.of_word(None, table.LEDGER_WORDS).blame is Blame.TARGET
    assert table.of_word("committed", table.VOID_WORDS).result is Result.COMMITTED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0", 0.0), ("-5", 0.0), ("1e9", 300.0), ("soon", None), ("nan", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2515 07:28:00 GMT", 300.0)],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None) -> None:
    reply = HttpReply(429, b"", {} if header is None else {"Retry-After": header})
    assert finish(table.Outcome(Result.RETRY), reply, {}).retry_after == seconds


# --- backoff ---


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 1), (1, 2), (3, 8), (5, 32), (6, 60), (10_000, 60)])
def test_backoff_is_full_jitter_below_a_doubling_ceiling(failures: int, ceiling: float) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    Backoff().delay(failures, uniform)
    assert asked == [(0.0, ceiling)]


# --- breaker ---


def test_breaker_opens_after_suspects_in_a_row_and_one_success_resets_them() -> None:
    breaker = Breaker(Clock(), highest)
    for _ in range(4):
        breaker.suspected("500")
    breaker.succeeded()
    for _ in range(4):
        breaker.suspected("500")
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.CLOSED, 100, None)
    breaker.suspected("500")
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.OPEN, 0, "500")


def test_breaker_probes_with_one_message_ever_less_often_and_closes_on_success() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest, BreakerTuning(first_probe_seconds=1, last_probe_seconds=4))
    breaker.trip("refused")
    waits = []
    for _ in range(4):
        waits.append(breaker.wait())
        clock.now += breaker.wait() - 0.001
        assert breaker.allowance(100) == 0
        clock.now += 0.001
        assert (breaker.circuit, breaker.allowance(100), breaker.tripped) == (Circuit.HALF_OPEN, 1, True)
        breaker.suspected("500")
    assert waits == [1, 2, 4, 4]
    clock.now += breaker.wait()
    breaker.succeeded()
    assert (breaker.circuit, breaker.allowance(100), breaker.error) == (Circuit.CLOSED, 100, None)
    breaker.trip("refused")
    assert breaker.wait() == 1


def test_breaker_counts_one_outage_once_however_many_calls_were_under_way() -> None:
    breaker = Breaker(Clock(), highest)
    for _ in range(50):
        breaker.trip("refused")
    assert breaker.wait() == 1


def test_breaker_hold_is_a_pause_and_no_fault() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.hold(3)
    assert (breaker.allowance(100), breaker.wait(), breaker.tripped, breaker.error) == (0, 3, False, None)
    clock.now += 3
    assert breaker.allowance(100) == 100


def test_breaker_withdraws_an_old_error_when_there_is_nothing_to_probe_with() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.trip("refused")
    clock.now += 30
    breaker.forget_if_idle()
    assert breaker.error == "refused"
    clock.now += 31
    breaker.forget_if_idle()
    assert breaker.allowance(100) == 100
    assert not breaker.tripped


def _outage(seconds: float, workers: int, claims: int) -> list[int]:
    """The counted failures of each claim while every answer is a 500, read by whichever worker may read, in turns."""
    clock = Clock()
    breakers = [Breaker(clock, highest) for _ in range(workers)]
    failures, due = [0] * claims, [clock.now] * claims
    end = clock.now + seconds
    for turn in itertools.count():
        clock.now += 0.5
        if clock.now >= end:
            return failures
        breaker = breakers[turn % workers]
        for claim in [each for each in range(claims) if due[each] <= clock.now][: breaker.allowance(100)]:
            breaker.suspected("500")
            excused = breaker.excuses(failures[claim])
            failures[claim] += not excused
            due[claim] = clock.now + (2 * breaker.wait() if excused else Backoff().delay(failures[claim] - 1, highest))
        if not any(each <= clock.now for each in due):
            breaker.forget_if_idle()
    raise AssertionError


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("claims", [1, 2, 4, 40])
def test_i2_a_target_that_answers_500_for_an_hour_makes_no_dead_letter(workers: int, claims: int) -> None:
    assert max(_outage(3600, workers, claims)) <= 4  # of the ten that are the default


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_claim_that_fails_alone_for_longer_than_any_outage_is_counted_again(workers: int) -> None:
    (failures,) = _outage(2 * 3600 + 1800, workers, 1)
    assert failures > 10


def test_a_target_that_cannot_be_reached_is_no_failure_of_a_claim_however_long() -> None:
    clock = Clock()
    breaker = Breaker(clock, highest)
    breaker.suspected("500")
    for _ in range(24 * 60):
        clock.now += 60
        breaker.trip("refused")
    assert breaker.excuses(0)
    breaker.suspected("500")
    assert breaker.excuses(0)


# --- lease ---


@pytest.mark.parametrize(("visibility", "usable"), [(1, 0.8), (5, 4), (45, 40), (3600, 3595)])
def test_lease_ends_before_the_visibility_timeout(visibility: float, usable: float) -> None:
    clock = Clock()
    lease = Lease(clock, clock.now, visibility)
    clock.now += usable - 0.01
    assert lease.holds(1)
    clock.now += 0.02
    assert not lease.holds(1)
    assert lease.remaining() == 0


def test_lease_counts_from_the_start_of_the_read_and_of_the_extension() -> None:
    clock = Clock()
    lease = Lease(clock, clock.now - 3, 5)
    assert lease.remaining() == 1
    started = clock.now
    clock.now += 0.5
    lease.extended(started)
    assert lease.remaining() == 3.5
    lease.lose([7])
    assert (lease.holds(7), lease.holds(8)) == (False, True)


# --- configuration, settings, logs ---

FROM_SQL: dict[str, Any] = {
    "inventorySize": 10, "batchSize": 7, "opensAt": "x", "closesAt": "y", "visibilityTimeoutSeconds": 45,
    "maxRetries": 10, "paused": False, "claimsPerUser": None, "holdTimeoutSeconds": None, "maxPerSecond": None,
    "validation": {"url": "http://v", "timeoutSeconds": 5, "batch": True},
    "commitTarget": {"postgres": {"function": "shop.finalize"}}, "generation": 3, "sealed": False,
    "windowState": "open", "somethingNew": 1,
}  # fmt: skip


def test_configuration_as_the_sql_hands_it_out() -> None:
    configuration = Configuration.model_validate(FROM_SQL)
    assert (configuration.batch_size, configuration.generation) == (7, 3)
    assert configuration.latency_budget_milliseconds == 1000
    assert configuration.validation is not None
    assert configuration.validation.batch
    wrapped = Configuration.model_validate(FROM_SQL | {"validation": {"webhook": FROM_SQL["validation"]}})
    assert wrapped.validation == configuration.validation
    assert Configuration.model_validate(FROM_SQL | {"validation": None, "commitTarget": None}).commit_target is None


@pytest.mark.parametrize("function", ["f; DROP TABLE x", 'f"', "a.b.c", "F", ""])
def test_a_function_name_that_is_none_is_refused(function: str) -> None:
    with pytest.raises(ValidationError):
        Configuration.model_validate(FROM_SQL | {"commitTarget": {"postgres": {"function": function}}})


def test_a_target_is_one_of_two() -> None:
    for target in ({}, {"postgres": {}, "webhook": {"url": "http://c"}}):
        with pytest.raises(ValidationError, match="exactly one"):
            Configuration.model_validate(FROM_SQL | {"commitTarget": target})


async def test_secrets_from_files_are_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "uri"
    file.write_text("first\n")
    secrets = Secrets({"INTAKE_LEDGER_URI": "ignored", "INTAKE_LEDGER_URI_FILE": str(file)})
    assert await secrets.required("INTAKE_LEDGER_URI") == "first"
    file.write_text("second")
    assert await secrets.required("INTAKE_LEDGER_URI") == "second"
    file.unlink()
    with pytest.raises(MissingSettingError, match="INTAKE_LEDGER_URI_FILE"):
        await secrets.required("INTAKE_LEDGER_URI")
    with pytest.raises(MissingSettingError, match="neither INTAKE_X nor INTAKE_X_FILE"):
        await secrets.required("INTAKE_X")


async def test_two_lives_of_one_pod_are_two_workers() -> None:
    environment = {"INTAKE_DATABASE_URI": "postgresql://x", "INTAKE_POOL": "drop", "INTAKE_WORKER": "uid"}
    (first, _), (second, _) = await load(environment), await load(environment)
    assert first.worker.startswith("uid-")
    assert first.worker != second.worker


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://bridge:hunter2@db/intake",
        'missing "=" after "postgresql//bridge:hunter2@db" in connection info string',
        "host=db password=hunter2 user=bridge",
        "password='hunter2 with blank'",
        "Authorization: Bearer hunter2",
    ],
)
def test_credentials_do_not_reach_a_log(text: str) -> None:
    record = logging.LogRecord("intake_bridge", logging.INFO, "", 0, "%s", (text,), None)
    line = JsonFormatter(worker="w").format(record)
    assert "hunter2" not in line
    assert "hunter2" not in redacted(text)
    assert json.loads(line)["worker"] == "w"


def test_a_line_about_a_claim_names_it_and_not_the_user() -> None:
    message = Message(
        pool_id="drop", msg_id=5, read_ct=1, claim_id=UUID(int=7), user_id="alice", slot_no=3, resource_id=None,
        request_id=None, claimed_at=datetime(2026, 1, 1, tzinfo=UTC), state=State.QUEUED, failures=0,
    )  # fmt: skip
    record = logging.makeLogRecord({"msg": "stale", "levelname": "WARNING", **message.for_log()})
    line = json.loads(JsonFormatter().format(record))
    assert (line["msg_id"], line["pool_id"], line["claim_id"]) == (5, "drop", str(UUID(int=7)))
    assert "alice" not in json.dumps(line)
