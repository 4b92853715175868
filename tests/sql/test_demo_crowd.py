"""The demo's buyers: a wrong answer is a contradiction, a missing answer is not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from examples.demo.crowd import Buyer, Crowd
from tests.postgres import PostgresServer
from tests.sql.intake import POOL, Intake

SOCKET = ".s.PGSQL.5432"
ANN = Buyer("ann", "request-of-ann", 0.0, presses_twice=True, loses_connection=False)


class Cutting:
    """Between buyers and DB1: closes the connection of each press whose number is in `cuts`, once DB1 has got it."""

    def __init__(self, cuts: range) -> None:
        self._cuts = cuts
        self.presses = 0

    @asynccontextmanager
    async def listening(self, uri: str, directory: Path) -> AsyncIterator[str]:
        """The URI by which this line is taken."""
        parts = urlsplit(uri)
        self._server = Path(parse_qs(parts.query)["host"][0]) / SOCKET
        async with await asyncio.start_unix_server(self._carry, directory / SOCKET):
            yield f"postgresql://{parts.netloc}{parts.path}?host={directory}"

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._server)
        cut = False

        async def asked() -> None:
            nonlocal cut
            while data := await reader.read(65536):
                if b"claim_resources" in data:
                    self.presses += 1
                    cut = self.presses in self._cuts
                back.write(data)
            back.close()

        async def answered() -> None:
            while (data := await there.read(65536)) and not cut:
                writer.write(data)
            writer.close()

        async with asyncio.TaskGroup() as both:
            both.create_task(asked())
            both.create_task(answered())


async def _played(
    server: PostgresServer, intake: Intake, directory: Path, cuts: range, patience: float
) -> tuple[dict[str, object], int]:
    """What the crowd reports at the end, and how often its button was pressed."""
    line = Cutting(cuts)
    async with line.listening(server.uri(intake.connection.info.dbname, "claimer"), directory) as uri:
        crowd = Crowd(uri, POOL, 1, time.monotonic() + patience)
        return await crowd.run([ANN]), line.presses


@pytest.fixture
def sale(intake: Intake) -> Intake:
    """Open, with seats for all."""
    intake.configure(10)
    intake.seed()
    return intake


async def test_a_second_press_without_an_answer_is_asked_again_until_it_has_one(
    server: PostgresServer, sale: Intake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, presses = await _played(server, sale, tmp_path, range(2, 4), patience=60)
    record = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["outcome"] for line in record] == ["claimed", "error", "error", "replayed"]
    assert {line["request_id"] for line in record} == {ANN.request_id}
    assert summary["contradictions"] == 0
    assert (summary["unanswered"], presses) == (0, 4)


async def test_a_second_press_that_is_never_answered_contradicts_nothing(
    server: PostgresServer, sale: Intake, tmp_path: Path
) -> None:
    summary, presses = await _played(server, sale, tmp_path, range(2, 10**6), patience=0)
    assert summary["contradictions"] == 0
    assert (summary["unanswered"], presses) == (1, 2)


async def test_a_pause_of_the_sale_contradicts_nothing(sale: Intake, server: PostgresServer, tmp_path: Path) -> None:
    """Not after a claim, where a retry is answered first of all; but before it."""
    sale.configure(10, paused=True)
    summary, _ = await _played(server, sale, tmp_path, range(0), patience=0)
    assert summary["contradictions"] == 0
    assert summary["unanswered"] == 1


async def test_another_answer_to_the_same_press_is_a_contradiction(
    server: PostgresServer, sale: Intake, tmp_path: Path
) -> None:
    class Forgetful(Crowd):
        """DB1 as it must not be: it forgets requests."""

        async def _press(self, buyer: Buyer) -> dict[str, object]:
            answer = await super()._press(buyer)
            sale.connection.execute(
                "UPDATE intake.claimed_slots SET request_id = 'forgotten', unique_key = 'z' || unique_key"
            )
            return answer

    crowd = Forgetful(server.uri(sale.connection.info.dbname, "claimer"), POOL, 1, time.monotonic() + 60)
    assert (await crowd.run([ANN]))["contradictions"] == 1
