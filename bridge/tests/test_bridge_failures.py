"""Failures of validators, stale workers and long calls: what is counted, what is reported, and what recovers."""

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from intake_bridge.domain.concurrency_limit import FIRST
from sale import POOL, TUNING, Sale, validation
from webhook_server import Answer, Behaviour, Item, WebhookServer, approve, status


async def test_a_failure_is_retried_and_counted_until_it_succeeds(sale: Sale, webhook: WebhookServer) -> None:
    claims = await sale.claim(10)
    sick = str(claims[3].claim_id)
    webhook.behaviour = lambda item: (
        status(500) if item["claim_id"] == sick and webhook.asked()[sick] < 3 else approve(item)
    )
    await sale.configure(validation=validation(webhook.single))
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert webhook.asked()[sick] == 3
    (archived,) = await sale.rows("SELECT message FROM pgmq.a_intake_queue WHERE message ->> 'claim_id' = %s", sick)
    assert archived["message"]["failures"] == 2
    assert archived["message"]["last_error"] == "validate: answers 500"
    assert len(await sale.sales()) == 10


async def test_i2_after_max_retries_a_claim_is_a_dead_letter_that_holds_its_slot(
    sale: Sale, webhook: WebhookServer
) -> None:
    claims = await sale.claim(10)
    sick = str(claims[3].claim_id)
    webhook.behaviour = lambda item: status(500) if item["claim_id"] == sick else approve(item)
    await sale.configure(validation=validation(webhook.single), maxRetries=2)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert webhook.asked()[sick] == 3  # one try and two retries
    (dead,) = (await sale.dead()).values()
    assert (str(dead["claim_id"]), dead["reason"]) == (sick, "validate: answers 500 (after 3 failures)")
    assert await sale.inventory() == (990, 1, 9)


def _hang() -> asyncio.Future[Answer]:
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("kind", ["500", "timeout", "refused", "401", "html", "redirect"])
async def test_a_validator_that_is_down_costs_no_claim_anything(sale: Sale, webhook: WebhookServer, kind: str) -> None:
    down: dict[str, Behaviour] = {
        "500": lambda _: status(500),
        "timeout": lambda _: _hang(),
        "refused": approve,
        "401": lambda _: status(401),
        "html": lambda _: status(200, {"hello": "world"}),
        "redirect": lambda _: status(302, location=webhook.single),
    }
    errors = {
        "500": "500",
        "timeout": "no answer",
        "refused": "cannot be reached",
        "401": "401",
        "html": "200",
        "redirect": "302",
    }
    webhook.behaviour = down[kind]
    url = "http://127.0.0.1:9/single" if kind == "refused" else webhook.single  # the discard port: no program listens
    await sale.configure(validation=validation(url, seconds=0.5 if kind == "timeout" else 60), maxRetries=0)
    claims = await sale.claim(40)
    async with sale.worker() as worker:
        await sale.until_health("validator", "down", errors[kind])
        await _until_probed(sale, 40 + 3)
        calls = len(webhook.calls)
        probes = sum(row["read_ct"] for row in (await sale.queue()).values()) - 40
        # One call a probe. Before: as many as run side by side, and those that start until the fifth has failed.
        assert calls <= FIRST + 4 + probes
        read, batches = (
            worker.metrics.registry.get_sample_value(f"intake_bridge_batch_messages_{what}") or 0
            for what in ("sum", "count")
        )
        assert read == 40 + (batches - 1)
        assert await sale.sales() == {}
        queue = await sale.queue()
        assert len(queue) == len(claims)
        assert {row["message"]["failures"] for row in queue.values()} == {0}
        assert (await sale.health())["ledger"]["state"] == "ok"
        webhook.behaviour = approve
        await sale.configure(validation=validation(webhook.single))
        await sale.until_drained()
        await sale.until_health("validator", "ok")
    await sale.check()
    assert len(await sale.sales()) == 40


@pytest.mark.parametrize("target", ["validation", "commitTarget"])
async def test_failures_of_the_only_claim_do_not_count_for_an_outage_and_then_end_it(
    sale: Sale, webhook: WebhookServer, target: str
) -> None:
    webhook.behaviour = lambda _: status(500)
    urls = {"validation": validation(webhook.single), "commitTarget": {"webhook": {"url": webhook.single}}}
    await sale.configure(**{target: urls[target]}, maxRetries=5)
    (claim,) = await sale.claim()
    async with sale.worker():
        await _until_probed(sale, 12)
        assert {row["message"]["failures"] for row in (await sale.queue()).values()} == {4}
    # Not an hour later but at once.
    impatient = replace(TUNING, breaker=replace(TUNING.breaker, blame_seconds=0.0))
    async with sale.worker("two", impatient):
        await sale.until_drained()
    (dead,) = (await sale.dead()).values()
    assert dead["claim_id"] == claim.claim_id
    assert "answers 500 (after 6 failures)" in dead["reason"]
    assert await sale.inventory() == (999, 1, 0)
    assert await sale.rows("SELECT * FROM intake.reconcile(%s)", POOL) == []


async def _until_probed(sale: Sale, reads: int) -> None:
    async def probed() -> bool:
        return sum(int(row["read_ct"]) for row in (await sale.queue()).values()) >= reads

    await sale.until(probed, "the breaker probes")


async def test_a_retry_after_of_the_validator_is_obeyed_and_nothing_is_counted(
    sale: Sale, webhook: WebhookServer
) -> None:
    await sale.claim(5)
    webhook.behaviour = lambda item: status(429, retry_after=1) if len(webhook.calls) <= 5 else approve(item)
    await sale.configure(validation=validation(webhook.single), maxRetries=0)
    async with sale.worker():
        await sale.until_drained()
    assert webhook.moments[5] - webhook.moments[4] >= 1
    assert len(webhook.calls) == 10
    await sale.check()


