"""What the validation and the commit webhook share: one call for each claim, bounded, each answer told to the gate."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from intake_bridge.adapters.http import CONCURRENCY
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Outcome, of_status, of_transport
from intake_bridge.ports import Gate, Http, HttpError, HttpReply

# A pause that a target may ask for; longer ones are asked for again.
_LONGEST_PAUSE_SECONDS = 300.0

type Token = Callable[[], Awaitable[str | None]]
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


async def headers(key: str, token: Token) -> dict[str, str]:
    """The headers of a call: the idempotency key, and the bearer token where there is one."""
    secret = await token()
    result = {"Content-Type": "application/json", "Idempotency-Key": key}
    return result | {"Authorization": f"Bearer {secret}"} if secret else result


async def call_each(http: Http, contract: Contract, token: Token, messages: Messages, gate: Gate) -> dict[int, Outcome]:
    """Call for each message, a bounded number at a time. What the gate no longer admits is not called for."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(messages)

    async def caller() -> None:
        for message in waiting:
            if gate.admits(message):
                outcome = await _call(http, contract, token, message)
                gate.told(outcome)
                outcomes[message.msg_id] = outcome

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CONCURRENCY, len(messages))):
            group.create_task(caller())
    return outcomes


async def _call(http: Http, contract: Contract, token: Token, message: Message) -> Outcome:
    body = json.dumps(message.item(), separators=(",", ":")).encode()
    try:
        reply = await http.post(
            contract.url,
            body,
            await headers(f"{message.claim_id}:{contract.step}", token),
            contract.timeout_seconds,
        )
    except HttpError as error:
        return of_transport(error.kind, str(error))
    answer = parse(reply)
    outcome = of_status(reply.status, answer.get(contract.field), contract.words, contract.statuses)
    return finish(outcome, reply, answer)


def parse(reply: HttpReply) -> dict[str, Any]:
    """The body as a JSON object; anything else is as good as empty."""
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def finish(outcome: Outcome, reply: HttpReply, answer: Mapping[str, Any]) -> Outcome:
    """Add what the answer says beside its word: its reason, and how long to wait."""
    if isinstance(answer.get("reason"), str):
        said = answer["reason"][:300]
        outcome = replace(outcome, reason=said if outcome.reason is None else f"{outcome.reason}: {said}")
    return replace(outcome, retry_after=_retry_after(reply.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        # HTTP's dates are GMT even where the parser finds no zone.
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_PAUSE_SECONDS) if seconds == seconds else None  # noqa: PLR0124 - NaN
