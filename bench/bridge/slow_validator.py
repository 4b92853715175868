"""A webhook that approves every claim after a fixed time. It uses as little CPU as possible, to not be the limit.

`python -m bench.bridge.slow_validator MILLISECONDS` prints its port and serves until it is terminated. One claim or
`{"items": […]}`: a batch takes as long as one claim, as in a service that looks up all its claims at once.
"""

import asyncio
import json
import sys
from typing import Final

_APPROVED: Final = b'{"decision":"approved","outcome":"committed"}'
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class SlowValidator(asyncio.Protocol):
    """The part of HTTP/1.1 that a POST with a Content-Length needs; one request at a time on each connection."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request after the fixed time."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        asyncio.get_running_loop().call_later(self._seconds, self._answer, body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        reply = _APPROVED
        if body.startswith(b'{"items":'):
            items = [{"claim_id": item["claim_id"], "decision": "approved"} for item in json.loads(body)["items"]]
            reply = json.dumps({"items": items}).encode()
        self._transport.write(_HEAD % len(reply) + reply)


async def main(seconds: float) -> None:
    """Serve on a free port of the loopback."""
    server = await asyncio.get_running_loop().create_server(
        lambda: SlowValidator(seconds), "127.0.0.1", 0, backlog=1024
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1000))
