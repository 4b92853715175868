"""What a worker reports of its last minute: failures that open no breaker, and errors of its own code."""

import json

import pytest
from intake_bridge.batch import LeasedBatch
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.last_minute import LastMinute
from intake_bridge.domain.outcomes import DECIDED_BY_BRIDGE, Outcome, Result
from intake_bridge.pipeline import Pipeline
from intake_bridge.ports import Dependencies
from sale import Row, Sale, Templates, validation
from webhook_server import WebhookServer, status

COMMITTED = table.LEDGER_WORDS["committed"]
# Another SQLSTATE for each claim: no two fail alike, so nothing is suspected, and every answer is the claim's.
REFUSING = """
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'no more of user %', claim ->> 'user_id'
    USING ERRCODE = format('22%s', 100 + (hashtext(claim ->> 'claim_id') & 511));
END $$;
"""


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def counts(lately: LastMinute) -> tuple[int, int]:
    """Tries and failures."""
    return lately.tried, lately.failed


def test_a_failure_counts_for_a_minute() -> None:
    clock = Clock()
    lately = LastMinute(clock)
    lately.record(10, 3, "boom")
    clock.now += 30
    lately.record(5, 0)
    assert (counts(lately), lately.error) == ((15, 3), "boom")
    clock.now += 30.1
    assert counts(lately) == (5, 0)
    clock.now += 30
    assert counts(lately) == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "counted", "error"),
    [
        (COMMITTED, (1, 0), ""),
        (table.DECISIONS["declined"], (1, 0), ""),
        (table.of_status(422, None, table.DECISIONS, table.VALIDATE_STATUS), (1, 0), ""),
        (table.VOID_WORDS["committed"], (1, 0), ""),
        (table.of_sqlstate("23514", "check failed"), (1, 1), "check failed (SQLSTATE 23514)"),
        (table.of_status(500, None, table.COMMIT_WORDS, table.COMMIT_STATUS), (1, 1), "answers 500"),
        (table.COMMIT_WORDS["conflict"], (1, 1), "conflict"),
        (table.COMMIT_WORDS["voided"], (1, 1), "refused"),
        (table.of_status(429, None, table.COMMIT_WORDS, table.COMMIT_STATUS), (0, 0), ""),
        (Outcome(Result.DEAD, kind=DECIDED_BY_BRIDGE), (0, 0), ""),
    ],
)
def test_what_counts_as_a_failure(outcome: Outcome, counted: tuple[int, int], error: str) -> None:
    lately = LastMinute(Clock())
    lately.record_answers([outcome])
    assert (counts(lately), lately.error) == (counted, error)


def test_good_answers_beside_bad_ones_count_as_tries() -> None:
    lately = LastMinute(Clock())
    lately.record_answers([COMMITTED, table.of_sqlstate("23514", "a"), COMMITTED, table.of_sqlstate("23505", "b")])
    assert (counts(lately), lately.error) == ((4, 2), "b (SQLSTATE 23505)")


async def _reported(sale: Sale, what: str) -> Row:
    """What the worker says under this name, as soon as something has failed."""
    found: Row = {}

    async def told() -> bool:
        found.update((await sale.health()).get(what) or {})
        return bool(found.get("failed"))

    await sale.until(told, f"{what} is reported")
    assert "user-" not in json.dumps(await sale.health())
    return found


async def test_a_ledger_that_refuses_every_claim_for_another_reason_is_reported(templates: Templates) -> None:
    async with templates.sale_with_ledger(REFUSING) as sale:
        await sale.claim(20)
        async with sale.worker(INTAKE_LEDGER_URI=sale.ledger_uri):
            commits = await _reported(sale, "commits")
            assert commits["failed"] == commits["tried"] >= 1
            assert "no more of user" in commits["error"]
            assert (await sale.health())["ledger"]["state"] == "ok"
            assert "validations" not in await sale.health()


async def test_claims_that_were_committed_are_tries_without_an_error(sale: Sale) -> None:
    await sale.claim(20)
    async with sale.worker():

        async def told() -> bool:
            return (await sale.health()).get("commits") == {"tried": 20, "failed": 0}

        await sale.until(told, "20 commits are reported")


async def test_a_validator_that_fails_for_a_claim_is_reported(sale: Sale, webhook: WebhookServer) -> None:
    webhook.behaviour = lambda _: status(500)
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(1)
    async with sale.worker():
        validations = await _reported(sale, "validations")
        assert validations["failed"] == validations["tried"]
        assert "answers 500" in validations["error"]


async def test_what_failed_before_a_dependency_was_down_is_not_reported_after_it(
    sale: Sale, webhook: WebhookServer
) -> None:
    webhook.behaviour = lambda _: status(500)
    await sale.configure(validation=validation(webhook.single))
    await sale.claim(30)
    async with sale.worker():
        await sale.until_health("validator", "down")
        assert "validations" not in await sale.health()


async def test_an_error_of_our_own_code_is_reported_with_its_place_and_without_its_text(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Pipeline, batch: LeasedBatch, dependencies: Dependencies) -> None:
        raise KeyError(next(iter(batch.open.values())).user_id)

    monkeypatch.setattr(Pipeline, "process", broken)
    await sale.claim(1)
    async with sale.worker():
        defects = await _reported(sale, "defects")
    assert defects["failed"] >= 1
    assert defects["error"].startswith("KeyError in batch_runner.py, line ")


async def test_a_db1_that_refuses_the_reads_is_reported(sale: Sale) -> None:
    await sale.intake.execute("REVOKE EXECUTE ON FUNCTION intake.read_batch FROM bridge")
    async with sale.worker():

        async def refused() -> bool:
            return "permission denied for function read_batch" in ((await sale.health()).get("refusal") or "")

        await sale.until(refused, "the refusal is reported")
    await sale.intake.execute("GRANT EXECUTE ON FUNCTION intake.read_batch TO bridge")
