"""Claims that are released by buyers or by claimTimeoutSeconds: a slot is free when the ledger has said voided."""

import asyncio
import logging
from typing import LiteralString
from uuid import UUID

import pytest
from intake_bridge.worker import Worker
from psycopg.types.json import Jsonb
from sale import POOL, Sale, Templates, log_lines, validation
from webhook_server import Answer, Item, WebhookServer, approve, status

from tests.patience import PATIENCE_SECONDS
from tests.postgres import install_ledger

# A whole inventory: one more claim is answered with sold_out.
ALL = 60

# A ledger that waits for the test in the middle of a commit, before or after it has written its row.
WRAPPED: dict[str, LiteralString] = {
    "void": "PERFORM pg_advisory_xact_lock(7); RETURN QUERY SELECT * FROM inner_transactions(claims);",
    "commit": "RETURN QUERY SELECT * FROM inner_transactions(claims); PERFORM pg_advisory_xact_lock(7);",
}


async def test_a_claim_released_before_any_bridge_has_read_it_never_reaches_the_ledger(sale: Sale) -> None:
    claims = await sale.claim(3)
    assert await sale.release(claims[1]) == "released"
    assert await sale.inventory() == (998, 2, 0)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert set(await sale.sales()) == {claims[0].claim_id, claims[2].claim_id}


async def test_i9_a_claim_released_while_it_is_validated_is_voided_and_the_old_worker_changes_nothing(
    sale: Sale, webhook: WebhookServer
) -> None:
    decided = asyncio.Event()

    async def slow(item: Item) -> Answer:
        await decided.wait()
        return approve(item)

    webhook.behaviour = slow
    await sale.configure(validation=validation(webhook.single))
    (claim,) = await sale.claim()
    async with sale.worker("one") as one:
        await webhook.until_calls(1)
        assert await sale.release(claim) == "releasing"
        async with sale.worker("two"):
            await sale.until_drained()
            assert await sale.inventory() == (1000, 0, 0)
            decided.set()
            await _until_stale(sale, one)
    await sale.check()
    assert await _words(sale) == {claim.claim_id: "voided"}


