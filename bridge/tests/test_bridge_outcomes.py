"""What each answer of a webhook and a ledger leads to: the outcome tables."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_bridge.adapters.webhook import finish
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.outcomes import Blame, Result, Transport
from intake_bridge.ports import HttpReply

README = Path(__file__).parents[1] / "README.md"

VALIDATE = [
    # status, word, result, blame, counted
    (200, "approved", Result.APPROVED, Blame.CLAIM, False),
    (201, "declined", Result.DECLINED, Blame.CLAIM, False),
    (200, None, Result.RETRY, Blame.DEPENDENCY, False),
    (200, "maybe", Result.RETRY, Blame.DEPENDENCY, False),
    (204, None, Result.RETRY, Blame.DEPENDENCY, False),
    (301, None, Result.RETRY, Blame.DEPENDENCY, False),
    (302, "approved", Result.RETRY, Blame.DEPENDENCY, False),
    (400, None, Result.RETRY, Blame.SUSPECT, True),
    (401, None, Result.RETRY, Blame.DEPENDENCY, False),
    (402, None, Result.DECLINED, Blame.CLAIM, False),
    (403, None, Result.RETRY, Blame.DEPENDENCY, False),
    (403, "declined", Result.DECLINED, Blame.CLAIM, False),
    (404, "declined", Result.RETRY, Blame.DEPENDENCY, False),
    (405, None, Result.RETRY, Blame.DEPENDENCY, False),
    (408, None, Result.RETRY, Blame.SUSPECT, True),
    (409, None, Result.RETRY, Blame.CLAIM, True),
    (409, "declined", Result.DECLINED, Blame.CLAIM, False),
    (410, None, Result.DECLINED, Blame.CLAIM, False),
    (415, None, Result.RETRY, Blame.DEPENDENCY, False),
    (418, None, Result.RETRY, Blame.SUSPECT, True),
    (422, None, Result.DECLINED, Blame.CLAIM, False),
    # It contradicts itself: no claim is declined or approved.
    (409, "approved", Result.RETRY, Blame.SUSPECT, True),
    (422, "approved", Result.RETRY, Blame.SUSPECT, True),
    (425, None, Result.RETRY, Blame.CLAIM, True),
    (429, None, Result.RETRY, Blame.CLAIM, False),
    (500, None, Result.RETRY, Blame.SUSPECT, True),
    (500, "approved", Result.RETRY, Blame.SUSPECT, True),
    (503, None, Result.RETRY, Blame.SUSPECT, True),
    (700, None, Result.RETRY, Blame.DEPENDENCY, False),
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
    (200, "COMMITTED", Result.RETRY, False),
    (409, "conflict", Result.DEAD, True),
    (409, "committed", Result.COMMITTED, False),  # to a repeat: the effect is there
    (409, "duplicate", Result.COMMITTED, False),
    (409, "COMMITTED", Result.RETRY, False),
    (402, "committed", Result.RETRY, False),
    (409, None, Result.RETRY, False),
    (422, None, Result.DEAD, False),
    (500, "committed", Result.RETRY, False),
]


@pytest.mark.parametrize(("status", "word", "result", "needs_human"), COMMIT)
def test_commit_webhook_ends_in_committed_or_dead(
    status: int, word: str | None, result: Result, needs_human: bool
) -> None:
    outcome = table.of_status(status, word, table.COMMIT_WORDS, table.COMMIT_STATUS)
    assert (outcome.result, outcome.needs_human) == (result, needs_human)


def test_the_table_of_the_readme_says_what_the_table_here_does() -> None:
    """Each status and family that a row names, with each word that it names, in both columns."""
    rows = [line.strip("| ").split(" | ") for line in README.read_text().splitlines() if re.match(r"\| \d", line)]
    meant = {
        "counted": lambda each: each.result is Result.RETRY and each.counted,
        "dependency fails": lambda each: each.result is Result.RETRY and each.blame is Blame.DEPENDENCY,
        "calls pause": lambda each: each.result is Result.RETRY and each.pauses_dependency,
        "committed": lambda each: each.result is Result.COMMITTED,
        "declined": lambda each: each.result is Result.DECLINED,
        "dead letter": lambda each: each.result is Result.DEAD,
        "as it says": lambda each: each.result is not Result.RETRY,
    }
    tables = [(table.DECISIONS, table.VALIDATE_STATUS), (table.COMMIT_WORDS, table.COMMIT_STATUS)]
    looked = 0
    for answer, *cells in rows:
        statuses = [int(each.replace("xx", "99")) for each in re.findall(r"\b\d(?:\d\d|xx)\b", answer)]
        named = re.findall(r"`(\w+)`", answer.partition("(")[0])
        for cell, (words, outcomes) in zip(cells, tables, strict=False):
            wanted = [meant[each] for each in meant if cell.startswith(each)]
            spoken: list[str | None] = [each for each in named if each in words]
            spoken = spoken or ([*words] if "with a word of" in answer else [] if named else [None])
            for status, word in itertools.product(statuses, spoken if wanted else []):
                assert wanted[0](table.of_status(status, word, words, outcomes)), (answer, cell, status, word)
                looked += 1
    assert looked > 60


def test_an_unknown_word_is_reported_and_a_long_text_is_cut() -> None:
    assert table.of_status(200, "ok", table.DECISIONS, {}).reason == (
        "answers 200 with 'ok', expected one of approved, declined"
    )
    text = "x" * 10**6
    for outcome in (table.of_status(200, text, table.DECISIONS, {}), table.of_word(text, table.VOID_WORDS)):
        assert len(outcome.reason or "") < 300


@given(st.integers(100, 999), st.none() | st.sampled_from(["approved", "declined", "x"]))
def test_only_a_2xx_approves(status: int, word: str | None) -> None:
    outcome = table.of_status(status, word, table.DECISIONS, table.VALIDATE_STATUS)
    assert (outcome.result is Result.APPROVED) == (word == "approved" and 200 <= status < 300)


@given(st.integers(100, 999), st.none() | st.sampled_from([*table.COMMIT_WORDS, "x"]))
def test_only_a_2xx_commits_and_409_to_a_repeat(status: int, word: str | None) -> None:
    outcome = table.of_status(status, word, table.COMMIT_WORDS, table.COMMIT_STATUS)
    believed = 200 <= status < 300 or status == 409
    assert (outcome.result is Result.COMMITTED) == (word in {"committed", "duplicate"} and believed)


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
        (Transport.UNREACHABLE, Blame.DEPENDENCY, False),
        (Transport.TIMEOUT, Blame.SUSPECT, True),
        (Transport.BROKEN, Blame.SUSPECT, True),
        (Transport.TOO_LARGE, Blame.DEPENDENCY, False),
    ],
)
def test_without_an_answer_it_is_retried(kind: Transport, blame: Blame, counted: bool) -> None:
    outcome = table.of_transport(kind, "why")
    assert (outcome.result, outcome.blame, outcome.counted, outcome.reason) == (Result.RETRY, blame, counted, "why")


@pytest.mark.parametrize(
    ("sqlstate", "blame", "counted"),
    [
        (None, Blame.DEPENDENCY, False),
        ("08006", Blame.DEPENDENCY, False),
        ("25006", Blame.DEPENDENCY, False),
        ("28P01", Blame.DEPENDENCY, False),
        ("3D000", Blame.DEPENDENCY, False),
        ("42883", Blame.DEPENDENCY, False),
        ("42501", Blame.DEPENDENCY, False),
        ("53300", Blame.DEPENDENCY, False),
        ("57P01", Blame.DEPENDENCY, False),
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
    rows = {word: table.of_word(word, table.LEDGER_WORDS) for word in ("committed", "duplicate", "voided", "conflict")}
    assert [each.result for each in rows.values()] == [Result.COMMITTED, Result.COMMITTED, Result.VOIDED, Result.DEAD]
    assert rows["conflict"].needs_human
    assert table.of_word("ok", table.LEDGER_WORDS).blame is Blame.DEPENDENCY
    assert table.of_word(None, table.LEDGER_WORDS).blame is Blame.DEPENDENCY
    assert table.of_word("committed", table.VOID_WORDS).result is Result.COMMITTED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0", 1.0), ("-5", 1.0), ("1e9", 300.0), ("soon", None), ("nan", None),
     ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0), ("Wed, 21 Oct 2515 07:28:00 GMT", 300.0)],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None) -> None:
    reply = HttpReply(429, b"", {} if header is None else {"Retry-After": header})
    assert finish(table.Outcome(Result.RETRY), reply, {}).retry_after == seconds
