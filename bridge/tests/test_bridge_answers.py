"""Every answer of a webhook ends the claim, at once or after maxRetries, or is reported in a condition."""

import itertools
import json
import logging
from dataclasses import replace
from uuid import UUID

import pytest
from intake_bridge.domain.claim_specific import ClaimSpecificFailures
from intake_bridge.domain.outcomes import Blame, Outcome, Result, Transport
from intake_bridge.ports import HttpError, HttpReply
from unserved_webhook import UnservedWebhook

KINDS = ("validate", "validate a batch", "commit")
ENDS = {Result.APPROVED, Result.DECLINED, Result.COMMITTED, Result.DEAD}

# --- the table: every status x every word x each way of asking ---

STATUSES = range(100, 600)
# One of each row of the table, and of each family.
TELLING = (100, 199, 200, 201, 204, 205, 206, 304, 308, 400, 401, 402, 403, 409, 410, 418, 422, 425, 429, 500, 503, 599)
GOOD = {"validate": {"approved"}, "validate a batch": {"approved"}, "commit": {"committed", "duplicate"}}
BAD = {"validate": {"declined"}, "validate a batch": {"declined"}, "commit": {"voided", "conflict"}}
UNKNOWN = ("COMMITTED", "Approved", " committed", "ok", "", None, 1, True, ["approved"], {"approved": True})
PAUSES = (
    None, "0", "-1", "0.5", "7", "315360000", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2515 07:28:00 GMT",
)  # fmt: skip
# Bodies that are no object with a word in it, in any encoding.
SHAPELESS = (
    b"", b" ", b"approved", b"<html>502</html>", b"null", b"[]", b"[{}]", b'"committed"', b"committed", b"{",
    b"\xff\xfe", b"\x1f\x8b", b'{"decision": "approved"', b"[" * 100_000, b"1" * 5000, b'{"items": {}}',
    b'{"items": [1]}',
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty thousand breakers open here."""
    caplog.set_level(logging.ERROR)


def body(kind: str, word: object, number: int = 1) -> bytes:
    """An answer with this word where it belongs."""
    item = {"outcome" if kind == "commit" else "decision": word}
    return json.dumps({"items": [{"claim_id": str(UUID(int=number)), **item}]} if "batch" in kind else item).encode()


def believed(kind: str, status: int, word: object) -> set[Result]:
    """The only ends that this word under this status may lead to; none: it may not end a claim."""
    known = word if isinstance(word, str) and word in GOOD[kind] | BAD[kind] else None
    refused = {Result.DECLINED, Result.DEAD}
    if 200 <= status < 300:
        return set() if known is None else refused if known in BAD[kind] else {Result.COMMITTED, Result.APPROVED}
    if "batch" in kind:
        return set()
    if status == 409 and known in {"committed", "duplicate"}:
        return {Result.COMMITTED}
    if known is None:
        return refused if status in {402, 410, 422} else set()
    return refused if known in BAD[kind] and status in {402, 403, 409, 410, 422} else set()


@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_leaves_a_claim_for_ever_without_a_report(kind: str) -> None:
    webhook = UnservedWebhook(kind)
    words: list[object] = [*GOOD[kind], *BAD[kind], *UNKNOWN]
    cells = itertools.chain(
        ((status, word, body(kind, word)) for status, word in itertools.product(STATUSES, words)),
        ((status, None, text) for status, text in itertools.product(TELLING, SHAPELESS)),
    )
    for status, word, text in cells:
        webhook.breaker.record_success()
        outcome = await webhook.ask(HttpReply(status, text))
        ends = believed(kind, status, word)
        where = f"{status} {text[:60]!r}: {outcome}"
        assert outcome.result in (ends or {Result.RETRY}), where
        if outcome.result is Result.RETRY:
            # Counted, or reported: at once, or after half a minute of requests to wait (below).
            assert outcome.counted or outcome.pauses_dependency or webhook.breaker.message == outcome.reason, where
            assert (outcome.reason or "").startswith((f"answers {status}", "the validation webhook left")), where
            assert len(outcome.reason or "") < 400, where


@pytest.mark.parametrize("kind", KINDS)
async def test_every_answer_that_is_repeated_for_ever_ends_the_claim_or_is_reported(kind: str) -> None:
    """The answers of the table, one of each kind, as often as a claim is tried."""
    webhook = UnservedWebhook(kind)
    replies: dict[Outcome, HttpReply | HttpError] = {}
    words = (*GOOD[kind], *BAD[kind], "x", None)
    every = itertools.chain(itertools.product(STATUSES, words, (None,)), itertools.product(TELLING, words, PAUSES[1:]))
    for status, word, pause in every:
        headers = {} if pause is None else {"Retry-After": pause}
        reply = HttpReply(status, body(kind, word), headers)
        replies.setdefault(replace(await webhook.ask(reply), reason=None), reply)
    for transport in Transport:
        error = HttpError(transport, "no answer")
        replies.setdefault(replace(await webhook.ask(error), reason=None), error)
    assert len(replies) > 12
    for reply in replies.values():
        assert await _fate(kind, reply) in {"ended", "dead", "reported"}, reply


async def _fate(kind: str, reply: HttpReply | HttpError) -> str:
    """What becomes within an hour of a claim that gets only this answer, alone in the queue."""
    webhook = UnservedWebhook(kind)
    failures = 0
    end = webhook.clock.now + 3600
    while webhook.clock.now < end:
        outcome = await webhook.ask(reply)
        if outcome.result is not Result.RETRY:
            return "ended"
        failures += outcome.counted and not webhook.breaker.is_to_blame(failures, claim_specific=outcome.claim_specific)
        if failures > 10:
            return "dead"
        assert (outcome.retry_after or 1.0) >= 1.0, "called without a rest"
        webhook.clock.now += outcome.retry_after or 1.0
    return "for ever" if webhook.breaker.message is None else "reported"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(200, b'{"outcome": "COMMITTED", "decision": "APPROVED"}'),
        HttpReply(404, b""),
        HttpReply(308, b"", {"Location": "/c/"}),
        HttpReply(200, b"", unread="its Content-Encoding is 'br'"),
        HttpReply(409, b'{"outcome": "COMMITTED", "decision": "approved"}'),
        HttpReply(503, b"", {"Retry-After": "1"}),
        HttpError(Transport.TOO_LARGE, "answers with more than 4194304 bytes"),
    ],
    ids=str,
)
async def test_an_answer_that_one_claim_alone_gets_ends_it(kind: str, reply: HttpReply | HttpError) -> None:
    webhook = UnservedWebhook(kind)
    good = HttpReply(200, body(kind, min(GOOD[kind]), 2))
    failures = 0
    for _ in range(60):
        outcome = await webhook.ask(reply)
        failures += outcome.counted and not webhook.breaker.is_to_blame(failures, claim_specific=outcome.claim_specific)
        if failures > 10:
            break
        assert (await webhook.ask(good, 2)).result in ENDS
        webhook.clock.now += 30
    else:
        pytest.fail(f"{failures} failures: {outcome}")
    assert outcome.reason
    assert webhook.breaker.message is None


async def test_an_outage_is_not_specific_to_a_claim_however_often_the_claim_fails() -> None:
    known = ClaimSpecificFailures()
    down = Outcome(Result.RETRY, Blame.DEPENDENCY, reason="answers 401")
    for number in range(1, 40):
        assert not known.classify(UUID(int=number), down, 0.0).counted
    known.classify(UUID(int=99), Outcome(Result.COMMITTED), 0.0)  # one got through
    for second in range(86_400):
        assert not known.classify(UUID(int=second % 40), down, float(second)).counted


def test_a_rate_limit_that_lets_others_through_counts_for_no_claim_within_ten_minutes() -> None:
    known = ClaimSpecificFailures()
    wait, good = Outcome(Result.RETRY, pauses_dependency=True), Outcome(Result.COMMITTED)
    judged = []
    for second in range(700):
        judged.append(known.classify(UUID(int=1), wait, float(second)).counted)
        known.classify(UUID(int=2), good, float(second))
    assert judged == [False] * 600 + [True] * 100


def test_the_memory_of_claims_is_bounded() -> None:
    known = ClaimSpecificFailures()
    for number in range(30_000):
        known.classify(UUID(int=number), Outcome(Result.RETRY), 0.0)
    assert len(known._known) == 10_000
