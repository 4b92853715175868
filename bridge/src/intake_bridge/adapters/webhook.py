"""What the validation and the commit webhook share: a call for each claim, and how an answer is read."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Blame, Outcome, of_status, of_transport
from intake_bridge.domain.window import Window
from intake_bridge.ports import Gate, Http, HttpError, HttpReply
from intake_bridge.redaction import writable

# A pause that a target may ask for; longer ones are asked for again.
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
                    self._window.answered(began, ended, outcome.blame is Blame.SUSPECT or outcome.holds)
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
        body = compact(message.item()).encode()
        headers = self._credentials.headers(f"{message.claim_id}:{contract.step}", body) | message.trace_headers()
        try:
            reply = await self._http.post(contract.url, body, headers, contract.timeout_seconds, self._credentials.tls)
        except HttpError as error:
            return of_transport(error.kind, str(error))
        answer = parse(reply)
        outcome = of_status(reply.status, answer.get(contract.field), contract.words, contract.statuses)
        return finish(outcome, reply, answer)


def parse(reply: HttpReply) -> dict[str, Any]:
    """The body as a JSON object; anything else is as good as empty."""
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def finish(outcome: Outcome, reply: HttpReply, answer: Mapping[str, Any]) -> Outcome:
    """Add what the answer says beside its word: its reason, and how long to wait."""
    if isinstance(answer.get("reason"), str):
        said = writable(answer["reason"][:300])
        outcome = replace(outcome, reason=said if outcome.reason is None else f"{outcome.reason}: {said}")
    if (wait := _retry_after(reply.headers.get("Retry-After"))) is not None:
        outcome = replace(outcome, retry_after=wait)
    return outcome


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
    return min(max(seconds, 0.0), _LONGEST_PAUSE_SECONDS) if seconds == seconds else None  # noqa: PLR0124 - NaN
