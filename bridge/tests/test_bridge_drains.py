"""The way of a claim through the bridge when no dependency fails."""

import asyncio
from dataclasses import replace
from typing import LiteralString

import aiohttp
import pytest
from intake_bridge.adapters import database
from intake_bridge.batch_runner import MOST_BATCHES
from intake_bridge.tuning import Tuning
from psycopg.types.json import Jsonb
from sale import POOL, TUNING, Sale, Templates, validation
from webhook_server import WebhookServer

from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, install_ledger


async def test_i2_i4_every_claim_is_committed_once_as_it_was_acknowledged(sale: Sale) -> None:
    await sale.claim(250)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert len(await sale.sales()) == 250
    assert (await sale.status())["inventory"]["consumed"] == 250


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
async def test_i5_declined_claims_are_voided_and_their_slots_are_free_again(
    sale: Sale, webhook: WebhookServer, batch: bool
) -> None:
    claims = await sale.claim(20)
    bad = {str(claim.claim_id) for claim in claims[::4]}
    webhook.behaviour = lambda item: {"decision": "declined" if item["claim_id"] in bad else "approved"}
    await sale.configure(validation=validation(webhook.batch if batch else webhook.single, batch=batch))
    async with sale.worker(INTAKE_VALIDATION_TOKEN="secret"):
        await sale.until_drained()
        await sale.check()
        sales = await sale.sales()
        assert {str(key) for key, row in sales.items() if row["state"] == "voided"} == bad
        status = await sale.status()
        assert (status["inventory"]["available"], status["voided"]) == (1000 - 15, 5)
    assert set(webhook.asked().values()) == {1}
    assert webhook.authorizations == {"Bearer secret"}
    if not batch:
        assert set(webhook.keys) == {f"{claim.claim_id}:validate" for claim in claims}


async def test_i8_the_validated_mark_is_durable_before_the_ledger_is_called(sale: Sale, webhook: WebhookServer) -> None:
    await sale.claim(3)
    await sale.configure(validation=validation(webhook.single))
    async with sale.ledger.transaction():
        await sale.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")  # holds back inserts only
        async with asyncio.timeout(PATIENCE_SECONDS), sale.worker():

            async def all_marked() -> bool:
                return {row["message"]["state"] for row in (await sale.queue()).values()} == {"validated"}

            await sale.until(all_marked, "validated while the ledger has nothing")
            assert await sale.sales() == {}
            await sale.ledger.execute("ROLLBACK")
            await sale.until_drained()
    await sale.check()
    assert set(webhook.asked().values()) == {1}


async def test_i8_committing_is_durable_before_a_commit_webhook_is_called(sale: Sale, webhook: WebhookServer) -> None:
    states: list[str] = []

    async def commit(item: dict[str, str]) -> dict[str, str]:
        queue = await sale.queue()
        states.extend(row["message"]["state"] for key, row in queue.items() if str(key) == item["claim_id"])
        return {"outcome": "committed"}

    webhook.behaviour = commit
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}}, batchSize=1)
    claims = await sale.claim(5)
    async with sale.worker(INTAKE_COMMIT_TOKEN="secret"):
        await sale.until_drained()
    assert states == ["committing"] * 5
    assert sorted(webhook.keys) == sorted(f"{claim.claim_id}:commit" for claim in claims)
    assert webhook.authorizations == {"Bearer secret"}
    assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []
    assert (await sale.status())["committed"] == 5


async def test_a_duplicate_of_the_ledger_is_success(sale: Sale) -> None:
    """The reply was lost, or the acknowledgement: the ledger knows the claim already."""
    await sale.claim(5)
    items = [row["message"] for row in (await sale.queue()).values()]
    for item in items[:3]:
        cursor = await sale.ledger.execute("SELECT finalize_transaction(%s) ->> 'outcome' AS outcome", (Jsonb(item),))
        assert await cursor.fetchall() == [{"outcome": "committed"}]
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert len(await sale.sales()) == 5


async def test_batch_size_acts_without_a_restart(sale: Sale) -> None:
    assert Tuning().configuration_seconds <= 1, "and, where there is time to look, within a second"
    async with asyncio.timeout(PATIENCE_SECONDS), sale.process() as process:

        async def acting_upon(size: int) -> bool:
            return [worker["batchSize"] for worker in (await sale.status())["workers"]] == [size]

        await sale.until(lambda: acting_upon(100), "the worker reports")
        await sale.configure(batchSize=7)
        await sale.until(lambda: acting_upon(7), "the worker acts upon the new batch size")
        process.terminate()
        assert await process.wait() == 0


async def test_a_new_batch_size_is_reported_before_the_next_heartbeat(sale: Sale) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), sale.worker(tuning=replace(TUNING, heartbeat_seconds=3600.0)):

        async def reported(size: int) -> bool:
            return [worker["batchSize"] for worker in (await sale.status())["workers"]] == [size]

        await sale.until(lambda: reported(100), "the worker reports")
        await sale.configure(batchSize=7)
        await sale.until(lambda: reported(7), "the new batch size is reported at once")


