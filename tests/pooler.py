"""A stand-in for a pooler in transaction mode: it refuses startup parameters that it cannot track for each client.

PgBouncer does so for all that `ignore_startup_parameters` does not name. The real server answers the queries.
"""

import asyncio
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# The parameters that PgBouncer tracks for each client.
TRACKED: Final = frozenset(
    {"user", "database", "client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name"}
)
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102


class Pooler:
    """`async with Pooler(directory of the server's socket) as pooler: ...`."""

    def __init__(self, directory: str) -> None:
        self._socket = next(Path(directory).glob(".s.PGSQL.[0-9]*[0-9]"))
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.statements: list[str] = []

    @property
    def port(self) -> int:
        """The port that it listens on, on 127.0.0.1."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await self._startup(reader, writer)
            if startup is None:
                return
            self.connections += 1
            server_reader, server_writer = await asyncio.open_unix_connection(str(self._socket))
            server_writer.write(startup)
            await asyncio.gather(self._messages(reader, server_writer), _copy(server_reader, writer))
        writer.close()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        while True:
            length, code = struct.unpack("!II", await reader.readexactly(8))
            rest = await reader.readexactly(length - 8)
            if code in {_SSL, _GSS}:
                writer.write(b"N")
                continue
            if code == _CANCEL:
                return None
            names = rest.split(b"\0")[0:-2:2]
            unknown = [name.decode() for name in names if name.decode() not in TRACKED]
            if not unknown:
                return struct.pack("!II", length, code) + rest
            error = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
            writer.write(b"E" + struct.pack("!I", len(error) + 4) + error)
            await writer.drain()
            writer.close()
            return None

    async def _messages(self, reader: asyncio.StreamReader, server_writer: asyncio.StreamWriter) -> None:
        """Forward the client's messages, and record its statements."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                kind, length = struct.unpack("!cI", await reader.readexactly(5))
                body = await reader.readexactly(length - 4)
                if kind in {b"Q", b"P"}:
                    name, _, text = body.partition(b"\0") if kind == b"P" else (b"", b"", body)
                    assert not name, "a prepared statement would stay in a session that other clients use"
                    self.statements.append(text.partition(b"\0")[0].decode().strip())
                server_writer.write(kind + struct.pack("!I", length) + body)
                await server_writer.drain()
        server_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
