"""Nothing of a payload, of a validator's data or of a receipt is shown: logs, conditions, dead letters, metrics."""

import json
import logging
from typing import Any, LiteralString

import aiohttp
import pytest
from sale import Sale, Templates, validation
from test_bridge_tracing import Recorded
from webhook_server import WebhookServer, approve, sending, status

MARKER = "Zoë Smït 4711-0815"

_CURIOUS: LiteralString = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY, name text CONSTRAINT known CHECK (name = 'nobody'));
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE claim ->> 'user_id'
        WHEN 'user-1' THEN RAISE 'no card of % is known', claim -> 'payload' ->> 'name';
        WHEN 'user-2' THEN PERFORM (claim -> 'payload' ->> 'name')::int;
        WHEN 'user-3' THEN INSERT INTO sold VALUES (gen_random_uuid(), claim -> 'payload' ->> 'name');
        WHEN 'user-4' THEN RAISE 'all of it: %', claim;
        WHEN 'user-5' THEN RAISE 'what the validator said: %', claim -> 'validation';
        ELSE RETURN jsonb_build_object('outcome', 'committed', 'receipt', claim -> 'payload');
    END CASE;
    RETURN NULL;
END $$;
"""


async def shown(sale: Sale, caplog: pytest.LogCaptureFixture, port: int) -> str:
    """All that people and programs beside the sale can see: logs, conditions, dead letters, metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as reply:
        metrics = await reply.text()
    records = [record.__dict__ for record in caplog.records]
    errors = [row["message"].get("last_error") for row in (await sale.queue()).values()]
    return f"{caplog.text} {records} {await sale.status()} {await sale.dead()} {errors} {metrics}"


def parts_in(text: str) -> list[str]:
    """What of the marker is there, whole or in part, or as JSON escapes it."""
    return [part for part in ("Zo", "Smït", "Sm\\u00eft", "4711-0815") if part in text]


async def test_no_error_of_a_ledger_shows_what_belongs_to_people(
    templates: Templates, webhook: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.behaviour = lambda _: {"decision": "approved", "data": {"payer": MARKER}}
    async with templates.sale_with_ledger(_CURIOUS) as sale:
        await sale.configure(validation=validation(webhook.single), maxRetries=1)
        claims = await sale.claim(9, payload={"name": MARKER})
        with caplog.at_level(logging.DEBUG, "intake_bridge"):
            async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri) as worker:
                await sale.until_drained()
                text = await shown(sale, caplog, await worker.port())
        reasons = {row["user_id"]: row["reason"] for row in (await sale.dead()).values()}
        assert set(reasons) == {claim.user_id for claim in claims[:5]}
        assert reasons["user-1"].startswith("commit: no card of … is known (SQLSTATE P0001)")
        assert reasons["user-2"].startswith('commit: invalid input syntax for type integer: "…" (SQLSTATE 22P02)')
        assert '"known" (SQLSTATE 23514)' in reasons["user-3"]
        assert parts_in(text) == []


@pytest.mark.parametrize("step", ["validate", "validate a batch", "commit"])
async def test_no_answer_of_a_webhook_shows_what_belongs_to_people(
    sale: Sale, webhook: WebhookServer, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    """Whatever it sends back: a reason, a word, a place, data; and a claim among good ones ends."""
    echoes: dict[str, Any] = {
        "user-1": lambda item: status(500, {"reason": f"{item}"}),
        "user-2": lambda item: status(422, {"reason": json.dumps(item)}),
        "user-3": lambda item: {"decision": item["payload"]["name"], "outcome": item["payload"]["name"]},
        "user-4": lambda item: status(308, location=f"/of/{item['payload']['name']}?{item['payload']['name']}"),
        "user-5": lambda item: {
            "decision": "declined", "outcome": "conflict", "reason": MARKER, "data": {"name": MARKER}, "receipt": MARKER
        },
        "user-6": lambda item: status(409, {"decision": "approved", "outcome": "maybe", "reason": "x" * 340 + MARKER}),
    }  # fmt: skip
    webhook.behaviour = lambda item: echoes.get(item["user_id"], approve)(item)
    if step == "commit":
        await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
    else:
        batch = step != "validate"
        await sale.configure(validation=validation(webhook.batch if batch else webhook.single, batch=batch))
    await sale.configure(maxRetries=2, batchSize=1)
    await sale.claim(len(echoes), payload={"name": MARKER})
    recorded = Recorded()
    with caplog.at_level(logging.DEBUG, "intake_bridge"):
        async with sale.worker(tracing=recorded.spans) as worker:

            async def tried() -> bool:
                if len(await sale.queue()) < 3:
                    await sale.claim(1, payload={"name": MARKER})
                return all(webhook_asked(webhook, user) for user in echoes)

            await sale.until(tried, "every echo was heard")
            text = await shown(sale, caplog, await worker.port())
            webhook.behaviour = approve
            await sale.until_drained()
            text += await shown(sale, caplog, await worker.port())
    assert "…" in text
    assert "POST" in recorded.everything()
    assert parts_in(text + recorded.everything()) == []


def webhook_asked(webhook: WebhookServer, user: str) -> bool:
    """Whether it was called for a claim of this user."""
    return any(item["user_id"] == user for item in webhook.calls)


async def test_a_ledger_that_is_down_with_a_payload_in_its_words_shows_nothing(
    templates: Templates, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the ledger's own class is about a whole batch, and goes into the event's condition."""
    function: LiteralString = (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'no room for %', claim -> 'payload' USING ERRCODE = '53100'; END $$"
    )
    async with templates.sale_with_ledger(function) as sale:
        await sale.claim(5, payload={"name": MARKER})
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri) as worker:
            await sale.until_health("ledger", "down", "no room for")
            assert parts_in(await shown(sale, caplog, await worker.port())) == []


async def test_what_is_no_http_is_not_quoted(sale: Sale, caplog: pytest.LogCaptureFixture) -> None:
    """A server may send anything, its request included: neither log nor condition nor span has a part of it."""
    recorded = Recorded()
    async with sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + MARKER.encode() + b"\r\n") as broken:
        await sale.configure(validation=validation(broken))
        await sale.claim(3, payload={"name": MARKER})
        async with sale.worker(tracing=recorded.spans) as worker:
            await sale.until_health("validator", "down", "broke off the connection")
            text = await shown(sale, caplog, await worker.port())
    assert parts_in(text + recorded.everything()) == []
