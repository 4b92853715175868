"""How webhooks are called: TLS and tokens, time limits, and how many calls are under way."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.http import HttpClient
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.concurrency_limit import CEILING, FIRST, ConcurrencyLimit
from intake_bridge.domain.outcomes import Transport
from intake_bridge.ports import DependencyDownError, HttpError
from sale import TUNING, Sale, validation
from webhook_server import WebhookServer, status


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A private authority."""
    return trustme.CA(organization_name="ours")


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """The client of one webhook."""
    http = HttpClient()
    yield http
    await http.close()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def pem(authority: trustme.CA) -> str:
    """What a client trusts."""
    return authority.cert_pem.bytes().decode()


def credentials(clock: float = 0.0, **values: str) -> Credentials:
    """Credentials that stay as they are."""

    async def source(part: str) -> str | None:
        return values.get(part)

    return Credentials(source, lambda: clock)


# --- TLS ---


async def test_a_private_authority_is_trusted_when_it_is_named(authority: trustme.CA, client: HttpClient) -> None:
    trust = credentials(CA=pem(authority))
    await trust.refresh()
    async with WebhookServer(serving(authority.issue_cert("127.0.0.1"))) as server:
        reply = await client.post(server.single, b'{"claim_id": "c"}', {}, 60, trust.tls)
    assert reply.status == 200


async def test_a_server_that_is_not_who_it_should_be_is_not_spoken_to_and_the_words_say_why(
    authority: trustme.CA, client: HttpClient
) -> None:
    stranger = trustme.CA(organization_name="somebody else's")
    past = datetime(2020, 1, 1, tzinfo=UTC)
    expired = authority.issue_cert("127.0.0.1", not_before=past, not_after=past.replace(year=2021))
    cases = [
        (stranger.issue_cert("127.0.0.1"), "from an authority that is not trusted here: name that in caSecretRef"),
        (authority.issue_cert("shop.example"), "its certificate does not match the IP address"),
        (expired, "its certificate has expired"),
    ]
    trust = credentials(CA=pem(authority))
    await trust.refresh()
    for certificate, words in cases:
        async with WebhookServer(serving(certificate)) as server:
            with pytest.raises(HttpError, match=words) as caught:
                await client.post(server.single, b"{}", {}, 60, trust.tls)
            assert caught.value.kind is Transport.UNREACHABLE
            assert server.calls == []


async def test_without_an_authority_of_ones_own_the_systems_are_trusted(
    authority: trustme.CA, client: HttpClient
) -> None:
    async with WebhookServer(serving(authority.issue_cert("127.0.0.1"))) as server:
        with pytest.raises(HttpError, match="not trusted here"):
            await client.post(server.single, b"{}", {}, 60, None)


