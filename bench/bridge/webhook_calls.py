"""Calls of a validation webhook that takes 20 ms: with aiohttp alone, and with the bridge's caller."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import aiohttp
from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.http import HttpClient
from intake_bridge.adapters.webhook import CallRules, WebhookCalls
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.answers import data_of
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.message import Message, State
from intake_bridge.domain.outcomes import Outcome

from bench.common.figures import Sample

_MILLISECONDS: Final = 20
_TIMEOUT_SECONDS: Final = 30.0

type Client = Callable[[str, Sequence[Message], int], Awaitable[None]]


class OpenGate:
    """Lets every call through."""

    def may_start(self, message: Message) -> bool:  # noqa: ARG002 - the port's
        """Always."""
        return True

    def may_continue(self, message: Message) -> bool:  # noqa: ARG002 - the port's
        """Always."""
        return True

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:  # noqa: ARG002 - the port's
        """Another answer than an approval costs more or less, so it ends the run."""
        if outcome is not table.DECISIONS["approved"] and outcome.result is not table.Result.APPROVED:
            raise RuntimeError(f"the webhook did not approve: {outcome}")


@contextmanager
def slow_validator() -> Iterator[str]:
    """Start slow_validator.py; yield its URL."""
    command = [sys.executable, "-m", "bench.bridge.slow_validator", str(_MILLISECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.terminate()


def sample(client: Client, url: str, calls: int, concurrency: int) -> Sample:
    """Make that many calls, after `concurrency` calls that open the connections."""
    messages = [_message(number) for number in range(calls)]

    async def run() -> tuple[float, float]:
        await client(url, messages[:concurrency], concurrency)
        began, spent = time.monotonic(), time.process_time()
        await client(url, messages, concurrency)
        return time.monotonic() - began, time.process_time() - spent

    seconds, spent = asyncio.run(run())
    return Sample(calls / seconds, 0.0, 0.0, 0.0, client_us=spent / calls * 1e6)


async def alone(url: str, messages: Sequence[Message], concurrency: int) -> None:
    """aiohttp as in its documentation; the answer is read and not parsed."""
    waiting = iter(messages)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def caller() -> None:
            for message in waiting:
                async with session.post(url, data=message.as_text().encode()) as response:
                    await response.read()

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(caller())


async def ours(url: str, messages: Sequence[Message], concurrency: int) -> None:
    """The bridge's caller, with a concurrency limit that stays the same."""
    http = HttpClient()
    rules = CallRules(
        url, _TIMEOUT_SECONDS, "validate", "decision", table.DECISIONS, table.VALIDATE_STATUS, "data", data_of
    )
    credentials = Credentials(_nothing, time.time)
    limit = ConcurrencyLimit(_TIMEOUT_SECONDS, first=concurrency, ceiling=concurrency)
    try:
        answers = await WebhookCalls(http, rules, credentials, limit).call_each(messages, OpenGate())
    finally:
        await http.close()
    if len(answers.outcomes) != len(messages):
        raise RuntimeError(f"{len(answers.outcomes)} answers to {len(messages)} calls")


async def _nothing(_: str) -> None:
    return None


def _message(number: int) -> Message:
    return Message(
        pool_id="sale",
        msg_id=number,
        read_ct=1,
        claim_id=UUID(int=number),
        user_id=f"user-{number}",
        slots=1,
        seats=f'[{{"label": null, "slot_no": {number}, "attributes": null, "resource_id": "{UUID(int=number)}"}}]',
        request_id=f"request-{number}",
        claimed_at=datetime.now(UTC),
        state=State.QUEUED,
        failures=0,
    )
