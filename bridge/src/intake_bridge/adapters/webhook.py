"""What validation and commit webhooks share: one call for each claim, and how an answer is read."""

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.domain.anonymous import reported
from intake_bridge.domain.answers import Addition, Answers
from intake_bridge.domain.claim_specific import ClaimSpecificFailures
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Blame, Outcome, Result, Transport, of_status, of_transport
from intake_bridge.ports import Gate, Http, HttpError, HttpReply

log = logging.getLogger(__name__)

_GOOD: Final = frozenset({Result.APPROVED, Result.COMMITTED})
# Bounds of a Retry-After. A longer pause is asked for again; with none, or one in the past, calls would never pause.
_SHORTEST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0
# More digits than this, or a deeper nesting than json.loads follows, are no reason to lose the word of an answer.
_MOST_DIGITS: Final = 4000
_DEEPEST: Final = 1000
# A string, also one that does not end, or a bracket.
_NESTING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)

type Words = Mapping[str, Outcome]
type Statuses = Mapping[int, Outcome]


@dataclass(frozen=True, slots=True)
class CallRules:
    """How one webhook is called, and what its answers mean."""

    url: str
    timeout_seconds: float
    step: str  # the end of the idempotency key
    field: str  # the field of the answer with the word
    words: Words
    statuses: Statuses
    addition: str  # the field of a good answer with what is kept
    read: Callable[[object], Addition]


class WebhookCalls:
    """Calls one webhook, once for each claim."""

    def __init__(self, http: Http, rules: CallRules, credentials: Credentials, limit: ConcurrencyLimit) -> None:
        self._http = http
        self._rules = rules
        self._credentials = credentials
        self._limit = limit
        self._claim_specific = ClaimSpecificFailures()

    async def call_each(self, messages: Messages, gate: Gate) -> Answers:
        """The answers, with as many calls under way as the limit allows. What the gate stops is left out."""
        answers = Answers()
        outcomes = answers.outcomes
        waiting = iter(messages)
        clock = asyncio.get_running_loop().time
        callers = 0

        async def caller() -> None:
            nonlocal callers
            for message in waiting:
                if gate.may_start(message):
                    began = clock()
                    outcome, addition = await self._call(message)
                    ended = clock()
                    outcome = replace(outcome, at=ended)
                    if addition is not None:
                        answers.additions[message.msg_id] = addition
                    # A failure that is specific to this claim does not say that the server is overloaded.
                    failed = outcome.blame is Blame.SUSPECT or outcome.pauses_dependency
                    self._limit.record(began, ended, overloaded=failed and not outcome.claim_specific)
                    gate.record(outcome, ended - began)
                    outcomes[message.msg_id] = outcome
                    if callers > self._limit.calls:
                        break
                    call_more()
            callers -= 1

        async with asyncio.TaskGroup() as group:

            def call_more() -> None:
                nonlocal callers
                while callers < min(self._limit.calls, len(messages) - len(outcomes)):
                    callers += 1
                    group.create_task(caller())

            call_more()
        return answers

    async def _call(self, message: Message) -> tuple[Outcome, Addition | None]:
        rules, addition = self._rules, None
        body = message.as_text().encode()
        headers = self._credentials.headers(f"{message.claim_id}:{rules.step}", body) | message.trace_headers()
        try:
            reply = await self._http.post(rules.url, body, headers, rules.timeout_seconds, self._credentials.tls)
        except HttpError as error:
            outcome = reported(of_transport(error.kind, str(error)), [message])
            if error.kind is Transport.UNREACHABLE:
                return outcome, None  # nothing was sent, so it is not about the claim
        else:
            outcome, addition = understood(reply, parse(reply), rules, message)
        now = asyncio.get_running_loop().time()
        return self._claim_specific.classify(message.claim_id, outcome, now), addition


def understood(
    reply: HttpReply, answer: Mapping[str, Any], rules: CallRules, message: Message
) -> tuple[Outcome, Addition | None]:
    """The outcome for one claim as it may be shown, and what a good answer adds. `answer` is the one for this claim."""
    word, value = answer.get(rules.field), answer.get(rules.addition)
    outcome = finish(of_status(reply.status, word, rules.words, rules.statuses), reply, answer)
    if outcome.reason is not None:
        outcome = reported(outcome, [message], json.dumps(value))
    if outcome.result not in _GOOD:
        return outcome, None
    if value is None and word == "duplicate":
        log.debug("committed before, and no receipt comes with it", extra=message.for_log())
    return outcome, None if value is None else rules.read(value)


def parse(reply: HttpReply) -> dict[str, Any]:
    """The body as a JSON object; anything else counts as empty."""
    # A byte outside of the encoding can only be in a reason: the words of the contract are ASCII.
    text = reply.body.decode(json.detect_encoding(reply.body), "replace")
    try:
        try:
            answer = json.loads(text, parse_int=_integer)
        except RecursionError:
            answer = json.loads(_flattened(text), parse_int=_integer)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _integer(digits: str) -> float:
    """The integer; of one with too many digits infinity, which is kept nowhere (`Addition.of`)."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _flattened(text: str) -> str:
    """The text with NaN, which is kept nowhere (`Addition.of`), in place of what is nested deeper than _DEEPEST."""
    kept: list[str] = []
    depth = start = 0
    for token in _NESTING.finditer(text):
        if token[0] in {"[", "{"}:
            depth += 1
            if depth == _DEEPEST:
                kept += text[start : token.start()], "NaN"
        elif token[0] in {"]", "}"}:
            if depth == _DEEPEST:
                start = token.end()
            depth -= 1
    return "".join(kept) + (text[start:] if depth < _DEEPEST else "")


def finish(outcome: Outcome, reply: HttpReply, answer: Mapping[str, Any]) -> Outcome:
    """Add what the answer says beside its word: its Location, its reason, its Retry-After. Texts are as they came."""
    location = reply.headers.get("Location") if 300 <= reply.status < 400 else None
    parts = [
        outcome.reason,
        None if location is None else f"its Location is {_place(location)}",
        reply.unread,
        answer["reason"] if isinstance(answer.get("reason"), str) else None,
    ]
    reason = ": ".join(each for each in parts if each) or None
    if reason != outcome.reason:
        outcome = replace(outcome, reason=reason)
    if (wait := _retry_after(reply.headers.get("Retry-After"))) is not None:
        outcome = replace(outcome, retry_after=wait)
    return outcome


def _place(location: str) -> str:
    """The target of a redirect, for a condition; without query and user, which may be credentials."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "no URL"
    host = parts.netloc.rpartition("@")[2]
    place = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return f"'{unquote(place)}'"  # as a payload has it, so that it is found


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        # Dates in HTTP are GMT, even where the parser finds no zone.
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS) if seconds == seconds else None  # noqa: PLR0124 - NaN
