"""What the validation and the commit webhook share: a call for each claim, and how an answer is read."""

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
from intake_bridge.domain.message import Message, Messages, anonymous
from intake_bridge.domain.outcomes import Blame, Outcome, Transport, of_status, of_transport
from intake_bridge.domain.singled_out import SingledOut
from intake_bridge.domain.window import Window
from intake_bridge.ports import Gate, Http, HttpError, HttpReply

# A pause that a target may ask for. Longer ones are asked for again; a target that asks for none, or for one in the
# past, would be called without a rest.
_SHORTEST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0

# json.dumps makes an encoder each time it is told of separators.
compact: Final = json.JSONEncoder(separators=(",", ":")).encode

type Words = Mapping[str, Outcome]
type Statuses = Mapping[int, Outcome]


@dataclass(frozen=True, slots=True)
class Contract:
    """How one webhook is spoken to, and how its answers are understood."""

    url: str
    timeout_seconds: float
    step: str  # the tail of the idempotency key
    field: str  # where the word stands in the answer
    words: Words
    statuses: Statuses


class Caller:
    """Calls one webhook, once for each claim."""

    def __init__(self, http: Http, contract: Contract, credentials: Credentials, window: Window) -> None:
        self._http = http
        self._contract = contract
        self._credentials = credentials
        self._window = window
        self._singled_out = SingledOut()

    async def call_each(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        """As many side by side as the window allows. What the gate no longer admits is not called for."""
        outcomes: dict[int, Outcome] = {}
        waiting = iter(messages)
        clock = asyncio.get_running_loop().time
        callers = 0

        async def caller() -> None:
            nonlocal callers
            for message in waiting:
                if gate.admits(message):
                    began = clock()
                    outcome = await self._call(message)
                    ended = clock()
                    told = anonymous(outcome.reason or "", [message]) or None
                    outcome = replace(outcome, reason=told, at=ended)
                    # What one claim alone is told says nothing of the server's strength.
                    strained = (outcome.blame is Blame.SUSPECT or outcome.holds) and not outcome.alone
                    self._window.answered(began, ended, strained)
                    gate.told(outcome, ended - began)
                    outcomes[message.msg_id] = outcome
                    if callers > self._window.size:
                        break
                    call_more()
            callers -= 1

        async with asyncio.TaskGroup() as group:

            def call_more() -> None:
                nonlocal callers
                while callers < min(self._window.size, len(messages) - len(outcomes)):
                    callers += 1
                    group.create_task(caller())

            call_more()
        return outcomes

    async def _call(self, message: Message) -> Outcome:
        contract = self._contract
        body = compact(message.payload()).encode()
        headers = self._credentials.headers(f"{message.claim_id}:{contract.step}", body) | message.trace_headers()
        try:
            reply = await self._http.post(contract.url, body, headers, contract.timeout_seconds, self._credentials.tls)
        except HttpError as error:
            outcome = of_transport(error.kind, str(error))
            if error.kind is Transport.UNREACHABLE:
                return outcome  # nothing was sent: nothing can be about the claim
        else:
            outcome = understood(reply, contract)
        return self._singled_out.judged(message.claim_id, outcome, asyncio.get_running_loop().time())


def understood(reply: HttpReply, contract: Contract) -> Outcome:
    """What an answer for one claim means."""
    answer = parse(reply)
    outcome = of_status(reply.status, answer.get(contract.field), contract.words, contract.statuses)
    return finish(outcome, reply, answer)


def parse(reply: HttpReply) -> dict[str, Any]:
    """The body as a JSON object; anything else is as good as empty."""
    try:
        # A byte that is not in its encoding stands in a reason, never in one of our words.
        answer = json.loads(reply.body.decode(json.detect_encoding(reply.body), "replace"))
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def finish(outcome: Outcome, reply: HttpReply, answer: Mapping[str, Any]) -> Outcome:
    """Add what the answer says beside its word: where it points to, its reason, and how long to wait."""
    location = reply.headers.get("Location") if 300 <= reply.status < 400 else None
    said = [
        outcome.reason,
        None if location is None else f"its Location is {_place(location)}",
        reply.unread,
        writable(answer["reason"][:300]) if isinstance(answer.get("reason"), str) else None,
    ]
    reason = ": ".join(each for each in said if each) or None
    if reason != outcome.reason:
        outcome = replace(outcome, reason=reason)
    if (wait := _retry_after(reply.headers.get("Retry-After"))) is not None:
        outcome = replace(outcome, retry_after=wait)
    return outcome


def _place(location: str) -> str:
    """Where a redirect points to, for a condition: a query or a user's name may be a credential."""
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
        # HTTP's dates are GMT even where the parser finds no zone.
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS) if seconds == seconds else None  # noqa: PLR0124 - NaN
