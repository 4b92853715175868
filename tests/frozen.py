"""Servers that do not answer: hosts that accept a connection and stay silent, and a PostgreSQL that falls silent."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, Self


@contextmanager
def frozen_hosts() -> Iterator[list[str]]:
    """Yield two such hosts with their ports, as in a URI: one of IPv6, one of IPv4."""
    with ExitStack() as stack:
        six = stack.enter_context(closing(socket.create_server(("::1", 0), family=socket.AF_INET6)))
        four = stack.enter_context(closing(socket.create_server(("127.0.0.2", 0))))
        yield [f"[::1]:{six.getsockname()[1]}", f"127.0.0.2:{four.getsockname()[1]}"]


class Answers(Enum):
    """How a relay passes on what the server says."""

    AT_ONCE = "at once"
    NEVER = "never"
    BYTE_BY_BYTE = "byte by byte"


# Seconds between two bytes: an answer then takes many times as long as the bounds of the tests.
PAUSE: Final = 0.2


class Relay:
    """Stands before a real PostgreSQL, on 127.0.0.1; `async with Relay(directory of its socket) as relay: ...`.

    `answers` can be changed at any time. With `after_login` each connection is served at once until it is logged in.
    """

    def __init__(self, directory: str | Path, answers: Answers = Answers.AT_ONCE, *, after_login: bool = False) -> None:
        self._socket = next(Path(directory).glob(".s.PGSQL.[0-9]*[0-9]"))
        self.answers = answers
        self.after_login = after_login
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        theirs, ours = await asyncio.open_unix_connection(str(self._socket))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await asyncio.gather(self._ask(reader, ours), self._answer(theirs, writer))
        finally:
            self._connections.discard(task)
            ours.close()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise ConnectionError("the client is gone")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        logged_in = False
        while True:
            header = await reader.readexactly(5)
            message = header + await reader.readexactly(int.from_bytes(header[1:]) - 4)
            free = self.after_login and not logged_in
            if self.answers is Answers.NEVER and not free:
                await asyncio.Event().wait()
            if self.answers is Answers.AT_ONCE or free:
                writer.write(message)
            else:
                for byte in message:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(PAUSE)
            await writer.drain()
            logged_in = logged_in or header[:1] == b"Z"
