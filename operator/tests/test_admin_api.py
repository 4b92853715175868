"""The admin API on a real DB1 and a real ledger: who sees what came with a claim, and what a discard does."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from urllib.parse import unquote, urlparse

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from intake_operator import names
from intake_operator.admin import server as admin_server
from intake_operator.admin.authorizer import Authorizer
from intake_operator.admin.service import AdminService
from intake_operator.children import access
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event
from one_event import OneEvent
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer, install_intake

# Words that nothing else has.
PAYLOAD: Final = {"e-mail": "marker-4711@example.com", "notes": ["marker-4712"], "marker-4714@example.com": 2}
VALIDATION: Final = {"payment_id": "marker-4713"}
MARKER: Final = "marker-47"

SEATS: Final = 6
RIGHTS: Final = {
    "viewer": {("get", "deadletters")},
    "editor": {("get", "deadletters"), ("update", "deadletters"), ("create", "reconcile")},
    "admin": {("get", "deadletters"), ("update", "deadletters"), ("create", "payloads")},
}

# A ledger that keeps the claims that it was told to void. The buyer `vip` is refused with what came with the claim.
VOIDING: Final = """
    CREATE TABLE voided (claim jsonb);
    CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        IF claim ->> 'user_id' = 'vip' THEN RAISE EXCEPTION 'not this one: %', claim -> 'payload' ->> 'e-mail'; END IF;
        IF claim ->> 'user_id' = 'key' THEN
            RAISE EXCEPTION 'unknown field %',
                (SELECT max(k) FROM jsonb_object_keys(claim -> 'payload') k WHERE k LIKE '%@%');
        END IF;
        IF claim ->> 'user_id' = 'bad' THEN PERFORM (claim -> 'validation' ->> 'payment_id')::int; END IF;
        INSERT INTO voided VALUES (claim);
        RETURN 'voided';
    END $$;
