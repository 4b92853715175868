"""Payload, the validator's data and the ledger's receipt on a real sale: what arrives, and what is kept."""

import json
import logging
from typing import LiteralString
from uuid import UUID

import pytest
from intake_bridge.domain.answers import TRUNCATED
from sale import POOL, Sale, Templates, validation
from webhook_server import Answer, Item, WebhookServer

MARKER = "Zoë Smït 4711"

# --- the forms of a ledger ---

_SOLD: LiteralString = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY, claim jsonb NOT NULL, receipt jsonb);
CREATE FUNCTION sell(claim jsonb, receipt jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sold VALUES ((sell.claim ->> 'claim_id')::uuid, sell.claim, sell.receipt) ON CONFLICT DO NOTHING;
    RETURN CASE WHEN FOUND THEN 'committed' ELSE 'duplicate' END;
END $$;
"""
_RECEIPT: LiteralString = "jsonb_build_object('order_no', claim ->> 'user_id')"
_EACH: LiteralString = " FROM jsonb_array_elements(claims) e"
FORMS: dict[str, tuple[LiteralString, set[str]]] = {
    "void": (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS void LANGUAGE sql AS $$ SELECT sell(claim, NULL) $$",
        set(),
    ),
    "text": (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE sql AS $$ SELECT sell(claim, NULL) $$",
        {"outcomes"},
    ),
    "jsonb": (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT"
        " jsonb_build_object('outcome', sell(claim, " + _RECEIPT + "), 'receipt', " + _RECEIPT + ") $$",
        {"outcomes", "receipts"},
    ),
    "set": (
        "CREATE FUNCTION finalize_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text) LANGUAGE sql"
        " AS $$ SELECT (e ->> 'claim_id')::uuid, sell(e, NULL)" + _EACH + " $$",
        {"batch", "outcomes"},
    ),
    "set with receipts": (
        "CREATE FUNCTION finalize_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb)"
        " LANGUAGE sql AS $$ SELECT (e ->> 'claim_id')::uuid, sell(e, to_jsonb(e ->> 'user_id')),"
        " jsonb_build_object('order_no', e ->> 'user_id')" + _EACH + " $$",
        {"batch", "outcomes", "receipts"},
    ),
    "set of a row type": (
        "CREATE TYPE answer AS (receipt jsonb, outcome text, claim_id uuid);"
        " CREATE FUNCTION finalize_transactions(claims jsonb) RETURNS SETOF answer LANGUAGE sql AS $$ SELECT"
        " jsonb_build_object('order_no', e ->> 'user_id'), sell(e, NULL), (e ->> 'claim_id')::uuid" + _EACH + " $$",
        {"batch", "outcomes", "receipts"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_sells_and_a_receipt_is_kept_where_there_is_one(templates: Templates, form: str) -> None:
    function, offers = FORMS[form]
    async with templates.sale_with_ledger(_SOLD, function) as sale:
        claims = await sale.claim(5, slots=2, payload={"name": MARKER})
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
            await sale.until_health("ledger", "ok")
            assert set((await sale.health())["ledger"]["offers"]) == offers
        for claim in claims:
            rows = await sale.rows("SELECT * FROM intake.claim_status(%s, %s::uuid)", POOL, claim.claim_id)
            assert [(row["state"], row["slot_no"]) for row in rows] == [("committed", each) for each in claim.slot_nos]
            wanted = {"order_no": claim.user_id} if "receipts" in offers else None
            assert [row["receipt"] for row in rows] == [wanted, wanted]
        (row, *_) = await (await sale.ledger.execute("SELECT claim FROM sold ORDER BY claim_id")).fetchall()
        assert set(row["claim"]) == {
            "claim_id", "pool_id", "user_id", "request_id", "claimed_at", "seats", "payload", "validation",
        }  # fmt: skip
        assert [set(seat) for seat in row["claim"]["seats"]] == [{"slot_no", "resource_id", "label", "attributes"}] * 2
        assert (row["claim"]["payload"], row["claim"]["validation"]) == ({"name": MARKER}, None)


async def test_a_column_receipt_of_another_type_is_reported(templates: Templates) -> None:
    broken = "CREATE FUNCTION finalize_transactions(c jsonb, OUT claim_id uuid, OUT outcome text, OUT receipt json)"
    ledger = templates.sale_with_ledger(broken + " RETURNS SETOF record LANGUAGE sql AS $$ SELECT NULL::record $$")
    async with ledger as sale, sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
        await sale.until_health("ledger", "down", "is json, and must be jsonb")


@pytest.mark.parametrize(
    "answer",
    ["NULL", "'{}'", "'[]'", "'7'", "'\"committed\"'", """'{"outcome": null}'""", """'{"outcome": "sold"}'""",
     """'{"receipt": {"order_no": 7}}'""", """'{"outcome": ["committed"], "receipt": 7}'"""],
)  # fmt: skip
async def test_a_malformed_answer_is_an_unknown_outcome(templates: Templates, answer: LiteralString) -> None:
    function: LiteralString = "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE sql RETURN "
    async with templates.sale_with_ledger(function + answer + "::jsonb") as sale:
        await sale.claim(3)
        await sale.configure(maxRetries=0)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_health("ledger", "down", "expected one of committed, duplicate, voided, conflict")
        assert {row["message"]["failures"] for row in (await sale.queue()).values()} == {0}
        assert await sale.dead() == {}


# --- receipts ---


@pytest.mark.parametrize("kind", ["rpc", "webhook"])
async def test_a_receipt_that_cannot_be_kept_never_fails_a_sale(
    templates: Templates, webhook: WebhookServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    receipts = {"user-1": {"pdf": MARKER + "x" * 2048}, "user-2": {"order_no": 7}, "user-3": None}
    if kind == "webhook":
        receipts["user-4"] = {"nul": f"{MARKER}\0"}
        receipts["user-5"] = {"half": f"{MARKER}\ud800"}
    webhook.behaviour = lambda item: {"outcome": "committed", "receipt": receipts[item["user_id"]]}
    table: LiteralString = "CREATE TABLE receipts (user_id text, receipt jsonb)"
    function: LiteralString = (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object("
        "'outcome', 'committed', 'receipt', r.receipt) FROM receipts r WHERE r.user_id = claim ->> 'user_id' $$"
    )
    async with templates.sale_with_ledger(table, function) as sale:
        for user, receipt in receipts.items() if kind == "rpc" else ():
            await sale.ledger.execute("INSERT INTO receipts VALUES (%s, %s)", (user, json.dumps(receipt)))
        if kind == "webhook":
            await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
        claims = await sale.claim(len(receipts))
        with caplog.at_level(logging.WARNING):
            async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
                await sale.until_drained()
        assert await sale.inventory() == (1000 - len(receipts), 0, len(receipts))
        kept = await sale.kept()
        assert [kept[claim.claim_id]["receipt"] for claim in claims[:3]] == [{"truncated": True}, {"order_no": 7}, None]
        assert all(kept[claim.claim_id]["receipt"] == {"truncated": True} for claim in claims[3:])
        warned = {UUID(each.__dict__["claim_id"]) for each in caplog.records if TRUNCATED in each.getMessage()}
        assert warned == {claim.claim_id for claim in (claims[0], *claims[3:])}
        assert MARKER not in caplog.text


@pytest.mark.parametrize("kind", ["rpc", "webhook"])
async def test_a_duplicate_without_a_receipt_is_no_error(
    templates: Templates, webhook: WebhookServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The reply was lost, and the ledger keeps no receipts: the claim is sold all the same."""
    webhook.behaviour = lambda _: {"outcome": "duplicate"}
    function: LiteralString = (
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE sql"
        """ RETURN '{"outcome": "duplicate"}'::jsonb"""
    )
    async with templates.sale_with_ledger(function) as sale:
        if kind == "webhook":
            await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
        (claim,) = await sale.claim()
        with caplog.at_level(logging.DEBUG, "intake_bridge"):
            async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
                await sale.until_drained()
        (line,) = [each for each in caplog.records if "no receipt comes with it" in each.message]
        assert (line.levelno, line.__dict__["claim_id"]) == (logging.DEBUG, str(claim.claim_id))
        assert [each for each in caplog.records if each.levelno > logging.INFO] == []
        kept = (await sale.kept())[claim.claim_id]
        assert (kept["outcome"], kept["receipt"]) == ("committed", None)


@pytest.mark.parametrize(
    ("again", "receipt"),
    [
        ("""RETURN '{"outcome": "duplicate", "receipt": 7}'::jsonb""", 7),
        ("RETURN (SELECT to_jsonb(1 / 0))", None),
        ("""RETURN '{"outcome": "conflict"}'::jsonb""", None),
    ],
    ids=["receipt", "error", "conflict"],
)
async def test_a_claim_that_is_released_too_late_is_sold_with_its_receipt_if_the_ledger_gives_it(
    templates: Templates, again: LiteralString, receipt: object
) -> None:
    function: LiteralString = "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS jsonb LANGUAGE sql "
    void = "CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE sql RETURN 'committed'"
    async with templates.sale_with_ledger(function + again, void) as sale:
        await sale.configure(maxRetries=0)
        claims = await sale.claim(3)
        await sale.release_leased(claims)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
        kept = (await sale.kept()).values()
        assert [(row["outcome"], row["receipt"]) for row in kept] == [("committed", receipt)] * 3


# --- what the validator adds ---


@pytest.mark.parametrize("batch", [False, True])
async def test_i5_data_of_an_approval_is_kept_and_sent_and_a_redelivery_asks_nobody(
    sale: Sale, webhook: WebhookServer, batch: bool
) -> None:
    def decide(item: Item) -> Answer:
        return {
            "decision": "approved",
            "data": {"payment_id": f"p-{len(webhook.calls)}", "payer": item["payload"]["name"]},
        }

    webhook.behaviour = decide
    await sale.configure(validation=validation(webhook.batch if batch else webhook.single, batch=batch))
    await sale.claim(10, slots=2, payload={"name": MARKER})
    # The ledger has no table at first: everything is validated and given back.
    await sale.ledger.execute("ALTER TABLE ledger.claims RENAME TO away")
    try:
        async with sale.worker():
            await sale.until_health("ledger", "down")
    finally:
        await sale.ledger.execute("ALTER TABLE ledger.away RENAME TO claims")
    asked = len(webhook.calls)
    async with sale.worker("two"):
        await sale.until_drained()
    await sale.check()
    # What the first worker had not validated is asked about by the second.
    assert set(webhook.asked().values()) == {1}, asked
    sold = (await sale.sales()).values()
    assert len({row["validation"]["payment_id"] for row in sold}) == 10
    assert {row["validation"]["payer"] for row in sold} == {MARKER}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        ({"name": MARKER, "more": "x" * 4096}, "at most 4096 are kept"),
        ([MARKER], "it is a list, and must be an object"),
        (MARKER, "it is a str, and must be an object"),
        ({"name": f"{MARKER}\0"}, "a NUL character"),
        ({"name": f"{MARKER}\ud800"}, "a lone surrogate"),
    ],
    ids=["large", "list", "text", "NUL", "surrogate"],
)
async def test_an_approval_stands_whatever_its_data(
    sale: Sale, webhook: WebhookServer, caplog: pytest.LogCaptureFixture, data: object, flaw: str, batch: bool
) -> None:
    webhook.behaviour = lambda _: {"decision": "approved", "data": data}
    await sale.configure(validation=validation(webhook.batch if batch else webhook.single, batch=batch))
    (claim,) = await sale.claim()
    with caplog.at_level(logging.WARNING):
        async with sale.worker():
            await sale.until_drained()
    await sale.check()
    assert (await sale.sales())[claim.claim_id]["validation"] == {"truncated": True}
    (line,) = [each for each in caplog.records if "approved, but" in each.message]
    assert flaw in line.message
    assert line.__dict__["claim_id"] == str(claim.claim_id)
    assert MARKER not in caplog.text


