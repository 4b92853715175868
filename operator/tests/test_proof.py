"""The proof of a drain, on a real DB1 and a real ledger."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlparse

import given
import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.ledger.proof import REST, WHILE_BAD, Proofs
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from planning import make_proof

from tests.postgres import INTAKE_SQL, PostgresServer, install_ledger

ACKNOWLEDGE = """
SELECT intake.acknowledge(%(pool)s, array_agg(b.msg_id), array_agg(b.read_ct), array_agg('committed'::text))
FROM intake.read_batch(%(pool)s, 'w', 10) b
"""
COMMIT = "SELECT finalize_transaction(%s)"


class Drained:
    """A sealed DB1 with one committed claim, a ledger without it, and a clock."""

    def __init__(self, event: Event, databases: Databases, host: str, ledger_uri: str) -> None:
        self.event = event
        self.ledger_uri = ledger_uri
        self.seconds = 0.0
        self.costs = 0.0
        self.woken: list[tuple[str, str]] = []
        self.reads = LongReads(self.woken.append)
        self.proofs = Proofs(databases, self.clock, self.reads)
        self._engines = databases
        self._host = host

    def clock(self) -> float:
        """Seconds; each call lets as many pass as the test says."""
        self.seconds += self.costs
        return self.seconds

    async def prove(self, uri: str | None = None) -> tuple[Proof | None, str]:
        """What the pass has that the end of a proof wakes; this pass, if none was made."""
        before = len(self.woken)
        found = await self.look(uri)
        await given.ended(self.reads)
        return found if len(self.woken) == before else await self.look(uri)

    async def look(self, uri: str | None = None) -> tuple[Proof | None, str]:
        """What one pass has."""
        database = await self._engines.observe(self.event.uid, self.event.pool, self._host, "")
        ledger = Address(self.ledger_uri if uri is None else uri, "tickets")
        return await self.proofs.prove(self.event, Observed(database=database), ledger)

    async def agrees(self) -> bool:
        proof, _ = await self.prove()
        return proof is not None and proof.ledger is LedgerAnswer.AGREES and not proof.failures

    def mend(self) -> None:
        """The ledger gets the claim that it lacks."""
        with psycopg.connect(f"host={self._host} dbname=intake user=postgres") as db1:
            (message,) = db1.execute("SELECT message::text FROM intake.intents").fetchone() or ("",)
        with psycopg.connect(self.ledger_uri) as books:
            books.execute(COMMIT, (message,))


@pytest.fixture
async def drained(server: PostgresServer, event: Callable[..., Event]) -> AsyncIterator[Drained]:
    uri, ledger_uri = server.create_database("intake"), server.create_database("ledger")
    install_ledger(ledger_uri)
    host, databases, made = unquote(urlparse(uri).query.removeprefix("host=")), Databases(load(INTAKE_SQL)), event()
    now = datetime.now(UTC)
    window = {"opensAt": now - timedelta(hours=1), "closesAt": now + timedelta(hours=1)}
    await databases.observe(made.uid, made.pool, host, "")
    await databases.migrate(made.uid)
    limits = {name: moment.isoformat() for name, moment in window.items()}
    await databases.configure(made.uid, made.pool, {"inventorySize": 10, "batchSize": 5} | limits)
    await databases.seed(made.uid, made.pool)
    with psycopg.connect(uri, autocommit=True) as db1:
        db1.execute("SELECT intake.claim_resource(%s, 'ann')", (made.pool,))
        db1.execute(ACKNOWLEDGE, {"pool": made.pool})
    await databases.seal(made.uid, made.pool, "test")
    yield Drained(made, databases, host, ledger_uri)
    await databases.close_all()
    for database in ("intake", "ledger"):
        server.drop_database(database)


async def test_a_proof_that_does_not_hold_is_made_again_after_a_while(drained: Drained) -> None:
    proof, error = await drained.prove()
    assert proof is not None
    assert (proof.account.claims, proof.account.ended.committed, error) == (1, 1, "")
    assert proof.failures == (
        "the ledger has 0 committed, 0 voided; the database 1 and 0; the ledger has sold 0 slots, the database 1;"
        " the claims are not the same ones",
    )
    drained.mend()
    drained.seconds = WHILE_BAD.total_seconds() - 0.1
    assert not await drained.agrees()
    drained.seconds = WHILE_BAD.total_seconds()
    assert await drained.agrees()


async def test_a_proof_that_takes_long_rests_longer(drained: Drained) -> None:
    drained.costs = 2.0  # between two looks at the clock
    assert not await drained.agrees()
    drained.mend()
    # The pass that the end of the proof woke has looked at the clock once.
    drained.costs, ended = 0.0, drained.seconds - 2.0
    drained.seconds = ended + REST * 2.0 - 0.1
    assert not await drained.agrees()
    drained.seconds = ended + REST * 2.0
    assert await drained.agrees()


async def test_another_ledger_is_asked_at_once(drained: Drained) -> None:
    drained.mend()
    proof, error = await drained.prove("host=/nowhere dbname=ledger")
    assert proof is None
    assert "/nowhere" in error
    assert await drained.agrees()


async def test_an_ambiguous_ledger_proof_proves_nothing(drained: Drained) -> None:
    drained.mend()
    with psycopg.connect(drained.ledger_uri) as books:
        books.execute("CREATE FUNCTION ledger_proof(pool_id varchar) RETURNS int LANGUAGE sql RETURN 1")
    proof, error = await drained.prove()
    assert proof is None
    assert "2 functions named ledger_proof" in error


async def test_a_uri_that_cannot_be_parsed_is_not_shown(drained: Drained) -> None:
    proof, error = await drained.prove("postgresql://ledger:hunter2@%zz/db")
    assert proof is None
    assert "cannot be parsed" in error
    assert "hunter2" not in error
    assert "%zz" not in error


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, ()),
        ({"claims": 14, "expired": 3}, ()),
        ({"expired": 3}, ("11 claims but 8 committed, 2 voided, 1 released and 3 expired",)),
        ({"claims": 14}, ("14 claims but 8 committed, 2 voided, 1 released and 0 expired",)),
        ({"held": 2}, ("2 claims are still held, 0 queued and 0 are dead letters",)),
        ({"queued": 1}, ("0 claims are still held, 1 queued and 0 are dead letters",)),
    ],
)
def test_every_claim_has_ended_and_a_hold_that_expired_is_an_end(counts: dict[str, int], told: tuple[str, ...]) -> None:
    assert make_proof(**counts).failures == told
