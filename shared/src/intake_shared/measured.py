"""Bounds what a server may send as one answer: libpq itself takes whatever comes, up to a gigabyte for one value.

No query can bound it. A view of the user's may fail with an error that quotes a value of any length, and what stands
behind a URI may be no PostgreSQL at all. libpq reads for as long as data comes, so nothing outside of it can stop it.
Therefore it connects to a relay of this process, which passes everything on and counts. TLS goes through it as it is.
"""

import asyncio
from contextlib import suppress
from typing import Self

import psycopg

_PIECE = 65536


class AnswerTooLongError(psycopg.OperationalError):
    """A server sent more than one answer may have."""


class MeasuredRelay:
    """Listens on 127.0.0.1 for one connection and its cancel requests, and leads to one address.

    After `most` bytes from the server without a word from the client, it closes the connection.
    """

    def __init__(self, address: str, port: int, most: int) -> None:
        self._address, self._port, self._most = address, port, most
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0
        self.failure: psycopg.OperationalError | None = None
        """Why it has closed the connection; None if it did not."""

    async def open(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        """End everything. Safe to repeat."""
        if self._server is None or self._server.get_loop().is_closed():
            return
        self._server.close()
        for link in self._links:
            link.cancel()

    def explained(self, error: psycopg.Error) -> psycopg.Error:
        """The error of libpq with what it cannot know: why the connection was closed, and whose it is."""
        if self.failure is not None:
            return self.failure
        text = str(error)
        plain = text.replace(f"127.0.0.1), port {self.port}", f"{self._address}), port {self._port}")
        plain = plain.replace(f'"127.0.0.1", port {self.port}', f'"{self._address}", port {self._port}')
        return error if plain == text else type(error)(plain)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        first = not self._links
        self._links.add(task)
        # A task that is cancelled here is cancelled by `close`, and its end interests nobody.
        with suppress(asyncio.CancelledError):
            await self._lead(reader, writer)
        writer.close()
        self._links.discard(task)
        if first:
            self.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(self._address, self._port)
        except OSError as error:
            self.failure = psycopg.OperationalError(f"{self._address}, port {self._port}: {error.strerror or error}")
            return
        taken = 0

        async def ask() -> None:
            nonlocal taken
            while data := await reader.read(_PIECE):
                taken = 0
                ours.write(data)
                await ours.drain()

        async def answer() -> None:
            nonlocal taken
            while data := await theirs.read(_PIECE):
                taken += len(data)
                if taken > self._most:
                    text = f"the server's answer has more than {self._most} bytes, the most that is read"
                    self.failure = AnswerTooLongError(text)
                    return
                writer.write(data)
                await writer.drain()

        both = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            ours.close()