async def test_the_limit_of_data_is_the_pools_and_live(sale: Sale, webhook: WebhookServer) -> None:
    webhook.behaviour = lambda _: {"decision": "approved", "data": {"more": "x" * 5000}}
    await sale.configure(validation=validation(webhook.single), maxPayloadBytes=8000)
    (large,) = await sale.claim()
    async with sale.worker():
        await sale.until_drained()
        await sale.configure(maxPayloadBytes=100)
        generation = (await sale.status())["generation"]

        async def acts() -> bool:
            return (await sale.status())["workers"][0]["generation"] == generation

        await sale.until(acts, "the worker acts upon it")
        (small,) = await sale.claim()
        await sale.until_drained()
    await sale.check()
    found = await sale.sales()
    assert found[large.claim_id]["validation"] == {"more": "x" * 5000}
    assert found[small.claim_id]["validation"] == {"truncated": True}


# --- the caller's payload ---

EXACT = {
    "digits": '{"price": 12.50, "large": 12345678901234567890.123456789}',
    "exponent": '{"much": 1e400}',
    "five thousand digits": '{"n": ' + "1" * 5000 + "}",
    "nested": '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
    "letters": '{"ä \\"b\\"": "\\\\ \\u0007 🎫 \\t"}',
}


@pytest.mark.parametrize("case", EXACT)
async def test_a_payload_arrives_as_it_was_sent(sale: Sale, webhook: WebhookServer, case: str) -> None:
    """Also what no JSON parser of a program keeps, or reads at all."""
    await sale.configure(maxPayloadBytes=65536)
    await sale.rows("SELECT * FROM intake.claim_resource(%s, 'ann', 'r', %s::jsonb)", POOL, EXACT[case])

    async def sold() -> bool:
        return bool((await sale.status())["committed"])

    async with sale.worker():
        await sale.until(sold, "it is sold")
    cursor = await sale.ledger.execute(
        "SELECT payload::text = %s::jsonb::text AS same FROM ledger.claims", (EXACT[case],)
    )
    assert await cursor.fetchall() == [{"same": True}]


