"""Real processes that are terminated and killed in the middle of a batch."""

import asyncio
import json

from sale import Sale, log_lines, validation
from webhook_server import Answer, Item, WebhookServer, approve

from tests.patience import PATIENCE_SECONDS


class Effects:
    """A validator that holds its answers back, and charges once for each idempotency key."""

    def __init__(self, webhook: WebhookServer) -> None:
        self.release = asyncio.Event()
        webhook.behaviour = self._answer

    async def _answer(self, item: Item) -> Answer:
        await self.release.wait()
        return approve(item)


async def test_sigterm_finishes_what_was_begun_gives_back_the_rest_and_exits_0(
    sale: Sale, webhook: WebhookServer
) -> None:
    effects = Effects(webhook)
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(50)
    async with sale.process() as process:
        await webhook.until_calls(32)  # as many as are asked side by side; the others of the batch wait for their turn
        begun = set(webhook.asked())
        process.terminate()
        assert process.stderr is not None
        while b'"stopping"' not in await process.stderr.readline():
            pass
        effects.release.set()
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        assert process.returncode == 0
    assert {str(key) for key in await sale.sales()} == begun
    left = await sale.queue()
    assert len(left) == 50 - 32
    assert all(row["visible"] and row["message"]["failures"] == 0 for row in left.values())
    assert log_lines(errors)[-1]["message"] == "stopped"
    async with sale.worker("second"):
        await sale.until_drained()
    await sale.check()
    assert set(webhook.asked().values()) == {1}


async def test_sigterm_while_everything_is_down_exits_0(sale: Sale, webhook: WebhookServer) -> None:
    await sale.claim(5)
    async with sale.process(INTAKE_LEDGER_URI="postgresql://nobody:topsecret@127.0.0.1:9/nowhere") as process:
        await sale.until_health("ledger", "down", "refused")
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    assert b"topsecret" not in errors
    assert "topsecret" not in json.dumps(await sale.health())
    assert all(row["message"]["failures"] == 0 for row in (await sale.queue()).values())


async def test_i2_i3_i4_killed_between_ledger_and_acknowledgement_commits_once(sale: Sale) -> None:
    await sale.configure(visibilityTimeoutSeconds=1)
    await sale.claim(30)
    async with sale.process() as process, sale.intake.transaction(force_rollback=True):
        await sale.intake.execute("LOCK TABLE intake.claimed_slots IN SHARE MODE")  # acknowledge waits here

        async def committed() -> bool:
            return len(await sale.sales()) == 30

        await sale.until(committed, "the ledger has all")
        process.kill()
        await process.wait()
        # Its orphaned session would acknowledge as soon as it gets the lock.
        await sale.intake.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bridge'"
        )
    before = await sale.sales()
    assert len(await sale.queue()) == 30
    async with sale.worker("second"):
        await sale.until_drained()
    await sale.check()
    assert await sale.sales() == before


async def test_i5_killed_while_validating_asks_again_under_the_same_key(sale: Sale, webhook: WebhookServer) -> None:
    effects = Effects(webhook)
    await sale.configure(validation=validation(webhook.single), visibilityTimeoutSeconds=1)
    await sale.claim(10)
    async with sale.process() as process:
        await webhook.until_calls(10)
        process.kill()
        await process.wait()
    effects.release.set()
    async with sale.worker("second"):
        await sale.until_drained()
    await sale.check()
    assert len(set(webhook.keys)) == 10
    assert len(await sale.sales()) == 10


async def test_i5_killed_after_the_mark_does_not_ask_again(sale: Sale, webhook: WebhookServer) -> None:
    await sale.configure(validation=validation(webhook.single), visibilityTimeoutSeconds=1)
    await sale.claim(10)
    async with sale.process() as process, sale.ledger.transaction(force_rollback=True):
        await sale.ledger.execute("LOCK TABLE ledger.claims IN SHARE MODE")

        async def marked() -> bool:
            return {row["message"]["state"] for row in (await sale.queue()).values()} == {"validated"}

        await sale.until(marked, "all are marked")
        process.kill()
        await process.wait()
    async with sale.worker("second"):
        await sale.until_drained()
    await sale.check()
    assert set(webhook.asked().values()) == {1}


async def test_many_workers_share_a_queue_and_commit_each_claim_once(sale: Sale) -> None:
    await sale.configure(batchSize=10)
    await sale.claim(400)
    async with sale.worker("one"), sale.worker("two"), sale.worker("three"):
        await sale.until_drained()
    await sale.check()
    assert len(await sale.sales()) == 400


async def test_a_missing_variable_is_named(sale: Sale) -> None:
    async with sale.process(INTAKE_POOL="") as process:
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"INTAKE_POOL" in errors
