"""Claims that are given up, by their fans or by claimTimeoutSeconds: a slot is free when the ledger has said voided."""

import asyncio
import logging
from typing import LiteralString
from uuid import UUID

import pytest
from intake_bridge.worker import Worker
from metered import check_windows, watch
from psycopg.types.json import Jsonb
from scene import POOL, Claim, Scene, Templates, log_lines, validation
from webhook_server import Answer, Item, WebhookServer, approve, status

from tests.patience import PATIENCE_SECONDS
from tests.postgres import install_ledger

# A whole inventory: who wants one more is told that it is sold out.
ALL = 60

# A ledger that waits for the test in the middle of a commit, before or after it has written its row.
WRAPPED: dict[str, LiteralString] = {
    "void": "PERFORM pg_advisory_xact_lock(7); RETURN QUERY SELECT * FROM inner_transactions(payloads);",
    "commit": "RETURN QUERY SELECT * FROM inner_transactions(payloads); PERFORM pg_advisory_xact_lock(7);",
}


async def test_a_claim_released_before_any_bridge_has_read_it_never_reaches_the_ledger(scene: Scene) -> None:
    claims = await scene.claim(3)
    assert await scene.release(claims[1]) == "released"
    assert await scene.inventory() == (998, 2, 0)
    async with scene.worker():
        await scene.until_drained()
    await scene.check()
    assert set(await scene.sales()) == {claims[0].claim_id, claims[2].claim_id}


async def test_i9_a_claim_released_while_it_is_validated_is_voided_and_the_old_worker_changes_nothing(
    scene: Scene, webhook: WebhookServer
) -> None:
    decided = asyncio.Event()

    async def slow(item: Item) -> Answer:
        await decided.wait()
        return approve(item)

    webhook.behaviour = slow
    await scene.configure(validation=validation(webhook.single))
    (claim,) = await scene.claim()
    async with scene.worker("one") as one:
        await webhook.until_calls(1)
        assert await scene.release(claim) == "releasing"
        async with scene.worker("two"):
            await scene.until_drained()
            assert await scene.inventory() == (1000, 0, 0)
            decided.set()
            await _until_stale(scene, one)
    await scene.check()
    assert await _words(scene) == {claim.claim_id: "voided"}


