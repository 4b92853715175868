"""A sale: a pool, its ledger, and workers. Every integration test starts from it."""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, Self
from uuid import UUID

from intake_bridge.domain.backoff import Backoff
from intake_bridge.domain.breaker import BreakerTuning
from intake_bridge.domain.throttle import ThrottleTuning
from intake_bridge.ports import Tracing
from intake_bridge.settings import Secrets, Settings
from intake_bridge.tuning import Tuning
from intake_bridge.worker import Worker
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, install_intake, install_ledger

POOL = "drop"
TUNING = Tuning(
    configuration_seconds=0.03,
    heartbeat_seconds=0.03,
    housekeeping_seconds=0.1,
    first_idle_seconds=0.005,
    last_idle_seconds=0.02,
    releases_seconds=0.02,
    finish_seconds=5.0,
    backoff=Backoff(base_seconds=0.01, cap_seconds=0.05),
    breaker=BreakerTuning(first_probe_seconds=0.05, last_probe_seconds=0.2),
    throttle=ThrottleTuning(period_seconds=0.05),
)

# What a claim has beside its slots.
KEPT = ("payload", "validation", "receipt")

_CLAIM: LiteralString = """
SELECT u.user_id, c.claim_id, min(c.outcome) AS outcome, array_agg(c.slot_no ORDER BY c.slot_no) AS slots
FROM unnest(%s::text[]) WITH ORDINALITY AS u (user_id, n),
    intake.claim_resources(%s, u.user_id, %s, 'r ' || u.user_id, %s) AS c
GROUP BY u.n, u.user_id, c.claim_id ORDER BY u.n
"""

type Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer that a buyer got."""

    claim_id: UUID
    user_id: str
    slot_nos: tuple[int, ...]


@dataclass
class Sale:
    """A pool in DB1 and in the ledger, with superuser connections to set up and to look."""

    intake_uri: str
    ledger_uri: str
    intake: AsyncConnection[Row]
    ledger: AsyncConnection[Row]
    stack: AsyncExitStack
    config: dict[str, Any] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    users: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    patience: float = PATIENCE_SECONDS
    pool: str = POOL

    @classmethod
    async def connect(cls, intake_uri: str, ledger_uri: str, pool: str = POOL) -> Self:
        """A sale in databases that exist."""
        stack = AsyncExitStack()
        intake = await AsyncConnection.connect(intake_uri, autocommit=True, row_factory=dict_row)
        stack.push_async_callback(intake.close)
        ledger = await AsyncConnection.connect(ledger_uri, autocommit=True, row_factory=dict_row)
        stack.push_async_callback(ledger.close)
        return cls(intake_uri, ledger_uri, intake, ledger, stack, pool=pool)

    async def reconnected(self) -> Self:
        """The same sale after its server was killed, with the claims so far."""
        again = await self.connect(self.intake_uri, self.ledger_uri, self.pool)
        return replace(again, config=self.config, claims=self.claims, users=self.users)

    async def configure(self, **changes: Any) -> None:
        """Change the pool's configuration, as the operator does."""
        self.config |= changes
        await self.intake.execute("SELECT intake.configure(%s, %s)", (self.pool, Jsonb(self.config)))

    async def claim(self, count: int = 1, slots: int = 1, payload: object = None) -> list[Claim]:
        """Buyers who get so many slots each, in one claim."""
        cursor = await self.intake.execute(
            _CLAIM,
            (
                [f"user-{next(self.users)}" for _ in range(count)],
                self.pool,
                slots,
                None if payload is None else Jsonb(payload),
            ),
        )
        rows = await cursor.fetchall()
        assert {(row["outcome"], len(row["slots"])) for row in rows} == {("claimed", slots)}
        made = [Claim(row["claim_id"], row["user_id"], tuple(row["slots"])) for row in rows]
        self.claims += made
        return made

    async def release(self, claim: Claim) -> str:
        """Release a claim; returns the answer."""
        (row,) = await self.rows(
            "SELECT intake.release_claim(%s, %s, 'changed my mind') AS answer", self.pool, claim.claim_id
        )
        return str(row["answer"])

    async def release_leased(self, claims: list[Claim]) -> None:
        """Have a bridge lease all messages, release some of them, and make the others due again."""
        await self.rows("SELECT FROM intake.read_batch(%s, 'gone', 1000)", self.pool)
        assert {await self.release(claim) for claim in claims} == {"releasing"}
        await self.intake.execute("UPDATE pgmq.q_intake_queue SET vt = clock_timestamp()")

    async def inventory(self) -> tuple[int, int, int]:
        """Slots that are available, reserved and consumed."""
        counts = (await self.status())["inventory"]
        return counts["available"], counts["reserved"], counts["consumed"]

    async def intake_source(self) -> str:
        """The bridge's URI of DB1, as a source."""
        return self.environment()["INTAKE_DATABASE_URI"]

    def environment(self, **more: str) -> dict[str, str]:
        """The three variables."""
        return {
            "INTAKE_DATABASE_URI": self.intake_uri.replace("postgres@", "bridge@"),
            "INTAKE_POOL": self.pool,
            "INTAKE_LEDGER_URI": self.ledger_uri.replace("postgres@", "ledger_writer@"),
            **more,
        }

    @asynccontextmanager
    async def worker(
        self, name: str = "one", tuning: Tuning = TUNING, tracing: Tracing | None = None, **environment: str
    ) -> AsyncIterator[Worker]:
        """A worker inside this process; stopped as SIGTERM stops it."""
        settings = Settings(pool=self.pool, worker=name, http_port=0)
        worker = Worker(settings, Secrets(self.environment(**environment)), tuning, tracing)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await task

    @asynccontextmanager
    async def process(
        self, module: str = "intake_bridge", **environment: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A worker as a process, as the image starts it; or another module."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            env={"PATH": os.environ["PATH"], "INTAKE_HTTP_PORT": "0"} | self.environment(**environment),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def rows(self, query: LiteralString, *parameters: Any) -> list[Row]:
        """Ask DB1."""
        return await (await self.intake.execute(query, parameters)).fetchall()

    async def sales(self) -> dict[UUID, Row]:
        """The ledger."""
        query = (
            "SELECT c.*, ARRAY(SELECT s.slot_no FROM ledger.sold_slots s WHERE s.claim_id = c.claim_id ORDER BY 1)"
            " AS slot_nos FROM ledger.claims c WHERE c.pool_id = %s"
        )
        cursor = await self.ledger.execute(query, (self.pool,))
        return {row["claim_id"]: row for row in await cursor.fetchall()}

    async def queue(self) -> dict[UUID, Row]:
        """What is on the queue, by claim."""
        rows = await self.rows(
            "SELECT msg_id, read_ct, vt <= clock_timestamp() AS visible, message FROM pgmq.q_intake_queue "
            "WHERE message ->> 'pool_id' = %s",
            self.pool,
        )
        return {UUID(row["message"]["claim_id"]): row for row in rows}

    async def kept(self) -> dict[UUID, Row]:
        """What DB1 keeps of the claims that have ended, by claim."""
        rows = await self.rows(
            "SELECT message ->> 'claim_id' AS claim_id, message ->> 'outcome' AS outcome,"
            " nullif(message -> 'payload', 'null') AS payload, message -> 'validation' AS validation,"
            " message -> 'receipt' AS receipt FROM pgmq.a_intake_queue WHERE message ->> 'pool_id' = %s",
            self.pool,
        )
        return {UUID(row["claim_id"]): row for row in rows}

    async def dead(self) -> dict[UUID, Row]:
        """The dead letters, by claim."""
        rows = await self.rows("SELECT * FROM intake.dead_letters(%s, 1000)", self.pool)
        return {row["claim_id"]: row for row in rows}

    async def status(self) -> Row:
        """engine_status."""
        (row,) = await self.rows("SELECT intake.engine_status(%s) AS status", self.pool)
        status: Row = row["status"]
        return status

    async def health(self) -> Row:
        """What the only worker reports about its dependencies."""
        workers = (await self.status())["workers"]
        health: Row = workers[0]["health"] if workers else {}
        return health

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for it."""
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    if await condition():
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never happened: {what}; {await self.status()}") from None

    async def until_drained(self) -> None:
        """Wait until the queue is empty."""

        async def empty() -> bool:
            return not await self.queue()

        await self.until(empty, "the queue is empty")

    async def until_health(self, dependency: str, state: str, containing: str = "") -> None:
        """Wait until the worker reports so about a dependency."""

        async def reported() -> bool:
            health = (await self.health()).get(dependency, {})
            return health.get("state") == state and containing in health.get("error", "")

        await self.until(reported, f"{dependency} is {state} with {containing!r}")

    async def check(self) -> None:
        """I1 to I4, I6, I7: by the product's own queries in both databases, and by what the buyers were answered.

        And what was added on the way: the ledger has the validation that DB1 has, and DB1 the ledger's receipts.
        """
        assert await self.rows("SELECT * FROM intake.reconcile(%s)", self.pool) == []
        (intake,) = await self.rows("SELECT * FROM intake.proof(%s)", self.pool)
        ledger = await (await self.ledger.execute("SELECT * FROM ledger_proof(%s)", (self.pool,))).fetchone()
        assert ledger is not None
        assert intake["queued"] == 0
        ended = intake["committed"] + intake["voided"] + intake["released"]
        assert intake["claims"] == len(self.claims) == ended + intake["dead"]
        for word in ("committed", "voided", "slots", "digest"):
            assert intake[word] == ledger[word], word
        sales = {key: row for key, row in (await self.sales()).items() if row["state"] == "committed"}
        claimed = {each.claim_id: each for each in self.claims}
        assert {key: (row["user_id"], tuple(row["slot_nos"])) for key, row in sales.items()} == {
            key: (claimed[key].user_id, claimed[key].slot_nos) for key in sales
        }
        kept = {key: row for key, row in (await self.kept()).items() if row["outcome"] == "committed"}
        assert {key: [row[word] for word in KEPT] for key, row in sales.items()} == {
            key: [row[word] for word in KEPT] for key, row in kept.items()
        }


class Templates:
    """A migrated DB1 to copy from, and one reference ledger that is emptied for each sale: copies take their time."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        install_intake(server.create_database("intake_template"))
        self._ledger = server.create_database("ledger")
        install_ledger(self._ledger)

    @asynccontextmanager
    async def sale(self, inventory: int = 1000) -> AsyncIterator[Sale]:
        """A seeded, open pool in DB1 and the reference ledger."""
        async with self._intake() as intake_uri, open_sale(intake_uri, self._ledger, inventory) as sale:
            await sale.ledger.execute("TRUNCATE ledger.claims, ledger.sold_slots")
            yield sale

    @asynccontextmanager
    async def sale_with_ledger(self, *statements: LiteralString, inventory: int = 1000) -> AsyncIterator[Sale]:
        """The same with a ledger of another shape, or none at all."""
        name = f"ledger_{next(self._numbers)}"
        uri = self._server.create_database(name)
        async with self._intake() as intake_uri, open_sale(intake_uri, uri, inventory) as sale:
            for statement in statements:
                await sale.ledger.execute(statement)
            yield sale
        self._server.drop_database(name)

    @asynccontextmanager
    async def sale_with_reference(self, inventory: int = 1000) -> AsyncIterator[Sale]:
        """The same with a reference ledger of its own, which the test may alter."""
        async with self.sale_with_ledger(inventory=inventory) as sale:
            install_ledger(sale.ledger_uri)
            yield sale

    @asynccontextmanager
    async def _intake(self) -> AsyncIterator[str]:
        name = f"intake_{next(self._numbers)}"
        yield self._server.create_database(name, "intake_template")
        self._server.drop_database(name)


@asynccontextmanager
async def open_sale(intake_uri: str, ledger_uri: str, inventory: int, pool: str = POOL) -> AsyncIterator[Sale]:
    """A seeded, open pool in databases that are migrated already."""
    sale = await Sale.connect(intake_uri, ledger_uri, pool)
    async with sale.stack:
        now = datetime.now(UTC)
        await sale.configure(
            inventorySize=inventory,
            batchSize=100,
            opensAt=(now - timedelta(hours=1)).isoformat(),
            closesAt=(now + timedelta(hours=1)).isoformat(),
            commitTarget={"postgres": {"function": "finalize_transaction"}},
        )
        await sale.intake.execute("SELECT intake.seed(%s)", (pool,))
        yield sale


def validation(url: str, *, batch: bool = False, seconds: float = 60) -> dict[str, Any]:
    """`validation` as the operator writes it."""
    return {"url": url, "timeoutSeconds": seconds, "batch": batch}


def log_lines(text: bytes) -> list[dict[str, Any]]:
    """A process's log."""
    return [json.loads(line) for line in text.decode().splitlines()]
