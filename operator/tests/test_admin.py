"""What the admin API accepts, where it listens, and when it asks the ledger. Rights are tested in tests/e2e."""

import asyncio
import base64
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, unused_port
from intake_operator.admin import requests, server
from intake_operator.admin.answers import RefusedError
from intake_operator.admin.authorizer import Authorizer
from intake_operator.admin.service import AdminService
from intake_operator.database import dead_letters
from intake_operator.kube.client import Cluster
from intake_operator.ledger import connection as ledger_connection
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.functions import offers, void_function
from intake_operator.ledger.voiding import void
from intake_operator.long_reads import LongReads
from intake_operator.model.dead_letters import Content, DeadLetter, Evidence, Refusal
from intake_operator.model.observed import Event, Manifest
from kubernetes.aio import client as kubernetes
from psycopg import AsyncConnection
from yarl import URL

from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, install_ledger

NEVER = ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None))
DISCARD = requests.Discard(ids=[1], reason="a bot")


class Secrets(Cluster):
    """A cluster in which every Secret has this URI."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return {"data": {"uri": base64.b64encode(self._content).decode()}}


class WithoutDatabase(AdminService):
    """Nothing came with any claim."""

    async def _contents(self, event: Event, ids: Sequence[int], actor: str, reason: str) -> dict[int, Content]:
        return {number: Content(number, None, None) for number in ids}


@pytest.fixture
async def reader() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """A server that answers with what it has read of a request."""

    async def discard(request: web.Request) -> web.Response:
        try:
            return web.json_response((await requests.body(request, requests.Discard)).model_dump())
        except RefusedError as refusal:
            return refusal.response()

    async def page(request: web.Request) -> web.Response:
        try:
            return web.json_response(requests.page(request).model_dump())
        except RefusedError as refusal:
            return refusal.response()

    app = web.Application(client_max_size=server.LARGEST_BODY)
    app.add_routes([web.post("/", discard), web.get("/", page)])
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_good_request(reader: TestClient[web.Request, web.Application]) -> None:
    asked = {"ids": [3, 1], "reason": "  a bot ", "ledgerChecked": True}
    answer = await reader.post("/", json=asked)
    assert await answer.json() == {"ids": [3, 1], "reason": "a bot", "ledger_checked": True, "return_conflicts": False}
    assert await (await reader.get("/?limit=7&continue=9")).json() == {"limit": 7, "continue_": 9}


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        ("", 400, None),
        ("{", 400, None),
        ("[]", 422, ""),
        ('{"ids": [1]}', 422, "reason"),
        ('{"ids": [1], "reason": ""}', 422, "reason"),
        ('{"ids": [1], "reason": "  "}', 422, "reason"),
        ('{"ids": [1], "reason": "a\\u0000b"}', 422, "reason"),
        ('{"ids": [1], "reason": "a\\nb"}', 422, "reason"),
        ('{"ids": [1], "reason": 7}', 422, "reason"),
        (f'{{"ids": [1], "reason": "{"x" * 1001}"}}', 422, "reason"),
        ('{"ids": [], "reason": "x"}', 422, "ids"),
        ('{"ids": [0], "reason": "x"}', 422, "ids.0"),
        ('{"ids": [9223372036854775808], "reason": "x"}', 422, "ids.0"),
        ('{"ids": ["1"], "reason": "x"}', 422, "ids.0"),
        ('{"ids": [1.5], "reason": "x"}', 422, "ids.0"),
        ('{"ids": [true], "reason": "x"}', 422, "ids.0"),
        (f'{{"ids": {list(range(1, 502))}, "reason": "x"}}', 422, "ids"),
        ('{"ids": [1], "reason": "x", "ledgerChecked": "yes"}', 422, "ledgerChecked"),
        ('{"ids": [1], "reason": "x", "actor": "somebody else"}', 422, "actor"),
        (f'{{"ids": [{"1," * 40_000}1]}}', 413, None),
    ],
)
async def test_a_bad_request_is_refused_by_field(
    reader: TestClient[web.Request, web.Application], content: str, code: int, field: str | None
) -> None:
    answer = await reader.post("/", data=content, headers={"Content-Type": "application/json"})
    body = await answer.json()
    assert (answer.status, body["kind"], body["code"]) == (code, "Status", code), body
    assert field is None or body["details"]["causes"][0]["field"] == field, body


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "continue=-1", "limit=1&page=2"])
async def test_a_bad_query_is_refused(reader: TestClient[web.Request, web.Application], query: str) -> None:
    assert (await reader.get(f"/?{query}")).status == 422


async def test_a_form_is_refused(reader: TestClient[web.Request, web.Application]) -> None:
    assert (await reader.post("/", data={"ids": "1"})).status == 415


async def test_a_body_that_is_not_what_its_encoding_says_is_a_bad_request(
    reader: TestClient[web.Request, web.Application],
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await reader.post("/", data=b'{"ids": [1], "reason": "x"}', headers=headers)).status == 400


@pytest.mark.parametrize("name", ["..%2F..%2Fb%2Fintakeevents%2Fdrop", "%2e%2e", "drop%3Fx=1", "drop%00", "Drop"])
async def test_a_right_in_one_namespace_gives_no_access_to_another(name: str) -> None:
    looked_at = []

    async def api_server(request: web.Request) -> web.Response:
        if request.path.endswith("/tokenreviews"):
            user = {"username": "editor of a"}
            status = {"authenticated": True, "audiences": ["intake-engine.io"], "user": user}
            return web.json_response({"status": status}, status=201)
        if request.path.endswith("/subjectaccessreviews"):
            attributes = (await request.json())["spec"]["resourceAttributes"]
            return web.json_response({"status": {"allowed": attributes["namespace"] == "a"}}, status=201)
        looked_at.append(request.path)
        return web.json_response({"reason": "NotFound"}, status=404)

    api = web.Application()
    api.router.add_route("*", "/{path:.*}", api_server)
    async with TestServer(api) as there:
        settings = kubernetes.Configuration(host=str(there.make_url("")).rstrip("/"))
        cluster = Cluster(kubernetes.ApiClient(settings))
        service = AdminService(cluster, NEVER)
        async with TestClient(TestServer(server.application(Authorizer(cluster), service, lambda _: None))) as http:
            for asked in (name, "drop"):
                path = f"/v1alpha1/namespaces/a/intakeevents/{asked}/deadletters"
                answer = await http.get(URL(path, encoded=True), headers={"Authorization": "Bearer token"})
                assert (answer.status, (await answer.json())["kind"]) == (404, "Status")
        await cluster.close()
    assert looked_at == ["/apis/intake-engine.io/v1alpha1/namespaces/a/intakeevents/drop"]


async def test_tls_serves_the_certificate_that_is_there_now(tmp_path: Path) -> None:
    def certificate() -> str:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(tmp_path / "tls.key")
        with (tmp_path / "tls.crt").open("wb") as file:
            file.writelines(pem.bytes() for pem in issued.cert_chain_pems)
        authority.cert_pem.write_to_path(tmp_path / "ca.crt")
        return str(tmp_path / "ca.crt")

    async def ask(authority: str) -> int:
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=authority)) as client:
            return (await client.get(f"https://localhost:{port}/")).status_code

    first, port = certificate(), unused_port()
    runner = await server.serve(web.Application(), server.Listen(0, port, tmp_path))
    try:
        assert await ask(first) == 404
        second = certificate()
        os.utime(tmp_path / "tls.crt", (0, 0))
        assert await ask(second) == 404
        (tmp_path / "tls.crt").write_text("half of it")
        assert await ask(second) == 404, "a pair that is not whole changes nothing"
    finally:
        await runner.cleanup()


@pytest.fixture
def ledger_uri() -> Iterator[str]:
    with PostgresServer() as postgres:
        install_ledger(postgres.uri())
        yield postgres.uri()


class TestVoidClaim:
    """void_claim, called as the bridge calls it."""

    async def test_it_is_looked_up_in_the_schema_of_the_function_and_its_answer_is_returned(
        self, ledger_uri: str, letter: DeadLetter
    ) -> None:
        async with await AsyncConnection.connect(ledger_uri, autocommit=True) as connection:
            void_claim = await void_function(connection, "finalize_transaction")
            assert void_claim is not None
            assert await void_function(connection, "elsewhere.finalize_transaction") is None
            claim = letter.as_json()
            assert await void(connection, void_claim, claim) == "voided"
            assert await void(connection, void_claim, claim | {"user_id": "thief"}) == "conflict"
            with pytest.raises(psycopg.DataError):
                await void(connection, void_claim, claim | {"claim_id": "x"})
            assert await offers(connection, "ledger_claims")
            assert not await offers(connection, "no_such_function")

    async def test_a_claim_that_it_refuses_does_not_block_the_others(
        self, ledger_uri: str, letter: DeadLetter, event: Callable[..., Event]
    ) -> None:
        with psycopg.connect(ledger_uri, autocommit=True) as owner:
            owner.execute("ALTER FUNCTION void_claim RENAME TO voided")
            owner.execute(
                "CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
                " IF claim ->> 'user_id' = 'vip' THEN RAISE 'not this one'; END IF; RETURN voided(claim); END $$"
            )
        found = [replace(letter, id=1, user_id="vip"), replace(letter, id=2, claim_id=UUID(int=9))]
        service = WithoutDatabase(Secrets(ledger_uri.encode()), NEVER)
        decided = await service._decide(event(), found, DISCARD, "editor")
        refused = decided[1]
        assert isinstance(refused, Refusal)
        assert (refused.reason, "not this one" in refused.message) == ("LedgerRefused", True)
        assert isinstance(decided[2], Evidence)
        with psycopg.connect(ledger_uri, autocommit=True) as owner:
            owner.execute("ALTER TABLE ledger.claims RENAME TO gone")  # 42P01: not the fault of one claim
        with pytest.raises(RefusedError, match="did not answer"):
            await service._decide(event(), found[1:], DISCARD, "editor")

    async def test_a_ledger_that_does_not_answer_ends_in_a_timeout(
        self, ledger_uri: str, letter: DeadLetter, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_connection, "CALL_TIMEOUT", 0.5)
        with psycopg.connect(ledger_uri) as other:
            # The server accepts the connection, and then waits for this lock to look up any function.
            other.execute("LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE")
            service = WithoutDatabase(Secrets(ledger_uri.encode()), NEVER)
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(RefusedError, match="no answer in time"):
                    await service._decide(event(), [letter], DISCARD, "editor")


@pytest.mark.parametrize("content", [b"", b" \n", "postgresql://u:p@db/ledger".encode("utf-16")])
async def test_a_ledger_whose_secret_is_blank_is_not_taken_for_a_webhook(
    event: Callable[..., Event], content: bytes
) -> None:
    """Claims of a webhook are discarded by their state alone; what a Postgres ledger has sold would be sold again."""
    with pytest.raises(RefusedError) as refused:
        await AdminService(Secrets(content), NEVER).target(event())
    assert (refused.value.code, refused.value.reason) == (409, "LedgerSecretMissing")


async def test_a_frozen_db1_ends_in_a_timeout(
    ledger_uri: str, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its volume hangs, for example, its own statement_timeout does not end a statement either."""
    monkeypatch.setattr(dead_letters, "CALL_TIMEOUT", 0.5)
    async with await AsyncConnection.connect(ledger_uri, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(TimeoutError):
                    await dead_letters.page(connection, event().pool, 100, 0)
        finally:
            os.kill(backend, signal.SIGCONT)
