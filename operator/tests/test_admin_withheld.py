"""Withheld seats over the admin API, on a real DB1, and by `intake-admin seats`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse
from uuid import UUID

import pytest
from aiohttp.test_utils import TestServer
from intake_operator.admin import server as admin_server
from intake_operator.admin.authorizer import Authorizer
from intake_operator.admin.service import AdminService
from intake_operator.admin.withheld import Slots
from intake_operator.children import access
from intake_operator.command.__main__ import main
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event
from one_event import OneEvent
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from tests.postgres import PostgresServer, install_intake

SEATS: Final = 12
RIGHTS: Final = {"viewer": {("get", "withheld")}, "editor": {("get", "withheld"), ("update", "withheld")}}
COMMAND: Final = Path(sys.executable).with_name("intake-admin")


class Scene:
    """An event whose seats A-1 to A-12 are on sale, and the admin API."""

    def __init__(self, api: TestServer, event: Event, db1: AsyncConnection, folder: Path) -> None:
        self.db1 = db1
        self.woken: list[tuple[str, str]] = []
        self._api = api
        self._event = event
        self._folder = folder

    async def run(self, *arguments: str, user: str = "editor", text: str = "") -> tuple[int, str, str]:
        """Exit code, output and errors of `intake-admin seats`."""
        token = self._folder / user
        token.write_text(user)
        command, *rest = arguments
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "seats", command, self._event.name, *rest, f"--namespace={self._event.namespace}"),
            *(f"--server={self._api.make_url('')}", f"--token-file={token}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(text.encode())
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def withheld(self) -> list[int]:
        found = await self.db1.execute("SELECT slot_no FROM intake.withheld_slots(%s)", (self._event.pool,))
        return [slot for (slot,) in await found.fetchall()]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_intake(running.create_database("as_migrated"))
        yield running


@pytest.fixture
async def scene(
    server: PostgresServer, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Scene]:
    made, uri = event(), server.create_database("intake", "as_migrated")
    socket = unquote(urlparse(uri).query.removeprefix("host="))
    monkeypatch.setattr(access, "host", lambda _: socket)
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    cluster = OneEvent(made, SEATS, RIGHTS)
    service = AdminService(cluster, ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None)))
    woken: list[tuple[str, str]] = []
    app = admin_server.application(Authorizer(cluster), service, woken.append)
    config = {"inventorySize": SEATS, "ownResources": True, **window}
    ids, labels = [UUID(int=n) for n in range(1, SEATS + 1)], [f"A-{n}" for n in range(1, SEATS + 1)]
    async with await AsyncConnection.connect(uri, autocommit=True) as db1, TestServer(app) as api:
        await db1.execute("SELECT intake.configure(%s, %s)", (made.pool, Jsonb(config)))
        await db1.execute("SELECT intake.stock(%s, 1, %s, %s)", (made.pool, ids, labels))
        await db1.execute("SELECT intake.seed(%s)", (made.pool,))
        built = Scene(api, made, db1, tmp_path)
        built.woken = woken
        yield built
    server.drop_database("intake")


async def test_seats_are_withheld_and_returned_by_label_id_and_slot(scene: Scene) -> None:
    await scene.db1.execute("SELECT intake.claim_seats(%s, 'ann', '{A-9}')", ("taylor-la-night-1",))
    code, told, _ = await scene.run("withhold", "A-1", str(UUID(int=2)), "--slots=4-6,8", "--reason=house seats")
    assert (code, told) == (0, "6 withheld\n")
    assert await scene.withheld() == [1, 2, 4, 5, 6, 8]
    assert set(scene.woken) == {("tickets", "taylor-drop")}
    code, told, _ = await scene.run("withhold", "A-1", "A-3", "A-9", "B-1", "--slots=13", "--reason=more of them")
    assert code == 1
    assert told.splitlines() == [
        "1 withheld",
        "1 withheld before",
        "1 claimed, and not withheld: 9",
        "1 no such slot: 13",
        "1 no such seat: B-1",
    ]
    code, told, _ = await scene.run("list", "--limit=2", user="viewer")
    lines = [line.split() for line in told.splitlines()]
    assert lines[0] == ["SLOT", "LABEL", "AT", "WHO", "WHY"]
    assert [[*line[:2], *line[3:]] for line in lines[1:]] == [[n, f"A-{n}", "editor", "house", "seats"] for n in "12"]
    code, told, _ = await scene.run(
        "return", "--from-file=-", "-o", "json", "--reason=box office", text="\ufeffA-1\r\n\nA-2\nA-7\n"
    )
    assert (code, json.loads(told)["returned"], json.loads(told)["notWithheld"]) == (1, [1, 2], [7])
    assert await scene.withheld() == [3, 4, 5, 6, 8]


async def test_who_may_look_may_not_withhold(scene: Scene) -> None:
    code, _, errors = await scene.run("withhold", "A-1", "--reason=x", user="viewer")
    assert (code, "cannot update resource intakeevents/withheld" in errors) == (3, True)
    assert await scene.withheld() == []


async def test_many_slots_are_sent_in_parts(scene: Scene) -> None:
    code, told, _ = await scene.run("withhold", "--slots=11-20500,5,1-2", "--reason=x")
    assert (code, told.splitlines()) == (1, ["5 withheld", "20488 no such slot"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("withhold", "A-1"), "--reason"),
        (("withhold", "--reason=x"), "name seats by label or resource id, or give --slots or --from-file"),
        (("return", "--slots=9-3", "--reason=x"), "'9-3' is no slot and no range of slots"),
        (("return", "--slots=A-3", "--reason=x"), "'A-3' is no slot and no range of slots"),
        (("withhold", "--from-file=/nowhere", "--reason=x"), "no seats can be read from /nowhere"),
        (("list", "--limit=0"), "--limit"),
    ],
)
def test_a_wrong_command_line_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    command, *rest = arguments
    where = ("--namespace=tickets", "--server=http://127.0.0.1:1", f"--token-file={token}")
    code: object = None
    try:
        code = main(["seats", command, "drop", *rest, *where])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "x"},
        {"reason": "x", "seats": [], "slots": []},
        {"reason": "x", "slots": ["7-5"]},
        {"reason": "x", "slots": ["0"]},
        {"reason": "x", "slots": [7]},
        {"reason": "x", "slots": ["1-10001"]},
        {"reason": "x", "slots": ["1-99999999"] * 500},
        {"reason": "x", "seats": [""]},
        {"reason": "x", "seats": ["A"] * 501},
        {"reason": " ", "slots": ["1"]},
        {"slots": ["1"]},
    ],
)
def test_a_bad_request_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Slots.model_validate_json(json.dumps(body))


def test_slots_may_be_named_more_than_once() -> None:
    wanted = Slots.model_validate({"reason": "x", "seats": ["A-1"], "slots": ["1-3", "2", "10000"]})
    assert (wanted.numbers(), wanted.seats) == ({1, 2, 3, 10_000}, ["A-1"])
    assert Slots.model_validate({"reason": "x", "slots": ["1-10000"]}).numbers() == set(range(1, 10_001))
