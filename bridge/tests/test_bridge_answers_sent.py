"""What real servers send, read by the real client; and what a real bridge makes of it."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.encodings import UnreadableError, unpacked
from intake_bridge.adapters.http import HttpClient
from intake_bridge.adapters.ledger_webhook import WebhookLedger
from intake_bridge.domain.backoff import Backoff
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import CommitWebhook
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import Blame, Outcome, Result
from intake_bridge.ports import HttpError, HttpReply
from sale import POOL, TUNING, Sale, validation
from unserved_webhook import Clock, UnservedWebhook, message, no_secret
from webhook_server import WebhookServer, approve, sending

# Without the moment at which it was packed: a test's name has its bytes.
gzipped = partial(gzip.compress, mtime=0)

CASES = json.loads(Path(__file__).with_name("webhook_answers.json").read_text())


# --- encodings ---

JSON = '{"outcome": "committed", "reason": "Gr\u00f6\u00dfe"}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le", "latin-1"])
async def test_a_word_is_read_in_any_encoding_that_json_may_have_and_in_a_wrong_one(encoding: str) -> None:
    assert (await UnservedWebhook("commit").ask(HttpReply(200, JSON.encode(encoding)))).result is Result.COMMITTED


def raw_deflate(text: bytes) -> bytes:
    """As some servers understand `deflate`."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("codings", "packed"),
    [
        ("", JSON.encode()),
        ("identity", JSON.encode()),
        ("gzip", gzipped(JSON.encode())),
        ("GZIP, identity", gzipped(JSON.encode())),
        ("x-gzip", gzipped(JSON[:20].encode()) + gzipped(JSON[20:].encode())),
        ("deflate", zlib.compress(JSON.encode())),
        ("deflate", raw_deflate(JSON.encode())),
    ],
)
def test_a_compressed_body_is_read(codings: str, packed: bytes) -> None:
    assert unpacked(packed, codings, 1000) == JSON.encode()


