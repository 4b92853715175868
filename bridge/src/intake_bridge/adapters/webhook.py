"""What validation and commit webhooks share: one call for each claim, and how an answer is read."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from intake_shared.redaction import writable

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.domain.claim_specific import ClaimSpecificFailures
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.message import Message, Messages, anonymous
from intake_bridge.domain.outcomes import Blame, Outcome, Transport, of_status, of_transport
from intake_bridge.ports import Gate, Http, HttpError, HttpReply

# Bounds of a Retry-After. A longer pause is asked for again; with none, or one in the past, calls would never pause.
_SHORTEST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0

# json.dumps would make an encoder at each call with separators.
compact: Final = json.JSONEncoder(separators=(",", ":")).encode

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


class WebhookCalls:
    """Calls one webhook, once for each claim."""

    def __init__(self, http: Http, rules: CallRules, credentials: Credentials, limit: ConcurrencyLimit) -> None:
        self._http = http
        self._rules = rules
        self._credentials = credentials
        self._limit = limit
        self._claim_specific = ClaimSpecificFailures()

    async def call_each(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """The outcomes by msg_id, with as many calls under way as the limit allows. What the gate stops is left out."""
        outcomes: dict[int, Outcome] = {}
        waiting = iter(messages)
        clock = asyncio.get_running_loop().time
        callers = 0

        async def caller() -> None:
            nonlocal callers
            for message in waiting:
                if gate.may_start(message):
                    began = clock()
                    outcome = await self._call(message)
                    ended = clock()
                    reason = anonymous(outcome.reason or "", [message]) or None
                    outcome = replace(outcome, reason=reason, at=ended)
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
        return outcomes

    async def _call(self, message: Message) -> Outcome:
        rules = self._rules
        body = compact(message.payload()).encode()
        headers = self._credentials.headers(f"{message.claim_id}:{rules.step}", body) | message.trace_headers()
        try:
            reply = await self._http.post(rules.url, body, headers, rules.timeout_seconds, self._credentials.tls)
        except HttpError as error:
            outcome = of_transport(error.kind, str(error))
            if error.kind is Transport.UNREACHABLE:
                return outcome  # nothing was sent, so it is not about the claim
        else:
            outcome = understood(reply, rules)
        return self._claim_specific.classify(message.claim_id, outcome, asyncio.get_running_loop().time())


def understood(reply: HttpReply, rules: CallRules) -> Outcome:
    """What an answer for one claim means."""
    answer = parse(reply)
    outcome = of_status(reply.status, answer.get(rules.field), rules.words, rules.statuses)
    return finish(outcome, reply, answer)


def parse(reply: HttpReply) -> dict[str, Any]:
    """The body as a JSON object; anything else counts as empty."""
    try:
        # A byte outside of the encoding can only be in a reason: the words of the contract are ASCII.
        answer = json.loads(reply.body.decode(json.detect_encoding(reply.body), "replace"))
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def finish(outcome: Outcome, reply: HttpReply, answer: Mapping[str, Any]) -> Outcome:
    """Add what the answer says beside its word: its Location, its reason, its Retry-After."""
    location = reply.headers.get("Location") if 300 <= reply.status < 400 else None
    parts = [
        outcome.reason,
        None if location is None else f"its Location is {_place(location)}",
        reply.unread,
        writable(answer["reason"][:300]) if isinstance(answer.get("reason"), str) else None,
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
    return repr(writable(urlunsplit((parts.scheme, host, parts.path, "", "")))[:200])


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
