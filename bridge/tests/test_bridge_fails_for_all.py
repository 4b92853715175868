"""When different claims fail alike and none succeeds, the dependency is suspected; a bad claim among others ends."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from refusing_ledger import BREAKS, RAISING
from sale import POOL, TUNING, Sale, Templates, validation
from webhook_server import WebhookServer, approve, status

BREAKS_REFERENCE = [line.replace("sold", "ledger.claims") for line in BREAKS]


async def execute(sale: Sale, statements: Sequence[str]) -> None:
    """In the ledger."""
    for statement in statements:
        await sale.ledger.execute(statement.encode())


async def _says_how_many_failed_alike(sale: Sale, *workers: str, error: str) -> None:
    """Each of these workers tells that the ledger is down, for how many claims, and why."""

    async def reported() -> bool:
        health = {each["worker"]: each["health"].get("ledger", {}) for each in (await sale.status())["workers"]}
        errors = [health.get(worker, {}).get("error", "") for worker in workers]
        assert "user-" not in "".join(errors), "a condition shows the row that was refused"
        return all(
            re.match(r"\d+ different claims failed alike, and none succeeded: ", each) for each in errors
        ) and all(error in each for each in errors)

    await sale.until(reported, f"{workers} say how many claims failed with {error!r}")


@pytest.mark.parametrize("batch", [100, 1])
@pytest.mark.parametrize("workers", [["one"], ["one", "two"]])
async def test_a_ledger_that_fails_for_every_claim_counts_no_failure(
    templates: Templates, workers: list[str], batch: int
) -> None:
    async with templates.sale_with_ledger(RAISING) as sale:
        await sale.configure(maxRetries=2, batchSize=batch)
        await sale.claim(10)
        uri = {"INTAKE_LEDGER_URI": sale.ledger_uri}
        async with sale.worker(workers[0], **uri):
            await sale.until_drained()
            await execute(sale, BREAKS)
            await sale.claim(60)
            await _says_how_many_failed_alike(sale, workers[0], error="SQLSTATE 23502")
            async with sale.worker(workers[-1], **uri) if len(workers) > 1 else asyncio.timeout(None):
                await _says_how_many_failed_alike(sale, *workers, error="SQLSTATE 23502")
                await _probed(sale, 5)
                queue = await sale.queue()
                assert len(queue) == 60
                assert {row["message"]["failures"] for row in queue.values()} == {0}
                await execute(sale, ["ALTER TABLE sold ALTER till DROP NOT NULL"])
                await sale.until_drained()
                await sale.until_health("ledger", "ok")
        assert await sale.dead() == {}
        assert (await sale.status())["committed"] == 70
        assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def test_a_reference_ledger_that_fails_for_every_claim_is_reported(templates: Templates) -> None:
    async with templates.sale_with_reference() as sale:
        await sale.configure(maxRetries=0)
        async with sale.worker():
            await sale.claim(10)
            await sale.until_drained()
            await execute(sale, BREAKS_REFERENCE)
            await sale.claim(60)
            await _says_how_many_failed_alike(sale, "one", error="SQLSTATE 23502")
            await _probed(sale, 5)
            assert await sale.dead() == {}
            await execute(sale, ["ALTER TABLE ledger.claims ALTER till DROP NOT NULL"])
            await sale.until_drained()
        await sale.check()
        assert len(await sale.sales()) == 70


async def _probed(sale: Sale, probes: int) -> None:
    """So many reads from now on, of one claim each."""

    async def reads() -> int:
        return sum(int(row["read_ct"]) for row in (await sale.queue()).values())

    before = await reads()

    async def enough() -> bool:
        return await reads() >= before + probes

    await sale.until(enough, "the breaker probes")


@pytest.mark.parametrize("batch", [100, 1])
async def test_bad_claims_among_good_ones_end_alone_however_many(templates: Templates, batch: int) -> None:
    """They are all that is left at the end of the sale, and they still have an end."""
    async with templates.sale_with_ledger(RAISING) as sale:
        await sale.configure(maxRetries=2, batchSize=batch)
        for number in range(30):
            if number % 3 == 1:
                name = f"bad-{number}"
                await sale.rows("SELECT * FROM intake.claim_resource(%s, %s)", POOL, name)
            else:
                await sale.claim(1)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_drained()
        dead = await sale.dead()
        assert {row["user_id"] for row in dead.values()} == {f"bad-{n}" for n in range(1, 30, 3)}
        assert {row["reason"][-18:] for row in dead.values()} == {"(after 3 failures)"}
        assert (await sale.status())["committed"] == 20


@pytest.mark.parametrize("target", ["validation", "commitTarget"])
@pytest.mark.parametrize("code", [400, 500, 409, 422])
@pytest.mark.parametrize("batch", [100, 1])
async def test_a_webhook_that_refuses_every_claim_ends_none(
    sale: Sale, webhook: WebhookServer, target: str, code: int, batch: int
) -> None:
    webhook.behaviour = lambda _: status(code)
    urls = {"validation": validation(webhook.single), "commitTarget": {"webhook": {"url": webhook.single}}}
    await sale.configure(**{target: urls[target]}, maxRetries=0, batchSize=batch)
    await sale.claim(40)
    name = "validator" if target == "validation" else "ledger"
    async with sale.worker():
        await sale.until_health(name, "down", "claims failed alike")
        await sale.until_health(name, "down", f"answers {code}")
        await _probed(sale, 5)
        assert await sale.inventory() == (960, 40, 0)
        assert await sale.dead() == {}
        webhook.behaviour = approve
        await sale.until_drained()
        await sale.until_health(name, "ok")
    assert await sale.dead() == {}
    assert await sale.inventory() == (960, 0, 40)


@pytest.mark.parametrize("word", ["voided", "conflict"])
async def test_a_webhook_that_answers_every_claim_with_voided_or_conflict_ends_none(
    sale: Sale, webhook: WebhookServer, word: str
) -> None:
    webhook.behaviour = lambda _: {"outcome": word, "reason": "no such event"}
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(40)
    async with sale.worker():
        await sale.until_health("ledger", "down", "no such event")
        webhook.behaviour = approve
        await sale.until_drained()
    assert await sale.dead() == {}


async def test_a_validator_that_declines_every_claim_by_its_word_is_believed(
    sale: Sale, webhook: WebhookServer
) -> None:
    webhook.behaviour = lambda _: {"decision": "declined"}
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(40)
    async with sale.worker():
        await sale.until_drained()
    assert await sale.inventory() == (1000, 0, 0)
    assert len(webhook.calls) == 40


async def test_a_ledger_that_voids_nothing_goes_on_selling(templates: Templates) -> None:
    """Each of its functions is judged by itself: a sale is no proof that claims are voided, nor the other way round."""
    broken = "CREATE FUNCTION void_claim(claim jsonb) RETURNS text LANGUAGE sql AS $$ SELECT (1 / 0)::text $$;"
    async with templates.sale_with_ledger(RAISING, broken) as sale:
        await sale.configure(maxRetries=0, batchSize=4)
        released = await sale.claim(10)
        await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 10)", POOL)
        for claim in released:
            assert await sale.release(claim) == "releasing"
        await sale.claim(40)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):

            async def sold() -> bool:
                return bool((await sale.status())["committed"] == 40)

            await sale.until(sold, "the others are sold")
            await sale.until_health("ledger", "down", "division by zero")
            assert await sale.dead() == {}
            await execute(sale, [broken.replace("CREATE", "CREATE OR REPLACE").replace("(1 / 0)::text", "'voided'")])
            await sale.until_drained()
        assert await sale.dead() == {}


@pytest.mark.parametrize("target", ["validation", "commitTarget"])
async def test_claims_that_always_fail_alike_have_an_end_after_the_longest_outage(
    sale: Sale, webhook: WebhookServer, target: str
) -> None:
    """Nothing tells bad claims at the end of a sale from a target that is down, but the time. None is voided."""
    webhook.behaviour = lambda _: status(422)
    urls = {"validation": validation(webhook.single), "commitTarget": {"webhook": {"url": webhook.single}}}
    await sale.configure(**{target: urls[target]}, maxRetries=1)
    await sale.claim(5)
    impatient = replace(TUNING, breaker=replace(TUNING.breaker, blame_seconds=0.2))
    name = "validator" if target == "validation" else "ledger"
    async with sale.worker("one", impatient):
        await sale.until_health(name, "down", "5 different claims failed alike, and none succeeded: answers 422")
        await sale.until_drained()
    dead = await sale.dead()
    assert [row["reason"][-30:] for row in dead.values()] == ["answers 422 (after 2 failures)"] * 5
    assert await sale.inventory() == (995, 5, 0)