async def test_large_payloads_are_sent_in_calls_of_a_few_megabytes(sale: Sale, webhook: WebhookServer) -> None:
    """At both ends: 150 claims with 64 KiB each are 10 MB."""
    await sale.ledger.execute(
        "CREATE TABLE IF NOT EXISTS sizes (bytes int);"
        "CREATE OR REPLACE FUNCTION finalize_measured(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text,"
        " receipt jsonb) LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO sizes VALUES (octet_length(claims::text));"
        " RETURN QUERY SELECT * FROM finalize_transactions(claims); END $$;"
        "ALTER FUNCTION finalize_measured RENAME TO finalize_measureds"
    )
    try:
        await sale.configure(
            maxPayloadBytes=65536,
            batchSize=150,
            validation=validation(webhook.batch, batch=True),
            commitTarget={"postgres": {"function": "finalize_measured"}},
        )
        await sale.claim(150, payload={"more": "x" * 65000})
        async with sale.worker():
            await sale.until_drained()
        await sale.check()
        sizes = [row["bytes"] for row in await (await sale.ledger.execute("SELECT bytes FROM sizes")).fetchall()]
    finally:
        await sale.ledger.execute("DROP TABLE sizes; DROP FUNCTION finalize_measureds")
    bodies = {headers["Idempotency-Key"]: len(body) for headers, body in webhook.requests}
    for most in (max(sizes), max(bodies.values())):
        assert 3 * 1024 * 1024 < most <= 4.1 * 1024 * 1024
    assert set(webhook.asked().values()) == {1}