async def test_a_batch_is_never_larger_than_batch_size(sale: Sale, webhook: WebhookServer) -> None:
    await sale.configure(batchSize=4, validation=validation(webhook.batch, batch=True))
    await sale.claim(10)
    async with sale.worker():
        await sale.until_drained()
    sizes = [webhook.keys.count(key) for key in dict.fromkeys(webhook.keys)]
    assert sizes == [4, 4, 2]


async def test_a_paused_pool_is_left_alone(sale: Sale) -> None:
    claims = await sale.claim(5)
    await sale.configure(paused=True)
    async with sale.worker():

        async def reported() -> bool:
            return bool((await sale.status())["workers"])

        await sale.until(reported, "the worker acts upon the configuration")
        assert {row["read_ct"] for row in (await sale.queue()).values()} == {0}
        assert len(await sale.queue()) == len(claims)
        await sale.configure(paused=False)
        await sale.until_drained()
    await sale.check()


async def test_probes_and_metrics(sale: Sale, webhook: WebhookServer) -> None:
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(3)
    async with sale.worker() as worker, aiohttp.ClientSession() as client:
        base = f"http://127.0.0.1:{await worker.port()}"

        async def ready() -> bool:
            async with client.get(f"{base}/readyz") as response:
                return response.status == 200

        await sale.until(ready, "ready once DB1 has answered")
        await sale.until_drained()
        async with client.get(f"{base}/livez") as response:
            assert response.status == 200
        async with client.get(f"{base}/metrics") as response:
            text = await response.text()
    assert 'intake_bridge_messages_total{end="committed"} 3.0' in text
    assert 'intake_bridge_breaker_state{step="commit"} 0.0' in text
    assert "intake_bridge_database_up 1.0" in text
    assert 'intake_bridge_concurrency_limit{step="validate"} 35.0' in text
    assert 'intake_bridge_worker_info{worker="one"} 1.0' in text
    assert 'intake_bridge_step_seconds_count{step="acknowledge"} ' in text
    assert "intake_bridge_batch_size 100.0" in text
    assert "intake_bridge_throttle_share 1.0" in text


SCALAR_ONLY = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY);
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO sold SELECT (claim ->> 'claim_id')::uuid ON CONFLICT DO NOTHING $$;
"""


async def test_a_ledger_with_one_function_that_returns_void(templates: Templates, webhook: WebhookServer) -> None:
    """The weakest ledger: no outcome, no set form, no void_claim."""
    async with templates.sale_with_ledger(SCALAR_ONLY) as sale:
        claims = await sale.claim(10)
        declined = str(claims[0].claim_id)
        webhook.behaviour = lambda item: {"decision": "declined" if item["claim_id"] == declined else "approved"}
        await sale.configure(validation=validation(webhook.single))
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
        sold = await (await sale.ledger.execute("SELECT claim_id FROM sold")).fetchall()
        assert {row["claim_id"] for row in sold} == {claim.claim_id for claim in claims[1:]}
        assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []
        assert (await sale.status())["inventory"]["available"] == 1000 - 9


VOIDS = "CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'voided' $$"
TAKES_BATCHES = """
CREATE FUNCTION finalize_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text) LANGUAGE sql AS
    $$ SELECT (each ->> 'claim_id')::uuid, 'committed' FROM jsonb_array_elements(claims) AS each $$
"""


@pytest.mark.parametrize(
    ("more", "offers"),
    [("", []), (VOIDS, ["void"]), (TAKES_BATCHES, ["batch", "outcomes"])],
    ids=["void", "voids", "batch"],
)
async def test_what_a_ledger_offers_is_found_out_at_the_start_and_told(
    templates: Templates, more: LiteralString, offers: list[str]
) -> None:
    async with templates.sale_with_ledger(SCALAR_ONLY, more) as sale, sale.worker():
        await sale.until_health("ledger", "ok")
        assert (await sale.health())["ledger"]["offers"] == offers


async def test_a_ledger_without_an_encoding_is_understood(sale: Sale, server: PostgresServer) -> None:
    """As in old databases: a client that does not set client_encoding gets bytes."""
    await sale.ledger.execute(
        "CREATE DATABASE ascii_ledger TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    ledger_uri = sale.ledger_uri.replace("/ledger?", "/ascii_ledger?")
    await asyncio.to_thread(install_ledger, ledger_uri)
    await sale.claim(5)
    async with sale.worker(INTAKE_LEDGER_URI=ledger_uri.replace("postgres@", "ledger_writer@")):
        await sale.until_drained()
    assert await sale.inventory() == (995, 0, 5)
    server.drop_database("ascii_ledger")


def test_db1_is_called_at_most_once_for_each_connection_of_the_pool() -> None:
    """Each batch under way changes messages and renews its leases; the control loop calls beside them."""
    assert database._CONNECTIONS == 2 * MOST_BATCHES + 1