@pytest.mark.parametrize("first", ["void", "commit"])
async def test_i3_i9_a_claim_released_during_its_commit_has_one_word_and_both_databases_know_it(
    templates: Templates, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    async with templates.scene_with_ledger() as scene:
        install_ledger(scene.ledger_uri)
        await scene.ledger.execute("ALTER FUNCTION finalize_transactions(jsonb) RENAME TO inner_transactions")
        await scene.ledger.execute(
            "CREATE FUNCTION finalize_transactions(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text) "
            "LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN " + WRAPPED[first] + " END $$"
        )
        await scene.ledger.execute("SELECT pg_advisory_lock(7)")
        (claim,) = await scene.claim()
        async with scene.worker("one") as one:
            await _until_ledger_waits(scene, "advisory")
            assert await scene.release(claim) == "releasing"
            async with scene.worker("two"):
                if first == "void":
                    await scene.until_drained()
                else:
                    await _until_ledger_waits(scene, "transactionid")
                    assert await scene.inventory() == (999, 1, 0)
                await scene.ledger.execute("SELECT pg_advisory_unlock(7)")
                await scene.until_drained()
                await _until_stale(scene, one)
        await scene.check()
        word, inventory = ("voided", (1000, 0, 0)) if first == "void" else ("committed", (999, 0, 1))
        assert await _words(scene) == {claim.claim_id: word}
        assert await scene.inventory() == inventory
        too_late = [each for each in caplog.records if "too late" in each.message]
        assert [each.levelno for each in too_late] == ([] if first == "void" else [logging.WARNING])


async def test_holds_expire_through_the_ledger_while_the_validator_is_down(
    templates: Templates, webhook: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    webhook.behaviour = lambda _: status(500)
    async with templates.scene(inventory=ALL) as scene:
        await scene.configure(validation=validation(webhook.single), maxRetries=0)
        async with scene.worker():
            held = await scene.claim(ALL)
            await scene.until_health("validator", "down", "500")
            await scene.configure(claimTimeoutSeconds=1)
            await scene.until_drained()
            assert await _words(scene) == {claim.claim_id: "voided" for claim in held}
            assert (await scene.health())["validator"]["state"] == "down"
            # Not one by one, as if they were the validator's probes.
            assert max(each.__dict__["read"] for each in caplog.records if each.message == "releases") > 1
            await scene.configure(claimTimeoutSeconds=None)
            webhook.behaviour = approve
            again = await scene.claim(ALL)
            await scene.until_drained()
        await scene.check()
        committed = {key for key, word in (await _words(scene)).items() if word == "committed"}
        assert committed == {claim.claim_id for claim in again}


async def test_with_the_ledger_down_nothing_is_freed_until_it_is_back(templates: Templates) -> None:
    async with templates.scene_with_ledger(inventory=ALL) as scene:
        held = await scene.claim(ALL)
        await scene.configure(claimTimeoutSeconds=1)
        async with scene.worker():
            await scene.until_health("ledger", "down", "finalize_transaction")
            await _until_expired(scene, ALL)
            before = {row["read_ct"] for row in (await scene.queue()).values()}
            await _until_house_is_kept(scene, 4)  # as long as it takes to look for releases several times
            (late,) = await scene.rows("SELECT outcome FROM intake.claim_resource(%s, 'late')", POOL)
            assert late["outcome"] == "sold_out"
            assert {row["read_ct"] for row in (await scene.queue()).values()} == before
            install_ledger(scene.ledger_uri)
            await scene.until_drained()
            assert await _words(scene) == {claim.claim_id: "voided" for claim in held}
            await scene.configure(claimTimeoutSeconds=None)
            await scene.claim(ALL)
            await scene.until_drained()
        await scene.check()


async def test_i3_a_claim_that_the_ledger_committed_unacknowledged_stays_sold_when_its_hold_expires(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    claims = await scene.claim(5)
    await scene.configure(claimTimeoutSeconds=1)
    items = [row["message"] for row in (await scene.queue()).values()]
    sold = {UUID(item["claim_id"]) for item in items[:2]}
    await scene.ledger.execute("SELECT finalize_transactions(%s)", (Jsonb(items[:2]),))

    async def expired() -> bool:
        await scene.intake.execute("SELECT intake.housekeep(%s)", (POOL,))
        return await _expired(scene) == 5

    await scene.until(expired, "all holds are expired")
    async with scene.worker():
        await scene.until_drained()
    await scene.check()
    assert await scene.inventory() == (998, 0, 2)
    assert {key for key, word in (await _words(scene)).items() if word == "committed"} == sold
    assert len(await scene.sales()) == len(claims)
    late = {UUID(each.__dict__["claim_id"]) for each in caplog.records if "too late" in each.message}
    assert late == sold


async def test_i10_releases_and_sales_share_the_rate_and_neither_starves(scene: Scene) -> None:
    rate = 60
    claims = await scene.claim(40)
    await _release_read(scene, claims[:20])
    await watch(scene)
    await scene.configure(maxPerSecond=rate, batchSize=5)
    async with scene.worker():
        await scene.until_drained()
    await scene.check()
    await check_windows(scene, rate)
    rows = sorted((await scene.sales()).values(), key=lambda row: row["recorded_at"])
    words = [row["state"] for row in rows]
    assert (words.count("voided"), words.count("committed")) == (20, 20)
    assert min(words[:20].count("voided"), words[:20].count("committed")) >= 5


async def test_a_paused_pool_releases_nothing(scene: Scene) -> None:
    claims = await scene.claim(3)
    await _release_read(scene, claims)
    before = await scene.queue()
    await scene.configure(paused=True)
    async with scene.worker():

        async def reported() -> bool:
            return bool((await scene.status())["workers"])

        await scene.until(reported, "the worker acts upon the configuration")
        assert await scene.queue() == before
        await scene.configure(paused=False)
        await scene.until_drained()
    await scene.check()
    assert set((await _words(scene)).values()) == {"voided"}


async def test_a_conflict_is_a_dead_letter_and_a_replay_is_voided_again(scene: Scene) -> None:
    (claim,) = await scene.claim()
    await _release_read(scene, [claim])
    (row,) = (await scene.queue()).values()
    await scene.ledger.execute(
        "SELECT finalize_transaction(%s)", (Jsonb(row["message"] | {"user_id": "somebody else"}),)
    )
    async with scene.worker():
        await scene.until_drained()
        (dead,) = (await scene.dead()).values()
        assert "conflict" in dead["reason"]
        await scene.ledger.execute("TRUNCATE ledger.claims, ledger.sold_slots")
        await scene.rows("SELECT * FROM intake.replay(%s, %s, 'somebody', 'mended')", POOL, [dead["msg_id"]])
        await scene.until_drained()
    await scene.check()
    assert await _words(scene) == {claim.claim_id: "voided"}


async def test_a_void_that_fails_for_the_claim_s_sake_is_counted_and_ends_in_the_dead_letters(
    templates: Templates,
) -> None:
    async with templates.scene_with_ledger() as scene:
        install_ledger(scene.ledger_uri)
        await scene.ledger.execute("DROP FUNCTION void_claim")
        await scene.ledger.execute(
            "CREATE FUNCTION void_claim(payload jsonb) RETURNS text LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not today'; END $$"
        )
        await scene.configure(maxRetries=2)
        claims = await scene.claim(2)
        await _release_read(scene, claims[:1])
        async with scene.worker():
            await scene.until_drained()
        await scene.check()
        (dead,) = (await scene.dead()).values()
        assert dead["claim_id"] == claims[0].claim_id
        assert dead["reason"].endswith("(after 3 failures)")
        assert await scene.inventory() == (998, 1, 1)


async def test_a_ledger_that_cannot_void_frees_only_what_was_never_validated(templates: Templates) -> None:
    """What was validated may have been committed by a worker that is gone: it is sold, since it cannot be voided."""
    only_commits: LiteralString = (
        "CREATE TABLE sold (claim_id uuid PRIMARY KEY); "
        "CREATE FUNCTION finalize_transaction(payload jsonb) RETURNS void LANGUAGE sql AS "
        "$$ INSERT INTO sold SELECT (payload ->> 'claim_id')::uuid ON CONFLICT DO NOTHING $$"
    )
    async with templates.scene_with_ledger(only_commits) as scene:
        await scene.configure(validation=validation("http://nobody.invalid"))
        (validated,) = await scene.claim()
        await _read(scene, then="mark_validated")
        (queued,) = await scene.claim()
        await _read(scene)
        assert [await scene.release(each) for each in (validated, queued)] == ["releasing"] * 2
        async with scene.worker(INTAKE_LEDGER_URI=scene.ledger_uri):
            await scene.until_drained()
        sold = await (await scene.ledger.execute("SELECT claim_id FROM sold")).fetchall()
        assert sold == [{"claim_id": validated.claim_id}]
        assert await scene.inventory() == (999, 0, 1)
        assert await scene.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_a_commit_webhook_never_hears_of_a_released_claim_and_a_claim_on_its_way_there_is_sold(
    scene: Scene, webhook: WebhookServer
) -> None:
    await scene.configure(commitTarget={"webhook": {"url": webhook.single}}, visibilityTimeoutSeconds=1)
    (validated,) = await scene.claim()
    await _read(scene, then="mark_validated")
    (committing,) = await scene.claim()
    await _read(scene, then="mark_committing")
    assert await scene.release(validated) == "releasing"
    assert await scene.release(committing) == "committing"
    await scene.configure(claimTimeoutSeconds=1)
    async with scene.worker():
        await scene.until_drained()
    assert webhook.keys == [f"{committing.claim_id}:commit"]
    assert await scene.inventory() == (999, 0, 1)
    assert await scene.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_sigterm_during_a_void_writes_down_what_the_ledger_says(scene: Scene) -> None:
    claims = await scene.claim(3)
    await _release_read(scene, claims)
    async with scene.process() as process:
        async with scene.ledger.transaction(force_rollback=True):
            await scene.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")
            await _until_ledger_waits(scene, "relation")
            process.terminate()
            assert process.stderr is not None
            while b'"stopping"' not in await process.stderr.readline():
                pass
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    assert log_lines(errors)[-1]["message"] == "stopped"
    assert await scene.queue() == {}
    await scene.check()
    assert await scene.inventory() == (1000, 0, 0)


async def test_i2_i3_killed_between_the_ledger_s_void_and_the_acknowledgement_voids_once(scene: Scene) -> None:
    await scene.configure(visibilityTimeoutSeconds=1)
    claims = await scene.claim(10)
    await _release_read(scene, claims)
    async with scene.process() as process, scene.intake.transaction(force_rollback=True):
        await scene.intake.execute("LOCK TABLE intake.claimed_slots IN SHARE MODE")  # acknowledge waits here

        async def voided() -> bool:
            return len(await scene.sales()) == 10

        await scene.until(voided, "the ledger has voided all")
        process.kill()
        await process.wait()
        # Its orphaned session would acknowledge as soon as it gets the lock.
        await scene.intake.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bridge'"
        )
    before = await scene.sales()
    assert len(await scene.queue()) == 10
    async with scene.worker("second"):
        await scene.until_drained()
    await scene.check()
    assert await scene.sales() == before
    assert await scene.inventory() == (1000, 0, 0)


async def _read(scene: Scene, *, then: str | None = None) -> None:
    """A bridge that reads what is due, perhaps marks it, and is never heard of again."""
    rows = await scene.rows("SELECT * FROM intake.read_batch(%s, 'gone', 1000)", POOL)
    fence = [row["msg_id"] for row in rows], [row["read_ct"] for row in rows]
    if then == "mark_validated":
        await scene.rows("SELECT intake.mark_validated(%s, %s, %s)", POOL, *fence)
    elif then == "mark_committing":
        await scene.rows("SELECT intake.mark_committing(%s, %s, %s)", POOL, *fence)


async def _release_read(scene: Scene, claims: list[Claim]) -> None:
    """Have a bridge read all that is due, release some of it, and make the rest due again."""
    await _read(scene)
    assert {await scene.release(claim) for claim in claims} == {"releasing"}
    await scene.intake.execute("UPDATE pgmq.q_intake_queue SET vt = clock_timestamp()")


async def _words(scene: Scene) -> dict[UUID, str]:
    return {key: row["state"] for key, row in (await scene.sales()).items()}


async def _expired(scene: Scene) -> int:
    return sum("release" in row["message"] for row in (await scene.queue()).values())


async def _until_expired(scene: Scene, count: int) -> None:
    async def expired() -> bool:
        return await _expired(scene) == count

    await scene.until(expired, "all holds are expired")


async def _until_house_is_kept(scene: Scene, times: int) -> None:
    async def rows() -> int:
        (row,) = await scene.rows("SELECT count(*) AS rows FROM intake.engine_metrics")
        return int(row["rows"])

    before = await rows()

    async def kept() -> bool:
        return await rows() >= before + times

    await scene.until(kept, "the housekeeper goes on")


async def _until_stale(scene: Scene, worker: Worker) -> None:
    async def noticed() -> bool:
        return worker.metrics.registry.get_sample_value("intake_bridge_messages_total", {"end": "stale"}) == 1

    await scene.until(noticed, "the worker that lost its lease notices")


async def _until_ledger_waits(scene: Scene, lock: str) -> None:
    async def waits() -> bool:
        # Not from pg_stat_activity: inside a transaction that is one look for all.
        cursor = await scene.ledger.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = %s", (lock,))
        return cursor.rowcount > 0

    await scene.until(waits, f"a call to the ledger waits for {lock}")


async def test_a_release_does_not_wait_for_all_that_is_read_alone(templates: Templates) -> None:
    """After an outage of the whole fleet everything that was leased may be, each by a read of its own."""
    async with templates.scene() as scene:
        await scene.claim(300)
        unfinished = """UPDATE pgmq.q_intake_queue SET headers = '{"worker": "gone", "unfinished": 2}', read_ct = 3"""
        await scene.intake.execute(unfinished)
        await scene.rows("SELECT FROM intake.read_batch(%s, 'gone', 10000)", POOL)
        claims = await scene.claim(3)
        await scene.rows("SELECT FROM intake.read_batch(%s, 'gone', 10000)", POOL)
        for claim in claims:
            assert await scene.release(claim) == "releasing"
        loners: list[int] = []

        async def released() -> bool:
            (row,) = await scene.rows(
                "SELECT (SELECT count(*) FROM intake.quarantine) AS loners,"
                " (SELECT count(*) FROM intake.releases) AS releases"
            )
            loners.append(row["loners"])
            return row["releases"] == 0

        async with scene.worker():
            await scene.until(released, "the releases are done")
            assert loners[-1] > 0
            await scene.until_drained()
        await scene.check()