async def test_plain_http_where_tls_is_expected_is_reported(client: HttpClient) -> None:
    async with WebhookServer() as server:
        with pytest.raises(HttpError, match="the TLS handshake failed") as caught:
            await client.post(server.single.replace("http:", "https:"), b"{}", {}, 60, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_wrong_certificate_reaches_the_condition_and_a_right_authority_heals_it(
    sale: Sale, authority: trustme.CA, tmp_path: Path
) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(pem(trustme.CA()))
    claims = await sale.claim(5)
    async with WebhookServer(serving(authority.issue_cert("127.0.0.1"))) as server:
        await sale.configure(validation=validation(server.single), maxRetries=0)
        async with sale.worker(INTAKE_VALIDATION_CA_FILE=str(file)):
            await sale.until_health("validator", "down", "comes from an authority that is not trusted here")
            assert len(await sale.queue()) == len(claims)
            file.write_text(pem(authority))
            await sale.until_drained()
    await sale.check()


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("INTAKE_VALIDATION_CA_FILE", "no certificate", "holds no certificates in PEM"),
        ("INTAKE_VALIDATION_SIGNING_SECRET_FILE", "\n", "INTAKE_VALIDATION_SIGNING_SECRET_FILE is empty"),
        ("INTAKE_COMMIT_TOKEN_FILE", None, "INTAKE_COMMIT_TOKEN_FILE cannot be read"),
    ],
)
async def test_a_secret_that_cannot_work_is_reported_before_anything_is_read(
    sale: Sale, webhook: WebhookServer, tmp_path: Path, variable: str, content: str | None, words: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    await sale.configure(validation=validation(webhook.single), commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(3)
    # Half open in every instant between the look and the read: what a loaded machine makes of any other tuning.
    hasty = replace(TUNING, breaker=BreakerTuning(first_probe_seconds=0, last_probe_seconds=0))
    async with sale.worker(tuning=hasty, **{variable: str(file)}):
        await sale.until_health("validator" if "VALIDATION" in variable else "ledger", "down", words)
    assert {row["read_ct"] for row in (await sale.queue()).values()} == {0}
    assert webhook.calls == []


# --- answers that break the rules ---


async def _served(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> tuple[web.AppRunner, str]:
    application = web.Application()
    application.add_routes([web.post("/", handler)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/"


async def test_an_endless_answer_is_cut_off(client: HttpClient) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    runner, url = await _served(endless)
    with pytest.raises(HttpError, match="answers with more than") as caught:
        await client.post(url, b"{}", {}, 60, None)
    assert caught.value.kind is Transport.TOO_LARGE
    await runner.cleanup()


async def test_an_answer_that_trickles_is_too_late(client: HttpClient) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    runner, url = await _served(trickle)
    with pytest.raises(HttpError, match=r"no answer within 2 s") as caught:
        await client.post(url, b"{}", {}, 2, None)
    assert caught.value.kind is Transport.TIMEOUT
    await runner.cleanup()


async def test_an_answer_that_breaks_off_is_unknown(client: HttpClient) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    runner, url = await _served(broken)
    with pytest.raises(HttpError, match="broke off") as caught:
        await client.post(url, b"{}", {}, 60, None)
    assert caught.value.kind is Transport.BROKEN
    await runner.cleanup()


async def test_a_server_that_accepts_and_says_nothing_is_too_late_and_one_that_refuses_was_never_asked(
    client: HttpClient,
) -> None:
    streams: list[object] = []  # a stream without a reference is closed
    silent = await asyncio.start_server(lambda *ends: streams.extend(ends), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(HttpError) as caught:
        await client.post(f"http://127.0.0.1:{port}/", b"{}", {}, 2, None)
    assert caught.value.kind is Transport.TIMEOUT
    silent.close()
    silent.close_clients()
    await silent.wait_closed()
    with pytest.raises(HttpError, match="cannot be reached") as caught:
        await client.post(f"http://127.0.0.1:{port}/", b"{}", {}, 1, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_server_that_takes_no_more_connections_was_never_asked(client: HttpClient) -> None:
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the kernel takes one more than the backlog, and lets the others wait
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(full.getsockname())
        # Ten seconds for the whole call leave seven to notice that the three for a connection are over.
        with pytest.raises(HttpError, match="no connection in time") as caught:
            await client.post(f"http://127.0.0.1:{full.getsockname()[1]}/", b"{}", {}, 10, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_redirect_is_an_answer_and_is_not_followed(webhook: WebhookServer, client: HttpClient) -> None:
    webhook.behaviour = lambda _: status(307, location=webhook.single)
    reply = await client.post(webhook.single, json.dumps({"claim_id": "c"}).encode(), {}, 60, None)
    assert (reply.status, len(webhook.calls)) == (307, 1)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "nonsense", "http://", "http://a..b/"])
async def test_an_invalid_address_is_never_called(client: HttpClient, url: str) -> None:
    with pytest.raises(HttpError) as caught:
        await client.post(url, b"{}", {}, 1, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_token_that_no_header_can_carry_counts_no_failure(sale: Sale, webhook: WebhookServer) -> None:
    await sale.configure(validation=validation(webhook.single), maxRetries=0)
    await sale.claim(3)
    async with sale.worker(INTAKE_VALIDATION_TOKEN="5ecret\nof two lines"):
        await sale.until_health("validator", "down", "character 7 is U+000A")
    assert "5ecret" not in str(await sale.health())
    assert (len(await sale.queue()), len(webhook.calls)) == (3, 0)


async def test_authorities_that_are_not_pem_are_reported() -> None:
    with pytest.raises(DependencyDownError, match="PEM"):
        await credentials(CA="-----BEGIN").refresh()


# --- how many calls are under way ---


def test_the_concurrency_limit_doubles_with_each_round_of_fast_answers_up_to_its_ceiling() -> None:
    limit = ConcurrencyLimit(timeout_seconds=5)
    sizes = []
    for round_ in range(5):
        for _ in range(limit.calls):
            limit.record(round_, round_ + 0.02, overloaded=False)
        sizes.append(limit.calls)
    assert sizes == [2 * FIRST, 4 * FIRST, 8 * FIRST, CEILING, CEILING]


def test_the_concurrency_limit_halves_once_for_a_round_that_failed_and_grows_slowly_afterwards() -> None:
    limit = ConcurrencyLimit(timeout_seconds=5)
    for _ in range(FIRST):
        limit.record(0.0, 5.0, overloaded=True)
    assert limit.calls == FIRST // 2
    for _ in range(FIRST // 2):
        limit.record(5.1, 5.2, overloaded=False)
    assert limit.calls == FIRST // 2  # a little less than one more: the steps shrink while it grows
    limit.record(5.2, 5.3, overloaded=False)
    assert limit.calls == FIRST // 2 + 1


def test_answers_that_take_a_quarter_of_the_timeout_halve_the_concurrency_limit_down_to_its_floor() -> None:
    limit = ConcurrencyLimit(timeout_seconds=4)
    for second in range(100):
        limit.record(10.0 * second, 10.0 * second + 1.1, overloaded=False)
    assert limit.calls == 2
