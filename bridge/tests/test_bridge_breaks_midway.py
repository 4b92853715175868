"""A dependency that breaks in the middle of a call; and what raises suspicion, and what does not."""

import itertools

import pytest
from refusing_ledger import BREAKS, RAISING
from sale import POOL, Sale, Templates, validation
from webhook_server import Answer, Behaviour, Item, WebhookServer, approve, status

# Raises for every claim after the thirtieth, as when a column is added between two statements of one batch.
MIDWAY = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY);
CREATE TABLE wound (since int);
INSERT INTO wound VALUES (30);
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF substr(claim ->> 'user_id', 6)::int > (SELECT since FROM wound) THEN
        RAISE not_null_violation;
    END IF;
    INSERT INTO sold VALUES ((claim ->> 'claim_id')::uuid) ON CONFLICT DO NOTHING;
    RETURN 'committed';
END $$;
"""
# Quotes what it cannot take.
QUOTING = """
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE sql AS
    $$ SELECT (claim ->> 'user_id')::int::text $$;
"""


def breaking(after: int, code: int) -> Behaviour:
    """Good answers for so many calls, and then one bare status for every claim."""
    calls = itertools.count(1)
    return lambda item: approve(item) if next(calls) <= after else status(code)


@pytest.mark.parametrize("step", ["validate", "commit"])
@pytest.mark.parametrize("code", [410, 422, 409])
async def test_a_webhook_that_breaks_in_the_middle_of_a_batch_ends_no_claim(
    sale: Sale, webhook: WebhookServer, step: str, code: int
) -> None:
    webhook.behaviour = breaking(30, code)
    target = {"commitTarget": {"webhook": {"url": webhook.single}}}
    await sale.configure(maxRetries=2, **(target if step == "commit" else {"validation": validation(webhook.single)}))
    await sale.claim(100)
    async with sale.worker():
        name = "ledger" if step == "commit" else "validator"
        await sale.until_health(name, "down", f"failed alike, and none succeeded: answers {code}")
        webhook.behaviour = approve
        await sale.until_drained()
        await sale.until_health(name, "ok")
    assert await sale.dead() == {}
    assert (await sale.status())["committed"] == 100


async def test_a_ledger_that_breaks_between_two_halves_of_a_batch_makes_no_dead_letters(templates: Templates) -> None:
    async with templates.sale_with_ledger(MIDWAY) as sale:
        await sale.configure(maxRetries=2)
        await sale.claim(49)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_health("ledger", "down", "SQLSTATE 23502")
            await sale.ledger.execute("UPDATE wound SET since = 100")
            await sale.until_drained()
        assert await sale.dead() == {}
        assert (await sale.status())["committed"] == 49


async def test_claims_with_other_failures_raise_suspicion_when_one_answer_ends_every_claim(
    sale: Sale, webhook: WebhookServer
) -> None:
    webhook.behaviour = breaking(0, 422)
    await sale.configure(commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(30)
    counted = """UPDATE pgmq.q_intake_queue SET message = message || '{"failures": 1}'"""
    await sale.intake.execute(counted)
    async with sale.worker():
        await sale.until_health("ledger", "down", "failed alike")
        webhook.behaviour = approve
        await sale.until_drained()
    assert await sale.dead() == {}


async def test_a_void_without_a_call_ends_no_suspicion(templates: Templates) -> None:
    """A ledger that cannot void frees what was never validated by our word alone; it has answered nothing."""
    async with templates.sale_with_ledger(RAISING, *BREAKS) as sale:
        await sale.configure(maxRetries=1)
        claims = await sale.claim(40)
        await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 20)", POOL)
        await sale.intake.execute("UPDATE pgmq.q_intake_queue SET read_ct = 1 WHERE read_ct = 0")
        for claim in claims:
            await sale.release(claim)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_health("ledger", "down", "failed alike")
            await sale.ledger.execute("ALTER TABLE sold ALTER till DROP NOT NULL")
            await sale.until_drained()
        assert await sale.dead() == {}


async def test_no_condition_and_no_log_line_has_a_user_that_a_ledger_quotes(
    templates: Templates, caplog: pytest.LogCaptureFixture
) -> None:
    async with templates.sale_with_ledger(QUOTING) as sale:
        await sale.configure(maxRetries=0)
        await sale.claim(5)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            await sale.until_health("ledger", "down", 'invalid input syntax for type integer: "…"')
    assert "user-" not in caplog.text


async def test_no_condition_and_no_log_line_has_a_user_that_a_webhook_quotes(
    sale: Sale, webhook: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(item: Item) -> Answer:
        return status(409, {"outcome": f"key of {item['user_id']}", "reason": f"busy for {item['user_id']}"})

    webhook.behaviour = busy
    await sale.configure(maxRetries=1, commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(5)
    async with sale.worker():
        await sale.until_health("ledger", "down", "answers 409 with 'key of …': busy for …")
    assert "user-" not in caplog.text