"""


class Scene:
    """An event with dead letters, and the admin API."""

    def __init__(
        self, http: TestClient[web.Request, web.Application], path: str, db1: AsyncConnection, books: AsyncConnection
    ) -> None:
        self.db1 = db1
        self.books = books
        self._http = http
        self._path = path

    async def get(self, user: str, what: str) -> Any:  # noqa: ANN401 - JSON
        answer = await self._http.get(f"{self._path}/{what}", headers={"Authorization": f"Bearer {user}"})
        assert answer.status == 200
        return await answer.json()

    async def post(self, user: str, what: str, **body: object) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {user}"}
        answer = await self._http.post(f"{self._path}/{what}", headers=headers, json=body)
        assert answer.status != 200 or not what.endswith("payloads") or answer.headers["Cache-Control"] == "no-store"
        return answer.status, await answer.json()

    async def values(self, connection: AsyncConnection, query: LiteralString, *arguments: object) -> list[Any]:
        return [row[0] for row in await (await connection.execute(query, arguments)).fetchall()]

    async def die(self, pool: str, user: str, quantity: int, *, conflict: bool = False) -> int:
        """A validated claim that gave up; the id of its dead letter."""
        claim = "SELECT outcome FROM intake.claim_resources(%s, %s, %s, %s, %s)"
        outcomes = await self.values(self.db1, claim, pool, user, quantity, f"r {user}", Jsonb(PAYLOAD))
        assert outcomes == ["claimed"] * quantity
        leased = await self.db1.execute("SELECT msg_id, read_ct FROM intake.read_batch(%s, 'w', 10)", (pool,))
        ((msg_id, read_ct),) = await leased.fetchall()
        lease = (pool, [msg_id], [read_ct])
        await self.db1.execute("SELECT intake.mark_validated(%s, %s, %s, %s)", (*lease, [Jsonb(VALIDATION)]))
        dead = "SELECT intake.dead_letter(%s, %s, %s, %s, %s)"
        await self.db1.execute(dead, (*lease, ["commit: refused"], [conflict]))
        found = await self.values(self.db1, "SELECT max(msg_id) FROM intake.dead_letters(%s)", pool)
        return int(found[0])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_intake(running.create_database("as_migrated"))
        yield running


@pytest.fixture
async def scene(
    server: PostgresServer, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    made, uri, ledger_uri = event(), server.create_database("intake", "as_migrated"), server.create_database("books")
    socket = unquote(urlparse(uri).query.removeprefix("host="))
    monkeypatch.setattr(access, "host", lambda _: socket)
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    cluster = OneEvent(made, SEATS, RIGHTS, ledger_uri)
    service = AdminService(cluster, ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None)))
    app = admin_server.application(Authorizer(cluster), service, lambda _: None)
    path = f"/v1alpha1/namespaces/{made.namespace}/intakeevents/{made.name}"
    async with (
        await AsyncConnection.connect(uri, autocommit=True) as db1,
        await AsyncConnection.connect(ledger_uri, autocommit=True) as books,
        TestClient(TestServer(app)) as http,
    ):
        # With a validator: without one a bridge reads what is approved already, and its first approval stands.
        config = {"inventorySize": SEATS, "validation": {"url": "http://validator"}, **window}
        await db1.execute("SELECT intake.configure(%s, %s)", (made.pool, Jsonb(config)))
        await db1.execute("SELECT intake.seed(%s)", (made.pool,))
        await books.execute(VOIDING.encode())
        yield Scene(http, path, db1, books)
    for database in ("intake", "books"):
        server.drop_database(database)


async def test_a_payload_is_shown_to_those_with_the_right_alone_and_the_audit_says_to_whom(
    scene: Scene, event: Callable[..., Event], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    letter = await scene.die(event().pool, "ann", 2)
    listed = await scene.get("viewer", "deadletters")
    (item,) = listed["items"]
    assert [seat["slot_no"] for seat in item["seats"]] == [1, 2]
    assert all(set(seat) == {"slot_no", "resource_id", "label", "attributes"} for seat in item["seats"])
    assert {"payload", "validation"}.isdisjoint(item)
    for user in ("viewer", "editor"):
        code, refusal = await scene.post(user, "deadletters/payloads", ids=[letter], reason="curious")
        assert (code, refusal["reason"]) == (403, "Forbidden")
        assert "cannot create resource intakeevents/payloads" in refusal["message"]
        assert MARKER not in json.dumps([listed, refusal])
    assert (await scene.get("viewer", "audit"))["items"] == [], "nothing was read"
    assert (await scene.post("admin", "deadletters/payloads", ids=[letter]))[0] == 422, "a reason is required"

    code, shown = await scene.post("admin", "deadletters/payloads", ids=[letter, letter + 1], reason="a refund")
    assert code == 200
    assert shown["items"] == [{"id": letter, "payload": PAYLOAD, "validation": VALIDATION}]
    assert shown["gone"] == [letter + 1]
    audit = (await scene.get("viewer", "audit"))["items"]
    assert [(each["actor"], each["reason"]) for each in audit] == [("admin", "a refund")]
    assert MARKER not in json.dumps(audit)
    assert "showed the payloads of 1 dead letters" in caplog.text
    assert MARKER not in caplog.text


async def test_a_discarded_claim_is_voided_whole_with_what_came_with_it_which_nobody_sees(
    scene: Scene, event: Callable[..., Event], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool = event().pool
    letters = [await scene.die(pool, "ann", 3), await scene.die(pool, "bob", 1)]
    code, answer = await scene.post("editor", "deadletters/discard", ids=letters, reason="a bot")
    assert (code, answer["discarded"], answer["refused"]) == (200, letters, [])
    first, second = await scene.values(scene.books, "SELECT claim FROM voided ORDER BY claim ->> 'user_id'")
    assert set(first) == {
        *("claim_id", "pool_id", "user_id", "request_id", "claimed_at", "seats", "payload", "validation"),
    }
    assert [seat["slot_no"] for seat in first["seats"]] == [1, 2, 3]
    assert (first["payload"], first["validation"]) == (PAYLOAD, VALIDATION)
    assert [seat["slot_no"] for seat in second["seats"]] == [4]
    (inventory,) = await scene.values(scene.db1, "SELECT intake.engine_status(%s) -> 'inventory'", pool)
    assert (inventory["available"], inventory["reserved"]) == (SEATS, 0), "all slots of the claims are free"
    assert await scene.values(scene.db1, "SELECT invariant FROM intake.reconcile(%s)", pool) == []
    audit = (await scene.get("viewer", "audit"))["items"]
    assert [(each["actor"], each["reason"]) for each in audit] == [
        ("editor", "a bot"),
        (names.FIELD_MANAGER, "sent to void_claim for editor: a bot"),
    ]
    assert MARKER not in json.dumps([answer, audit]) + caplog.text


@pytest.mark.parametrize(("user", "sqlstate"), [("vip", "P0001"), ("key", "P0001"), ("bad", "22P02")])
async def test_what_a_ledger_says_of_a_payload_is_not_told(
    scene: Scene, event: Callable[..., Event], caplog: pytest.LogCaptureFixture, user: str, sqlstate: str
) -> None:
    caplog.set_level(logging.DEBUG)
    letter = await scene.die(event().pool, user, 2)
    code, answer = await scene.post("editor", "deadletters/discard", ids=[letter], reason="a bot")
    ((refused,), discarded) = answer["refused"], answer["discarded"]
    assert (code, discarded, refused["reason"]) == (200, [], "LedgerRefused")
    assert f"SQLSTATE {sqlstate}" in refused["message"]
    assert MARKER not in json.dumps(answer) + caplog.text
    assert [each["id"] for each in (await scene.get("viewer", "deadletters"))["items"]] == [letter], "it stays"


async def test_a_ledger_that_cannot_void_is_sent_no_payload(scene: Scene, event: Callable[..., Event]) -> None:
    await scene.books.execute("DROP FUNCTION void_claim")
    letter = await scene.die(event().pool, "ann", 2)
    _, answer = await scene.post("editor", "deadletters/discard", ids=[letter], reason="a bot", ledgerChecked=True)
    assert answer["discarded"] == [letter]
    assert [each["actor"] for each in (await scene.get("viewer", "audit"))["items"]] == ["editor"], "nothing was read"


@pytest.mark.parametrize("returned", [False, True])
async def test_the_slots_of_a_conflict_stay_off_sale_unless_they_are_asked_for(
    scene: Scene, event: Callable[..., Event], *, returned: bool
) -> None:
    pool = event().pool
    letter = await scene.die(pool, "ann", 2, conflict=True)
    _, answer = await scene.post(
        "editor", "deadletters/discard", ids=[letter], reason="sold by hand", returnConflicts=returned
    )
    assert answer["discarded"] == [letter]
    (inventory,) = await scene.values(scene.db1, "SELECT intake.engine_status(%s) -> 'inventory'", pool)
    assert (inventory["withheld"], inventory["available"]) == ((0, SEATS) if returned else (2, SEATS - 2))


@pytest.mark.parametrize(
    "value", ["1" * 400 + ".5", "1e5000", "[" * 12_000 + "]" * 12_000], ids=["float", "int", "deep"]
)
async def test_no_payload_keeps_a_claim_from_being_shown_and_discarded(
    scene: Scene, event: Callable[..., Event], value: str
) -> None:
    letter = await scene.die(event().pool, "ann", 1)
    await scene.db1.execute(
        "UPDATE pgmq.q_intake_dlq SET message = message || jsonb_build_object('payload', %s::jsonb)",
        (f'{{"n": {value}, "a": 1.5}}',),
    )
    code, shown = await scene.post("admin", "deadletters/payloads", ids=[letter], reason="a refund")
    assert code == 200
    json.dumps(shown, allow_nan=False)
    code, done = await scene.post("admin", "deadletters/discard", ids=[letter], reason="a refund")
    assert (code, done["discarded"]) == (200, [letter])