async def test_a_batch_webhook_that_leaves_claims_out_gets_them_again(sale: Sale, webhook: WebhookServer) -> None:
    claims = await sale.claim(6)
    shy = str(claims[2].claim_id)
    webhook.behaviour = lambda item: {} if item["claim_id"] == shy and webhook.asked()[shy] < 2 else approve(item)
    await sale.configure(validation=validation(webhook.batch, batch=True))
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert webhook.asked()[shy] == 2


async def test_calls_under_way_are_bounded_until_answers_come(sale: Sale, webhook: WebhookServer) -> None:
    release = asyncio.Event()

    async def slow(item: Item) -> Answer:
        await release.wait()
        return approve(item)

    webhook.behaviour = slow
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(60)
    async with sale.worker():
        await webhook.until_calls(FIRST)
        assert webhook.most_open == FIRST
        release.set()
        await sale.until_drained()
    await sale.check()


async def test_i9_a_stale_worker_changes_nothing(sale: Sale, webhook: WebhookServer) -> None:
    release = asyncio.Event()

    async def slow(item: Item) -> Answer:
        await release.wait()
        return approve(item)

    webhook.behaviour = slow
    await sale.configure(validation=validation(webhook.single))
    (claim,) = await sale.claim()
    async with sale.worker() as worker:
        await webhook.until_calls(1)
        # Another worker reads it: the lease is (msg_id, read_ct).
        await sale.intake.execute(
            "UPDATE pgmq.q_intake_queue SET read_ct = read_ct + 1, vt = now() + interval '1 hour'"
        )
        (before,) = await sale.rows("SELECT * FROM pgmq.q_intake_queue")
        release.set()

        async def noticed() -> bool:
            return worker.metrics.registry.get_sample_value("intake_bridge_messages_total", {"end": "stale"}) == 1

        await sale.until(noticed, "the worker notices that it is stale")
        assert await sale.rows("SELECT * FROM pgmq.q_intake_queue") == [before]
        assert await sale.sales() == {}
        await sale.intake.execute("UPDATE pgmq.q_intake_queue SET vt = now()")
        await sale.until_drained()
    await sale.check()
    assert set(await sale.sales()) == {claim.claim_id}


async def test_a_long_call_keeps_its_lease(sale: Sale, webhook: WebhookServer) -> None:
    """The visibility timeout is shorter than the validator takes, and still no other worker gets the message."""
    seconds = 8  # a worker that gets no turn for three of them loses its lease, as it must

    async def until_the_first_lease_is_over(item: Item) -> Answer:
        first = (await sale.rows("SELECT max(last_read_at) AS at FROM pgmq.q_intake_queue"))[0]["at"]

        async def over() -> bool:
            (row,) = await sale.rows(
                "SELECT clock_timestamp() - %s > make_interval(secs => %s) AS over", first, seconds
            )
            return bool(row["over"])

        await sale.until(over, "the time of the first lease has passed")
        return approve(item)

    webhook.behaviour = until_the_first_lease_is_over
    await sale.configure(validation=validation(webhook.single), visibilityTimeoutSeconds=seconds)
    await sale.claim(3)
    async with sale.worker("one"), sale.worker("two"):
        await sale.until_drained()
    await sale.check()
    assert set(webhook.asked().values()) == {1}


# What JSON can say and no text of PostgreSQL can hold.
UNWRITABLE = "no \0 and no \ud800"


async def test_a_reason_that_postgres_cannot_hold_ends_no_batch(sale: Sale, webhook: WebhookServer) -> None:
    claims = await sale.claim(10)
    sick = str(claims[3].claim_id)
    webhook.behaviour = lambda item: status(500, {"reason": UNWRITABLE}) if item["claim_id"] == sick else approve(item)
    await sale.configure(validation=validation(webhook.single), maxRetries=1)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    (dead,) = (await sale.dead()).values()
    assert (str(dead["claim_id"]), dead["reason"]) == (
        sick,
        "validate: answers 500: no \ufffd and no ? (after 2 failures)",
    )


async def test_a_reason_that_postgres_cannot_hold_ends_no_heartbeat(sale: Sale, webhook: WebhookServer) -> None:
    webhook.behaviour = lambda _: status(401, {"reason": f"{UNWRITABLE}: Bearer 5ecret"})
    await sale.configure(validation=validation(webhook.single))
    await sale.claim()
    async with sale.worker():
        await sale.until_health("validator", "down", "answers 401: no \ufffd and no ?: Bearer ***")


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=503, headers={"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}),
        web.Response(status=500, body=b"[" * 100_000),
    ],
    ids=["date", "depth"],
)
async def test_a_number_too_long_for_python_fails_its_claim_alone(
    sale: Sale, webhook: WebhookServer, answer: web.Response
) -> None:
    claims = await sale.claim(10)
    sick = str(claims[3].claim_id)
    webhook.behaviour = lambda item: (
        web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        if item["claim_id"] == sick
        else approve(item)
    )
    await sale.configure(validation=validation(webhook.single), maxRetries=1)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    assert {str(claim_id) for claim_id in await sale.dead()} == {sick}


async def test_a_validator_that_asks_to_wait_is_not_called_for_the_rest_of_the_batch(
    sale: Sale, webhook: WebhookServer
) -> None:
    await sale.claim(100)
    webhook.behaviour = lambda item: status(429, retry_after=1) if len(webhook.calls) <= FIRST else approve(item)
    await sale.configure(validation=validation(webhook.single), batchSize=50, maxRetries=0)
    async with sale.worker():
        await sale.until_drained()
    assert webhook.moments[FIRST] - webhook.moments[FIRST - 1] >= 1
    await sale.check()