@pytest.mark.parametrize("first", ["void", "commit"])
async def test_i3_i9_a_claim_released_during_its_commit_has_one_end_in_both_databases(
    templates: Templates, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        await sale.ledger.execute("ALTER FUNCTION finalize_transactions(jsonb) RENAME TO inner_transactions")
        await sale.ledger.execute(
            "CREATE FUNCTION finalize_transactions(claims jsonb)"
            " RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb) LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
            + WRAPPED[first]
            + " END $$"
        )
        await sale.ledger.execute("SELECT pg_advisory_lock(7)")
        (claim,) = await sale.claim()
        async with sale.worker("one") as one:
            await _until_ledger_waits(sale, "advisory")
            assert await sale.release(claim) == "releasing"
            async with sale.worker("two"):
                if first == "void":
                    await sale.until_drained()
                else:
                    await _until_ledger_waits(sale, "transactionid")
                    assert await sale.inventory() == (999, 1, 0)
                await sale.ledger.execute("SELECT pg_advisory_unlock(7)")
                await sale.until_drained()
                await _until_stale(sale, one)
        await sale.check()
        word, inventory = ("voided", (1000, 0, 0)) if first == "void" else ("committed", (999, 0, 1))
        assert await _words(sale) == {claim.claim_id: word}
        assert await sale.inventory() == inventory
        too_late = [each for each in caplog.records if "too late" in each.message]
        assert [each.levelno for each in too_late] == ([] if first == "void" else [logging.WARNING])


async def test_claims_time_out_through_the_ledger_while_the_validator_is_down(
    templates: Templates, webhook: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    webhook.behaviour = lambda _: status(500)
    async with templates.sale(inventory=ALL) as sale:
        await sale.configure(validation=validation(webhook.single), maxRetries=0)
        async with sale.worker():
            held = await sale.claim(ALL)
            await sale.until_health("validator", "down", "500")
            await sale.configure(claimTimeoutSeconds=1)
            await sale.until_drained()
            assert await _words(sale) == {claim.claim_id: "voided" for claim in held}
            assert (await sale.health())["validator"]["state"] == "down"
            # Not one by one, as if they were the validator's probes.
            assert max(each.__dict__["read"] for each in caplog.records if each.message == "releases ended") > 1
            await sale.configure(claimTimeoutSeconds=None)
            webhook.behaviour = approve
            again = await sale.claim(ALL)
            await sale.until_drained()
        await sale.check()
        committed = {key for key, word in (await _words(sale)).items() if word == "committed"}
        assert committed == {claim.claim_id for claim in again}


async def test_with_the_ledger_down_nothing_is_freed_until_it_is_back(templates: Templates) -> None:
    async with templates.sale_with_ledger(inventory=ALL) as sale:
        held = await sale.claim(ALL)
        await sale.configure(claimTimeoutSeconds=1)
        async with sale.worker():
            await sale.until_health("ledger", "down", "finalize_transaction")
            await _until_expired(sale, ALL)
            before = {row["read_ct"] for row in (await sale.queue()).values()}
            await _until_housekeeping(sale, 4)  # as long as it takes to look for releases several times
            (late,) = await sale.rows("SELECT outcome FROM intake.claim_resource(%s, 'late')", POOL)
            assert late["outcome"] == "sold_out"
            assert {row["read_ct"] for row in (await sale.queue()).values()} == before
            install_ledger(sale.ledger_uri)
            await sale.until_drained()
            assert await _words(sale) == {claim.claim_id: "voided" for claim in held}
            await sale.configure(claimTimeoutSeconds=None)
            await sale.claim(ALL)
            await sale.until_drained()
        await sale.check()


async def test_i3_a_committed_claim_that_is_not_acknowledged_stays_sold_when_it_times_out(
    sale: Sale, caplog: pytest.LogCaptureFixture
) -> None:
    claims = await sale.claim(5)
    await sale.configure(claimTimeoutSeconds=1)
    items = [row["message"] for row in (await sale.queue()).values()]
    sold = {UUID(item["claim_id"]) for item in items[:2]}
    await sale.ledger.execute("SELECT finalize_transactions(%s)", (Jsonb(items[:2]),))

    async def expired() -> bool:
        await sale.intake.execute("SELECT intake.housekeep(%s)", (POOL,))
        return await _expired(sale) == 5

    await sale.until(expired, "all holds are expired")
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert await sale.inventory() == (998, 0, 2)
    assert {key for key, word in (await _words(sale)).items() if word == "committed"} == sold
    assert len(await sale.sales()) == len(claims)
    late = {UUID(each.__dict__["claim_id"]) for each in caplog.records if "too late" in each.message}
    assert late == sold


async def test_a_paused_pool_releases_nothing(sale: Sale) -> None:
    claims = await sale.claim(3)
    await sale.release_leased(claims)
    before = await sale.queue()
    await sale.configure(paused=True)
    async with sale.worker():

        async def reported() -> bool:
            return bool((await sale.status())["workers"])

        await sale.until(reported, "the worker acts upon the configuration")
        assert await sale.queue() == before
        await sale.configure(paused=False)
        await sale.until_drained()
    await sale.check()
    assert set((await _words(sale)).values()) == {"voided"}


async def test_a_conflict_is_a_dead_letter_and_a_replay_is_voided_again(sale: Sale) -> None:
    (claim,) = await sale.claim()
    await sale.release_leased([claim])
    (row,) = (await sale.queue()).values()
    await sale.ledger.execute(
        "SELECT finalize_transaction(%s)", (Jsonb(row["message"] | {"user_id": "somebody else"}),)
    )
    async with sale.worker():
        await sale.until_drained()
        (dead,) = (await sale.dead()).values()
        assert "conflict" in dead["reason"]
        await sale.ledger.execute("TRUNCATE ledger.claims, ledger.sold_slots")
        await sale.rows("SELECT * FROM intake.replay(%s, %s, 'somebody', 'mended')", POOL, [dead["msg_id"]])
        await sale.until_drained()
    await sale.check()
    assert await _words(sale) == {claim.claim_id: "voided"}


async def test_a_void_that_fails_because_of_the_claim_is_counted_and_ends_in_the_dead_letters(
    templates: Templates,
) -> None:
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        await sale.ledger.execute("DROP FUNCTION void_claim")
        await sale.ledger.execute(
            "CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not today'; END $$"
        )
        await sale.configure(maxRetries=2)
        claims = await sale.claim(2)
        await sale.release_leased(claims[:1])
        async with sale.worker():
            await sale.until_drained()
        await sale.check()
        (dead,) = (await sale.dead()).values()
        assert dead["claim_id"] == claims[0].claim_id
        assert dead["reason"].endswith("(after 3 failures)")
        assert await sale.inventory() == (998, 1, 1)


async def test_a_ledger_that_cannot_void_frees_only_what_was_never_validated(templates: Templates) -> None:
    """What was validated may have been committed by a worker that is gone: it is sold, since it cannot be voided."""
    only_commits: LiteralString = (
        "CREATE TABLE sold (claim_id uuid PRIMARY KEY); "
        "CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS void LANGUAGE sql AS "
        "$$ INSERT INTO sold SELECT (claim ->> 'claim_id')::uuid ON CONFLICT DO NOTHING $$"
    )
    async with templates.sale_with_ledger(only_commits) as sale:
        await sale.configure(validation=validation("http://nobody.invalid"))
        (validated,) = await sale.claim()
        await _read(sale, then="mark_validated")
        (queued,) = await sale.claim()
        await _read(sale)
        assert [await sale.release(each) for each in (validated, queued)] == ["releasing"] * 2
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
        sold = await (await sale.ledger.execute("SELECT claim_id FROM sold")).fetchall()
        assert sold == [{"claim_id": validated.claim_id}]
        assert await sale.inventory() == (999, 0, 1)
        assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_a_commit_webhook_is_never_called_for_a_released_claim_and_a_claim_on_its_way_there_is_sold(
    sale: Sale, webhook: WebhookServer
) -> None:
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}}, visibilityTimeoutSeconds=1)
    (validated,) = await sale.claim()
    await _read(sale, then="mark_validated")
    (committing,) = await sale.claim()
    await _read(sale, then="mark_committing")
    assert await sale.release(validated) == "releasing"
    assert await sale.release(committing) == "committing"
    await sale.configure(claimTimeoutSeconds=1)
    async with sale.worker():
        await sale.until_drained()
    assert webhook.keys == [f"{committing.claim_id}:commit"]
    assert await sale.inventory() == (999, 0, 1)
    assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_sigterm_during_a_void_writes_the_ledgers_answer(sale: Sale) -> None:
    claims = await sale.claim(3)
    await sale.release_leased(claims)
    async with sale.process() as process:
        async with sale.ledger.transaction(force_rollback=True):
            await sale.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")
            await _until_ledger_waits(sale, "relation")
            process.terminate()
            assert process.stderr is not None
            while b'"stopping"' not in await process.stderr.readline():
                pass
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    assert log_lines(errors)[-1]["message"] == "stopped"
    assert await sale.queue() == {}
    await sale.check()
    assert await sale.inventory() == (1000, 0, 0)


