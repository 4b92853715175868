"""What the admin API reads, where it listens, and how the command ends; who may is the cluster's matter (tests/e2e)."""

import asyncio
import base64
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
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
from intake_operator.admin.access import Gatekeeper
from intake_operator.admin.answers import RefusedError
from intake_operator.admin.desk import Desk
from intake_operator.command import show
from intake_operator.database import dead_letters
from intake_operator.kube.client import Cluster
from intake_operator.ledger import ledgers
from intake_operator.ledger.consistency import Consistencies
from intake_operator.model.dead_letters import DeadLetter, Evidence, Refusal
from intake_operator.model.observed import Event, Manifest
from kubernetes.aio import client as kubernetes
from psycopg import AsyncConnection
from yarl import URL

from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, install_ledger

COMMAND = Path(sys.executable).with_name("intake-admin")
NEVER = Consistencies(lambda: 0.0, lambda _: None)


class Secrets(Cluster):
    """A cluster in which every Secret has this URI."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return {"data": {"uri": base64.b64encode(self._content).decode()}}


@pytest.fixture
async def reader() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """Answers what it understood of a request."""

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
    asked = {"ids": [3, 1], "reason": "  a bot ", "targetChecked": True}
    answer = await reader.post("/", json=asked)
    assert await answer.json() == {"ids": [3, 1], "reason": "a bot", "target_checked": True}
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
        ('{"ids": [1], "reason": "x", "targetChecked": "yes"}', 422, "targetChecked"),
        ('{"ids": [1], "reason": "x", "actor": "somebody else"}', 422, "actor"),
        (f'{{"ids": [{"1," * 40_000}1]}}', 413, None),
    ],
)
async def test_a_bad_request_is_refused_by_field(
    reader: TestClient[web.Request, web.Application], content: str, code: int, field: str | None
) -> None:
    answer = await reader.post("/", data=content, headers={"Content-Type": "application/json"})
    told = await answer.json()
    assert (answer.status, told["kind"], told["code"]) == (code, "Status", code), told
    assert field is None or told["details"]["causes"][0]["field"] == field, told


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "continue=-1", "limit=1&page=2"])
async def test_a_bad_query_is_refused(reader: TestClient[web.Request, web.Application], query: str) -> None:
    assert (await reader.get(f"/?{query}")).status == 422


async def test_a_form_is_no_json(reader: TestClient[web.Request, web.Application]) -> None:
    assert (await reader.post("/", data={"ids": "1"})).status == 415


@pytest.mark.parametrize("name", ["..%2F..%2Fb%2Fintakeevents%2Fdrop", "%2e%2e", "drop%3Fx=1", "drop%00", "Drop"])
async def test_a_right_in_one_namespace_leads_to_no_other(name: str) -> None:
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
        desk = Desk(cluster, NEVER)
        async with TestClient(TestServer(server.application(Gatekeeper(cluster), desk, lambda _: None))) as http:
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
def books() -> Iterator[str]:
    with PostgresServer() as postgres:
        install_ledger(postgres.uri())
        yield postgres.uri()


class TestVoidClaim:
    """The ledger's word, asked for as the bridge asks."""

    async def test_it_is_found_beside_the_function_and_asked(self, books: str, letter: DeadLetter) -> None:
        async with await AsyncConnection.connect(books, autocommit=True) as connection:
            voider = await ledgers.voider(connection, "finalize_transaction")
            assert voider is not None
            assert await ledgers.voider(connection, "elsewhere.finalize_transaction") is None
            payload = letter.payload()
            assert await ledgers.void(connection, voider, payload) == "voided"
            assert await ledgers.void(connection, voider, payload | {"user_id": "thief"}) == "conflict"
            with pytest.raises(psycopg.DataError):
                await ledgers.void(connection, voider, payload | {"claim_id": "x"})
            assert await ledgers.offers(connection, "ledger_claims")
            assert not await ledgers.offers(connection, "no_such_function")

    async def test_one_that_it_refuses_does_not_keep_the_others(
        self, books: str, letter: DeadLetter, event: Callable[..., Event]
    ) -> None:
        with psycopg.connect(books, autocommit=True) as owner:
            owner.execute("ALTER FUNCTION void_claim RENAME TO voided")
            owner.execute(
                "CREATE FUNCTION void_claim(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
                " IF payload ->> 'user_id' = 'vip' THEN RAISE 'not this one'; END IF; RETURN voided(payload); END $$"
            )
        found = [replace(letter, id=1, user_id="vip"), replace(letter, id=2, claim_id=UUID(int=9))]
        decided = await Desk(Secrets(books.encode()), NEVER)._decide(event(), found, target_checked=False)
        refused = decided[1]
        assert isinstance(refused, Refusal)
        assert (refused.reason, "not this one" in refused.message) == ("LedgerRefused", True)
        assert isinstance(decided[2], Evidence)
        with psycopg.connect(books, autocommit=True) as owner:
            owner.execute("ALTER TABLE ledger.claims RENAME TO gone")  # 42P01: nobody's claim in particular
        with pytest.raises(RefusedError, match="did not answer"):
            await Desk(Secrets(books.encode()), NEVER)._decide(event(), found[1:], target_checked=False)

    async def test_it_is_not_waited_for_without_end(
        self, books: str, letter: DeadLetter, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledgers, "CALL_TIMEOUT", 0.5)
        with psycopg.connect(books) as other:
            # It takes the connection, and never gets to know what a function is.
            other.execute("LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(RefusedError, match="no answer in time"):
                    await Desk(Secrets(books.encode()), NEVER)._decide(event(), [letter], target_checked=False)


@pytest.mark.parametrize("content", [b"", b" \n", "postgresql://u:p@db/ledger".encode("utf-16")])
async def test_a_ledger_whose_secret_is_blank_is_not_taken_for_a_webhook(
    event: Callable[..., Event], content: bytes
) -> None:
    """A webhook's claims are given up by their mark alone; what a Postgres ledger may hold would be sold again."""
    with pytest.raises(RefusedError) as refused:
        await Desk(Secrets(content), NEVER).target(event())
    assert (refused.value.code, refused.value.reason) == (409, "LedgerSecretMissing")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("dead-letters", "replay", "drop", "--reason=x"), 2, "by their ids, or give --all"),
        (("dead-letters", "replay", "drop", "7", "--all", "--reason=x"), 2, "by their ids, or give --all"),
        (("dead-letters", "discard", "drop", "7"), 2, "--reason"),
        (("reconcile", "drop", "--server=http://admin.example", "--token-file={token}"), 2, "https"),
        (("audit", "drop", "--server=http://127.0.0.1:1", "--token-file={token}"), 4, "does not answer"),
        (("audit", "drop", "--server=http://127.0.0.1:1", "--token-file=/nowhere"), 3, "/nowhere"),
        (("audit", "drop", "--server=https://127.0.0.1:99999", "--token-file={token}"), 2, "no URL"),
        (("audit", "drop"), 3, "kubectl create token"),
        (("dead-letters", "list", "drop", "--limit=0"), 2, "--limit"),
        (("dead-letters", "replay", "drop", "0", "--reason=x"), 2, "ID"),
    ],
)
def test_the_command_says_what_to_do(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    token, kubectl = tmp_path / "token", tmp_path / "kubectl"
    token.write_text("secret-token")
    kubectl.write_text('#!/bin/sh\necho \'{"users": [{"user": {"client-certificate": "x"}}]}\'\n')
    kubectl.chmod(0o755)
    line = [argument.format(token=token) for argument in arguments]
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [COMMAND, *line, "--namespace=tickets"],
        capture_output=True,
        text=True,
        check=False,
        env=where,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert "secret-token" not in done.stdout + done.stderr


async def test_a_token_in_the_clear_goes_through_no_proxy_and_a_refused_reason_is_the_command_line_s(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    proxied = []

    async def proxy(request: web.Request) -> web.Response:
        proxied.append(request.headers.get("Authorization"))
        return web.json_response({})

    async def refuse(_: web.Request) -> web.Response:
        return RefusedError(422, "Invalid", "the request is not valid: reason: say why").response()

    outside, api = web.Application(), web.Application()
    outside.router.add_route("*", "/{path:.*}", proxy)
    api.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(outside) as between, TestServer(api) as there:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "dead-letters", "replay", "drop", "7", "--reason= ", "--namespace=tickets"),
            *(f"--server={there.make_url('')}", f"--token-file={token}"),
            env={"PATH": os.environ["PATH"], "HTTP_PROXY": str(between.make_url(""))},
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
    assert (proxied, process.returncode) == ([], 2), told


def test_a_table_shows_nothing_that_moves_the_cursor(letter: DeadLetter) -> None:
    lines = show.dead_letters([letter.shown() | {"reason": "\x1b[2Jgone\nnext"}]).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("?[2Jgone?next")


async def test_a_body_that_is_not_what_its_encoding_says_is_a_bad_request(
    reader: TestClient[web.Request, web.Application],
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await reader.post("/", data=b'{"ids": [1], "reason": "x"}', headers=headers)).status == 400


async def test_a_db1_that_is_frozen_is_not_waited_for_without_end(
    books: str, event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume hangs, say: then its own statement_timeout does not end a statement either."""
    monkeypatch.setattr(dead_letters, "CALL_TIMEOUT", 0.5)
    async with await AsyncConnection.connect(books, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(TimeoutError):
                    await dead_letters.page(connection, event().pool, 100, 0)
        finally:
            os.kill(backend, signal.SIGCONT)
