"""How webhooks are called: whom they are, who we are, how long we wait, and how many calls go side by side."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.http import HttpClient
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.outcomes import Transport
from intake_bridge.domain.window import CEILING, FIRST, Window
from intake_bridge.ports import HttpError, TargetDownError
from scene import TUNING, Scene, validation
from webhook_server import WebhookServer, status

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A private authority."""
    return trustme.CA(organization_name="ours")


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """The client of one target."""
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
        (authority.issue_cert("shop.example"), "its certificate is for another address"),
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


async def test_plain_http_where_tls_is_expected_is_said(client: HttpClient) -> None:
    async with WebhookServer() as server:
        with pytest.raises(HttpError, match="does not speak our TLS") as caught:
            await client.post(server.single.replace("http:", "https:"), b"{}", {}, 60, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_wrong_certificate_reaches_the_condition_and_a_right_authority_heals_it(
    scene: Scene, authority: trustme.CA, tmp_path: Path
) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(pem(trustme.CA()))
    claims = await scene.claim(5)
    async with WebhookServer(serving(authority.issue_cert("127.0.0.1"))) as server:
        await scene.configure(validation=validation(server.single), maxRetries=0)
        async with scene.worker(INTAKE_VALIDATION_CA_FILE=str(file)):
            await scene.until_health("validator", "down", "comes from an authority that is not trusted here")
            assert len(await scene.queue()) == len(claims)
            file.write_text(pem(authority))
            await scene.until_drained()
    await scene.check()


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("INTAKE_VALIDATION_CA_FILE", "no certificate", "holds no certificates in PEM"),
        ("INTAKE_VALIDATION_SIGNING_KEY_FILE", "\n", "INTAKE_VALIDATION_SIGNING_KEY_FILE is empty"),
        ("INTAKE_COMMIT_TOKEN_FILE", None, "INTAKE_COMMIT_TOKEN_FILE cannot be read"),
    ],
)
async def test_a_secret_that_cannot_work_is_said_before_anything_is_read(
    scene: Scene, webhook: WebhookServer, tmp_path: Path, variable: str, content: str | None, words: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    await scene.configure(validation=validation(webhook.single), commitTarget={"webhook": {"url": webhook.single}})
    await scene.claim(3)
    # Half open in every instant between the look and the read: what a loaded machine makes of any other tuning.
    hasty = replace(TUNING, breaker=BreakerTuning(first_probe_seconds=0, last_probe_seconds=0))
    async with scene.worker(tuning=hasty, **{variable: str(file)}):
        await scene.until_health("validator" if "VALIDATION" in variable else "ledger", "down", words)
    assert {row["read_ct"] for row in (await scene.queue()).values()} == {0}
    assert webhook.calls == []


# --- signatures ---


async def test_the_verification_of_the_readme_accepts_ours_and_nothing_else() -> None:
    (snippet,) = re.findall(r"```python\n(def verified.*?)```", README.read_text(), re.DOTALL)
    receiver: dict[str, Any] = {}
    exec(snippet, receiver)  # what the page tells people to run
    verified = receiver["verified"]
    body, moment = b'{"claim_id":"c"}', 1_800_000_000
    ours = credentials(clock=moment, SIGNING_KEY="old\nnew\n")
    await ours.refresh()
    header = ours.headers("c:validate", body)["Intake-Signature"]
    assert re.fullmatch(r"t=1800000000,v1=[0-9a-f]{64},v1=[0-9a-f]{64}", header)
    assert verified(b"old", header, body, now=moment)
    assert verified(b"new", header, body, now=moment + 299)
    assert not verified(b"stolen", header, body, now=moment)
    assert not verified(b"new", header, body + b" ", now=moment)
    assert not verified(b"new", header, body, now=moment + 301)
    assert not verified(b"new", header.replace("t=1800000000", "t=1800000300"), body, now=moment + 301)
    assert not verified(b"new", "", body, now=moment)
    assert not verified(b"new", "t=now,v1=", body, now=moment)


async def test_both_webhooks_sign_and_a_rotated_key_is_used_without_a_restart(
    scene: Scene, webhook: WebhookServer, tmp_path: Path
) -> None:
    first, second = tmp_path / "validation", tmp_path / "commit"
    first.write_text("for validation")
    second.write_text("before")
    await scene.configure(
        validation=validation(webhook.batch, batch=True), commitTarget={"webhook": {"url": webhook.single}}
    )
    await scene.claim(1)
    files = {"INTAKE_VALIDATION_SIGNING_KEY_FILE": str(first), "INTAKE_COMMIT_SIGNING_KEY_FILE": str(second)}
    keys = ("for validation", "before", "after")
    async with scene.worker(**files):
        await scene.until_drained()
        assert [webhook.signers(call, *keys) for call in (0, 1)] == [["for validation"], ["before"]]
        second.write_text("after")

        async def rotated() -> bool:
            await scene.claim(1)
            await scene.until_drained()
            return webhook.signers(-1, *keys) == ["after"]

        await scene.until(rotated, "a batch is signed with the new key")


async def test_without_a_key_nothing_is_signed() -> None:
    bare = credentials()
    await bare.refresh()
    assert bare.headers("c:validate", b"{}") == {"Content-Type": "application/json", "Idempotency-Key": "c:validate"}


# --- answers that should not be ---


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
    streams: list[object] = []  # a stream that nobody holds is closed
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
async def test_an_address_that_is_none_was_never_asked(client: HttpClient, url: str) -> None:
    with pytest.raises(HttpError) as caught:
        await client.post(url, b"{}", {}, 1, None)
    assert caught.value.kind is Transport.UNREACHABLE


async def test_a_token_that_is_no_header_costs_no_claim_anything(scene: Scene, webhook: WebhookServer) -> None:
    await scene.configure(validation=validation(webhook.single), maxRetries=0)
    await scene.claim(3)
    async with scene.worker(INTAKE_VALIDATION_TOKEN="5ecret\nof two lines"):
        await scene.until_health("validator", "down", "character 7 is U+000A, which nobody can see")
    assert "5ecret" not in str(await scene.health())
    assert (len(await scene.queue()), len(webhook.calls)) == (3, 0)


async def test_credentials_that_are_not_pem_are_said() -> None:
    with pytest.raises(TargetDownError, match="PEM"):
        await credentials(CA="-----BEGIN").refresh()


# --- how many side by side ---


def test_the_window_doubles_with_each_round_of_swift_answers_up_to_its_ceiling() -> None:
    window = Window(timeout_seconds=5)
    sizes = []
    for round_ in range(5):
        for _ in range(window.size):
            window.answered(round_, round_ + 0.02, strained=False)
        sizes.append(window.size)
    assert sizes == [2 * FIRST, 4 * FIRST, 8 * FIRST, CEILING, CEILING]


def test_the_window_halves_once_for_a_round_that_failed_and_grows_slowly_afterwards() -> None:
    window = Window(timeout_seconds=5)
    for _ in range(FIRST):
        window.answered(0.0, 5.0, strained=True)
    assert window.size == FIRST // 2
    for _ in range(FIRST // 2):
        window.answered(5.1, 5.2, strained=False)
    assert window.size == FIRST // 2  # a little less than one more: the steps shrink while it grows
    window.answered(5.2, 5.3, strained=False)
    assert window.size == FIRST // 2 + 1


def test_answers_that_take_a_quarter_of_the_timeout_halve_the_window_down_to_its_floor() -> None:
    window = Window(timeout_seconds=4)
    for second in range(100):
        window.answered(10.0 * second, 10.0 * second + 1.1, strained=False)
    assert window.size == 2
