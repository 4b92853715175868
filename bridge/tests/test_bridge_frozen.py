"""A ledger that neither answers nor closes the connection."""

import asyncio
import os
import signal

import pytest
from intake_bridge.adapters.database import Database
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import Blame, Outcome, Result
from intake_bridge.ports import DependencyDownError
from sale import POOL, Sale

from tests.patience import PATIENCE_SECONDS


class OpenGate:
    """Lets every call through, and keeps the outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def may_start(self, message: Message) -> bool:
        return True

    def may_continue(self, message: Message) -> bool:
        return True

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:
        self.outcomes.append(outcome)


async def test_a_frozen_ledger_is_given_up_in_time(sale: Sale) -> None:
    (claim,) = await sale.claim()
    database = Database(POOL, sale.intake_source, "test")
    await database.open()
    (message,) = await database.read_batch("test", 1)
    await database.close()

    async def uri() -> str:
        return sale.ledger_uri.replace("postgres@", "ledger_writer@")

    ledger, gate = PostgresLedger("finalize_transaction", uri, "test", call_seconds=3), OpenGate()
    await ledger.check()
    (backend,) = await (
        await sale.ledger.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'test'")
    ).fetchall()
    os.kill(backend["pid"], signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            outcomes = await ledger.commit([message], gate)
    finally:
        os.kill(backend["pid"], signal.SIGCONT)
    assert [(each.result, each.blame, each.counted) for each in outcomes.outcomes.values()] == [
        (Result.RETRY, Blame.SUSPECT, False)
    ]
    await ledger.check()
    assert {each.result for each in (await ledger.commit([message], gate)).outcomes.values()} == {Result.COMMITTED}
    await ledger.close()
    assert set(await sale.sales()) == {claim.claim_id}


async def test_a_ledger_that_accepts_the_connection_and_never_answers_is_given_up_in_time(sale: Sale) -> None:
    """As a pooler does that has no connection to give."""

    async def uri() -> str:
        return sale.ledger_uri.replace("postgres@", "ledger_writer@")

    ledger = PostgresLedger("finalize_transaction", uri, "test", call_seconds=3)
    async with sale.ledger.transaction():
        await sale.ledger.execute("LOCK TABLE pg_proc IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(PATIENCE_SECONDS):
            # New sessions use a copy of the catalogue; now and then there is none, and they wait for the lock, too.
            with pytest.raises(DependencyDownError, match=r"no answer in time|connection timeout expired"):
                await ledger.check()
    await ledger.check()
    await ledger.close()