async def test_i2_i3_killed_between_the_ledger_s_void_and_the_acknowledgement_voids_once(sale: Sale) -> None:
    await sale.configure(visibilityTimeoutSeconds=1)
    claims = await sale.claim(10)
    await sale.release_leased(claims)
    async with sale.process() as process, sale.intake.transaction(force_rollback=True):
        await sale.intake.execute("LOCK TABLE intake.claimed_slots IN SHARE MODE")  # acknowledge waits here

        async def voided() -> bool:
            return len(await sale.sales()) == 10

        await sale.until(voided, "the ledger has voided all")
        process.kill()
        await process.wait()
        # Its orphaned session would acknowledge as soon as it gets the lock.
        await sale.intake.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bridge'"
        )
    before = await sale.sales()
    assert len(await sale.queue()) == 10
    async with sale.worker("second"):
        await sale.until_drained()
    await sale.check()
    assert await sale.sales() == before
    assert await sale.inventory() == (1000, 0, 0)


async def _read(sale: Sale, *, then: str | None = None) -> None:
    """A bridge that reads what is due, perhaps marks it, and then is gone."""
    rows = await sale.rows("SELECT * FROM intake.read_batch(%s, 'gone', 1000)", POOL)
    fence = [row["msg_id"] for row in rows], [row["read_ct"] for row in rows]
    if then == "mark_validated":
        await sale.rows("SELECT intake.mark_validated(%s, %s, %s)", POOL, *fence)
    elif then == "mark_committing":
        await sale.rows("SELECT intake.mark_committing(%s, %s, %s)", POOL, *fence)


async def _words(sale: Sale) -> dict[UUID, str]:
    return {key: row["state"] for key, row in (await sale.sales()).items()}


async def _expired(sale: Sale) -> int:
    return sum("release" in row["message"] for row in (await sale.queue()).values())


async def _until_expired(sale: Sale, count: int) -> None:
    async def expired() -> bool:
        return await _expired(sale) == count

    await sale.until(expired, "all holds are expired")


async def _until_housekeeping(sale: Sale, times: int) -> None:
    async def rows() -> int:
        (row,) = await sale.rows("SELECT count(*) AS rows FROM intake.engine_metrics")
        return int(row["rows"])

    before = await rows()

    async def kept() -> bool:
        return await rows() >= before + times

    await sale.until(kept, "the housekeeper goes on")


async def _until_stale(sale: Sale, worker: Worker) -> None:
    async def noticed() -> bool:
        return worker.metrics.registry.get_sample_value("intake_bridge_messages_total", {"end": "stale"}) == 1

    await sale.until(noticed, "the worker that lost its lease notices")


async def _until_ledger_waits(sale: Sale, lock: str) -> None:
    async def waits() -> bool:
        # Not from pg_stat_activity: inside a transaction that is one look for all.
        cursor = await sale.ledger.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = %s", (lock,))
        return cursor.rowcount > 0

    await sale.until(waits, f"a call to the ledger waits for {lock}")
