"""A ledger that fails, or cannot be used: what the claims wait for, and what is reported."""

import asyncio
import logging

import pytest
from psycopg.types.json import Jsonb
from sale import POOL, Sale, Templates, open_sale
from webhook_server import WebhookServer, approve, status

from tests.postgres import PostgresServer, install_intake, install_ledger


async def test_a_ledger_without_the_function_is_reported_and_recovers(templates: Templates) -> None:
    async with templates.sale_with_ledger() as sale:
        await sale.claim(5)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_health("ledger", "down", "function finalize_transaction(claim jsonb) does not exist")
            assert {row["read_ct"] for row in (await sale.queue()).values()} == {0}
            install_ledger(sale.ledger_uri)
            await sale.until_health("ledger", "ok")
            await sale.until_drained()
        await sale.check()


async def test_a_function_that_disappears_during_the_sale_is_reported_and_recovers(templates: Templates) -> None:
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        await sale.claim(5)
        async with sale.worker():
            await sale.until_drained()
            await sale.ledger.execute("ALTER FUNCTION finalize_transactions(jsonb) RENAME TO gone")
            await sale.ledger.execute("ALTER FUNCTION finalize_transaction(jsonb) RENAME TO gone_too")
            await sale.claim(5)
            await sale.until_health("ledger", "down", "does not exist")
            assert {row["message"]["failures"] for row in (await sale.queue()).values()} == {0}
            await sale.ledger.execute("ALTER FUNCTION gone(jsonb) RENAME TO finalize_transactions")
            await sale.ledger.execute("ALTER FUNCTION gone_too(jsonb) RENAME TO finalize_transaction")
            await sale.until_drained()
        await sale.check()


async def test_a_missing_ledger_uri_is_reported(sale: Sale) -> None:
    await sale.claim(1)
    async with sale.worker(INTAKE_LEDGER_URI=""):
        await sale.until_health("ledger", "down", "INTAKE_LEDGER_URI")
    assert len(await sale.queue()) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "5ecret",
        "postgresql://u:5ecret one@db/ledger",
        "postgresql://u:5ecret%@db/ledger",
        "postgresql://u:p@5ecret@db/l",
    ],
)
async def test_a_uri_that_cannot_be_parsed_is_never_quoted(
    sale: Sale, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    async with sale.worker(INTAKE_LEDGER_URI=uri):
        await sale.until_health("ledger", "down", "the URI cannot be parsed")
    assert "5ecret" not in str(await sale.status())
    async with sale.worker(INTAKE_DATABASE_URI=uri):

        async def reported() -> bool:
            return (
                "housekeeping interrupted; tried again: the URI cannot be parsed" in caplog.text
                and "db1" in caplog.text
            )

        await sale.until(reported, "that of DB1 is reported, too")
    assert "5ecret" not in caplog.text


async def test_a_conflict_is_a_dead_letter_and_an_error(sale: Sale, caplog: pytest.LogCaptureFixture) -> None:
    claims = await sale.claim(3)
    (item, *_) = [
        row["message"] for row in (await sale.queue()).values() if row["message"]["claim_id"] == str(claims[1].claim_id)
    ]
    other = item | {"claim_id": "00000000-0000-7000-8000-000000000001", "user_id": "somebody else"}
    await sale.ledger.execute("SELECT finalize_transaction(%s)", (Jsonb(other),))
    with caplog.at_level(logging.ERROR):
        async with sale.worker():
            await sale.until_drained()
    assert set(await sale.dead()) == {claims[1].claim_id}
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (record.__dict__["claim_id"], record.__dict__["pool_id"]) == (str(claims[1].claim_id), POOL)
    assert (await sale.status())["committed"] == 2
    # Sold again, the slot would only make the next conflict.
    ids = [each["msg_id"] for each in (await sale.dead()).values()]
    await sale.rows("SELECT intake.discard(%s, %s, 'ops', 'another sale')", POOL, ids)
    withheld = await sale.rows("SELECT slot_no FROM intake.withheld_slots(%s)", POOL)
    assert [row["slot_no"] for row in withheld] == [item["seats"][0]["slot_no"]]


@pytest.mark.parametrize("word", ["voided", "conflict"])
async def test_after_committing_a_webhook_leads_to_committed_or_dead_only(
    sale: Sale, webhook: WebhookServer, word: str
) -> None:
    claims = await sale.claim(4)
    odd = str(claims[0].claim_id)
    webhook.behaviour = lambda item: {"outcome": word if item["claim_id"] == odd else "duplicate"}
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
    async with sale.worker():
        await sale.until_drained()
    assert set(await sale.dead()) == {claims[0].claim_id}
    assert await sale.inventory() == (996, 1, 3)


async def test_a_commit_webhook_that_is_down_costs_no_claim_anything(sale: Sale, webhook: WebhookServer) -> None:
    webhook.behaviour = lambda _: status(503)
    await sale.claim(20)
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}}, maxRetries=0)
    async with sale.worker():
        await sale.until_health("ledger", "down", "503")
        webhook.behaviour = approve
        await sale.until_drained()
    assert await sale.dead() == {}
    assert (await sale.status())["committed"] == 20
    assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


PICKY = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY, user_id text CHECK (user_id <> 'user-7'));
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sold VALUES ((claim ->> 'claim_id')::uuid, claim ->> 'user_id') ON CONFLICT DO NOTHING;
    RETURN 'committed';
END $$;
"""


async def test_a_row_that_the_ledger_refuses_fails_alone(templates: Templates) -> None:
    async with templates.sale_with_ledger(PICKY) as sale:
        claims = await sale.claim(20)
        await sale.configure(maxRetries=1)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
        sold = await (await sale.ledger.execute("SELECT user_id FROM sold")).fetchall()
        assert len(sold) == 19
        (dead,) = (await sale.dead()).values()
        assert dead["user_id"] == "user-7"
        assert "SQLSTATE 23514" in dead["reason"]
        assert (await sale.status())["committed"] == len(claims) - 1


async def test_i2_ledger_killed_and_db1_killed_under_load_lose_nothing(fragile: PostgresServer) -> None:
    """Both databases die with SIGKILL in mid-sale; the bridge alone brings the sale back, without the operator."""
    intake_uri, ledger_uri = fragile.create_database("intake"), fragile.create_database("ledger")
    await asyncio.to_thread(install_intake, intake_uri)
    await asyncio.to_thread(install_ledger, ledger_uri)
    async with open_sale(intake_uri, ledger_uri, 3000) as sale:
        await sale.configure(batchSize=10)
        await sale.claim(2000)
        async with sale.worker():

            async def begun() -> bool:
                return len(await sale.sales()) >= 50

            await sale.until(begun, "some are committed")
            await asyncio.to_thread(fragile.kill)
            await asyncio.to_thread(fragile.start)
            after = await sale.reconnected()
            async with after.stack:
                await after.until_drained()

                async def rebuilt() -> bool:
                    return bool((await after.status())["ready"])

                await after.until(rebuilt, "the housekeeper has rebuilt the holds")
                await after.claim(1)
                await after.until_drained()
                await after.check()
