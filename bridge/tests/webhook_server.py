"""A webhook with any behaviour, over real HTTP, and a record of its calls."""

import asyncio
import inspect
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.patience import PATIENCE_SECONDS

type Item = dict[str, Any]
type Answer = web.StreamResponse | dict[str, Any]
type Behaviour = Callable[[Item], Answer | Awaitable[Answer]]


def approve(_: Item) -> Answer:
    """Both contracts at once: an approval for a validator, a commit for a ledger."""
    return {"decision": "approved", "outcome": "committed"}


def verified(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    """Whether a receiver that knows this secret believes a call."""
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def status(
    code: int, body: dict[str, Any] | None = None, *, location: str | None = None, retry_after: int | None = None
) -> web.Response:
    """Any answer."""
    headers = {"Location": location, "Retry-After": None if retry_after is None else str(retry_after)}
    return web.json_response(
        body or {}, status=code, headers={name: value for name, value in headers.items() if value is not None}
    )


@asynccontextmanager
async def sending(answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that sends these bytes to each client, and closes. For what no library would send."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
        await reader.readexactly(int(lengths[0]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


class WebhookServer:
    """POST /single and POST /batch; `behaviour` may be replaced at any time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.behaviour: Behaviour = approve
        self.calls: list[Item] = []
        self.keys: list[str] = []
        self.moments: list[float] = []
        self.authorizations: set[str | None] = set()
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.traceparents: list[str | None] = []
        self.open = 0
        self.most_open = 0
        self.called = asyncio.Condition()
        application = web.Application(client_max_size=8 * 1024 * 1024)
        application.add_routes([web.post("/single", self._single), web.post("/batch", self._batch)])
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def _scheme(self) -> str:
        return "http" if self._tls is None else "https"

    @property
    def single(self) -> str:
        """The URL of the contract for one claim."""
        return f"{self._scheme}://127.0.0.1:{self._port}/single"

    @property
    def batch(self) -> str:
        """The URL of the contract for a batch."""
        return f"{self._scheme}://127.0.0.1:{self._port}/batch"

    def asked(self) -> Counter[str]:
        """How often each claim was asked about."""
        return Counter(item["claim_id"] for item in self.calls)

    def signers(self, call: int, *secrets: str) -> list[str]:
        """Those of the secrets that have signed a call, as the library of Standard Webhooks sees it."""
        headers, body = self.requests[call]
        return [secret for secret in secrets if verified(secret, body, headers)]

    async def until_calls(self, count: int) -> None:
        """Wait until so many items have arrived."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.called:
            await self.called.wait_for(lambda: len(self.calls) >= count)

    async def _single(self, request: web.Request) -> web.StreamResponse:
        answer = await self._answer(await request.json(), request)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        items = []
        for item in (await request.json())["items"]:
            answer = await self._answer(item, request)
            if isinstance(answer, web.StreamResponse):
                return answer
            if answer:
                items.append({"claim_id": item["claim_id"], **answer})
        return web.json_response({"items": items})

    async def _answer(self, item: Item, request: web.Request) -> Answer:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with self.called:
                self.calls.append(item)
                self.moments.append(asyncio.get_running_loop().time())
                self.keys.append(request.headers.get("Idempotency-Key", ""))
                self.authorizations.add(request.headers.get("Authorization"))
                self.traceparents.append(request.headers.get("traceparent"))
                self.requests.append((dict(request.headers), await request.read()))
                self.called.notify_all()
            answer = self.behaviour(item)
            return await answer if inspect.isawaitable(answer) else answer
        finally:
            self.open -= 1