@pytest.mark.parametrize(
    ("codings", "packed"),
    [
        ("br", b"\x0b\x02\x80{}\x03"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("gzip, gzip", gzipped(gzipped(JSON.encode()))),
        ("gzip", JSON.encode()),
        ("deflate", JSON.encode()),
        ("gzip", gzipped(JSON.encode())[:-9]),
        ("x" * 10_000, JSON.encode()),
    ],
)
def test_a_body_that_cannot_be_decompressed_is_reported_with_its_header(codings: str, packed: bytes) -> None:
    with pytest.raises(UnreadableError, match="its Content-Encoding is") as caught:
        unpacked(packed, codings, 1000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("codings", "packed"), [("gzip", gzipped(b" " * 10**7)), ("deflate", zlib.compress(b" " * 10**7))]
)
def test_a_small_body_that_decompresses_to_an_endless_one_is_cut_off(codings: str, packed: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(HttpError, match="answers with more than 1000 bytes"):
        unpacked(packed, codings, 1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**6


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/c/", "'/c/'"),
        ("https://u:5ecret@shop.example:8/c/?5ecret#5ecret", "'https://shop.example:8/c/'"),
        ("//5ecret@shop.example?5ecret", "'//shop.example'"),
        ("?token=5ecret", "''"),
        ("//[", "no URL"),
        ("/" + "x" * 5000, "'/" + "x" * (350 - len("answers 308: its Location is '/"))),
        ("", "''"),
    ],
)
async def test_the_target_of_a_redirect_is_shown_without_what_may_be_secret(location: str, shown: str) -> None:
    outcome = await UnservedWebhook("commit").ask(HttpReply(308, b"", {"Location": location}))
    assert outcome.reason == f"answers 308: its Location is {shown}"


# --- the real client ---

COMMITTED = b'{"outcome": "committed"}'
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzipped(b" " * 5_000_000)
SENT = [
    (OK + b"Content-Encoding: gzip\r\n\r\n" + gzipped(COMMITTED), Result.COMMITTED, None),
    (OK + b"Content-Length: 24\r\nContent-Type: x/y; charset=utf-16\r\n\r\n" + COMMITTED, Result.COMMITTED, None),
    (CHUNKED + b"18\r\n" + COMMITTED + b"\r\n0\r\n\r\n", Result.COMMITTED, None),
    (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 409 X\r\n\r\n" + COMMITTED, Result.COMMITTED, None),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Result.RETRY, "answers 101"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", Result.RETRY, "answers 204 without a decision"),
    (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", Result.RETRY, "answers 205 without a decision"),
    (b"HTTP/1.1 304 Not Modified\r\n\r\n", Result.RETRY, "answers 304"),
    (b"HTTP/1.1 308 X\r\nLocation: https://u:5ecret@shop.example/?5ecret\r\nContent-Length: 0\r\n\r\n", Result.RETRY,
     "answers 308: its Location is 'https://shop.example/'"),
    (b"HTTP/1.1 301 X\r\nLocation: /" + b"x" * 4000 + b"\r\n\r\n", Result.RETRY, "answers 301: its Location is '/xx"),
    (b"HTTP/1.1 302 X\r\nLocation: //[\r\n\r\n", Result.RETRY, "answers 302: its Location is no URL"),
    (OK + b"Content-Encoding: br\r\n\r\nx", Result.RETRY, "its Content-Encoding is 'br'"),
    (OK + b"Content-Encoding: gzip\r\n\r\n{}", Result.RETRY, "its Content-Encoding is 'gzip', but its body is not"),
    (OK + b"Content-Encoding: gzip\r\nContent-Encoding: br\r\n\r\nx", Result.RETRY, "is 'gzip, br'"),
    (b"HTTP/1.1 409 X\r\nContent-Encoding: br\r\n\r\nx", Result.RETRY, "answers 409: its Content-Encoding is 'br'"),
    (b"HTTP/1.1 500 X\r\nContent-Encoding: br\r\n\r\nx", Result.RETRY, "answers 500: its Content-Encoding is 'br'"),
    (OK + b"Content-Encoding: gzip\r\n\r\n" + BOMB, Result.RETRY, "more than 4194304 bytes"),
    (CHUNKED + b"18\r\n" + COMMITTED[:9], Result.RETRY, "broke off the connection"),
    (CHUNKED + b"zz\r\n", Result.RETRY, "broke off the connection"),
    (OK + b"Content-Length: -1\r\n\r\n{}", Result.RETRY, "broke off the connection"),
    (b"HTTP/1.1 99 X\r\n\r\n", Result.RETRY, ""),
    (b"HTTP/1.1 1000 X\r\n\r\n", Result.RETRY, ""),
    (b"SSH-2.0-OpenSSH_9.2\r\n", Result.RETRY, "broke off the connection"),
    (b"", Result.RETRY, "broke off the connection"),
]  # fmt: skip


class Gate:
    """Lets every call through."""

    def may_start(self, _: Message) -> bool:
        return True

    may_continue = may_start

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:
        return None


@pytest.mark.parametrize(("sent", "result", "words"), SENT, ids=[repr(sent[9:60]) for sent, _, _ in SENT])
async def test_what_a_server_sends_is_understood(sent: bytes, result: Result, words: str | None) -> None:
    client = HttpClient()
    async with sending(sent) as url:
        ledger = WebhookLedger(client, CommitWebhook(url=url), Credentials(no_secret, Clock()), ConcurrencyLimit(5))
        outcome = (await ledger.commit([message(1)], Gate())).outcomes[1]
    await client.close()
    assert outcome.result is result
    if words is not None:
        assert words in (outcome.reason or ""), outcome
        assert outcome.counted or outcome.blame is Blame.DEPENDENCY
        assert len(outcome.reason or "") < 400
        assert "5ecret" not in (outcome.reason or "")


# --- the real bridge ---


def answered(case: Mapping[str, Any]) -> web.Response:
    """The answer of a case, as a server sends it."""
    text = json.dumps(case["body"]).encode()
    match case.get("packed"):
        case None:
            return web.Response(status=case["status"], headers=case.get("headers"), body=text)
        case "gzip" as name:
            return web.Response(status=case["status"], headers={"Content-Encoding": name}, body=gzipped(text))
        case name:
            return web.Response(status=case["status"], headers={"Content-Encoding": name}, body=raw_deflate(text))


async def serving(sale: Sale, webhook: WebhookServer, step: str, **more: Any) -> None:
    """The webhook is the pool's validator, or its ledger."""
    commit = {"commitTarget": {"webhook": {"url": webhook.single}}}
    await sale.configure(**(commit if step == "commit" else {"validation": validation(webhook.single)}), **more)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_the_answers_of_other_services(sale: Sale, webhook: WebhookServer, case: dict[str, Any]) -> None:
    webhook.behaviour = lambda _: answered(case)
    await serving(sale, webhook, case["webhook"], maxRetries=2)
    claims = await sale.claim(1 if case["becomes"] == "repeated" else 5)
    target = "ledger" if case["webhook"] == "commit" else "validator"
    hasty = replace(TUNING, breaker=replace(TUNING.breaker, report_pause_seconds=0.1))
    async with sale.worker(tuning=hasty):
        if case["becomes"] == "reported":
            await sale.until_health(target, "down", case["words"])
            assert "5ecret" not in str(await sale.health())
            assert len(await sale.queue()) == len(claims)  # and no failure counts
            webhook.behaviour = approve
        await sale.until_drained()
    dead = await sale.dead()
    if case["becomes"] == "repeated":
        assert [row["reason"] for row in dead.values()] == [case["words"]]
        # Once more than its failures count: alone, its first failure may be the dependency's.
        assert list(webhook.asked().values()) == [4]
        assert len(set(webhook.keys)) == 1
        assert {row["state"] for row in dead.values()} == {"committing"}
    else:
        assert dead == {}
        assert await sale.inventory() == (995, 0, 5)
    assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_a_short_retry_after_shortens_no_back_off(sale: Sale, webhook: WebhookServer) -> None:
    """Or all failures of a claim would be through in a moment: while the first call is still under way, for one."""
    (claim,) = await sale.claim()
    webhook.behaviour = lambda _: answered({"status": 409, "headers": {"Retry-After": "1"}, "body": {}})
    await serving(sale, webhook, "commit")

    async def counted() -> bool:
        return (await sale.queue())[claim.claim_id]["message"]["failures"] == 1

    async with sale.worker(tuning=replace(TUNING, backoff=Backoff(base_seconds=1e9, cap_seconds=1e9))):
        await sale.until(counted, "the first failure is counted")
    (row,) = await sale.rows("SELECT vt > now() + interval '1 hour' AS later FROM pgmq.q_intake_queue")
    assert row["later"]


async def test_a_call_that_is_in_progress_for_long_is_committed_when_it_ends(
    sale: Sale, webhook: WebhookServer
) -> None:
    (claim,) = await sale.claim()
    webhook.behaviour = lambda _: (
        answered({"status": 409, "body": {}})
        if len(webhook.calls) < 8
        else answered({"status": 409, "body": {"outcome": "committed"}})
    )
    await serving(sale, webhook, "commit")
    async with sale.worker():
        await sale.until_drained()
    assert set(webhook.keys) == {f"{claim.claim_id}:commit"}
    assert await sale.inventory() == (999, 0, 1)


ODD = {
    "404": {"status": 404, "body": {}},
    "wrong word": {"status": 200, "body": {"outcome": "COMMITTED", "decision": "yes"}},
    "br": {"status": 200, "headers": {"Content-Encoding": "br"}, "body": {}},
    "500": {"status": 500, "body": {}},
}


@pytest.mark.parametrize("step", ["validate", "commit"])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_an_answer_that_one_claim_alone_gets_ends_as_its_dead_letter_while_others_are_sold(
    sale: Sale, webhook: WebhookServer, step: str, odd: dict[str, Any]
) -> None:
    """One after the other: no good answer of its own batch speaks for it."""
    (sick,) = await sale.claim()
    webhook.behaviour = lambda item: answered(odd) if item["claim_id"] == str(sick.claim_id) else approve(item)
    await serving(sale, webhook, step, maxRetries=5, batchSize=1)

    async def dead() -> bool:
        if len(await sale.queue()) < 2:
            await sale.claim()
        return bool(await sale.dead())

    async with sale.worker():
        await sale.until(dead, "the sick claim is a dead letter")
        await sale.until_drained()
    assert set(await sale.dead()) == {sick.claim_id}
    available, reserved, sold = await sale.inventory()
    assert (available, reserved, sold) == (1000 - len(sale.claims), 1, len(sale.claims) - 1)
