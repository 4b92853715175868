"""A sale with claims of every fate, a validator and a ledger that keep a record, interrupted workers, and the rules."""

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from fault_points import Action, Fault
from psycopg.types.json import Jsonb
from sale import KEPT, Claim, Sale, open_sale, validation
from webhook_server import Answer, Item, WebhookServer, status
from worker_processes import WorkerProcess, WorkerProcesses

from tests.patience import PATIENCE_SECONDS

# How each claim must end, whatever happens on the way.
ENDS = {
    "plain": {"committed"},
    "flaky": {"committed"},  # the validator fails twice on it: as often as maxRetries allows, however often it is read
    "fickle": {"committed", "voided", "released"},  # may be released by its buyer while a worker is frozen
    "declined": {"voided"},
    "recalled": {"voided"},  # released after a worker had read it
    "contested": {"dead"},  # the ledger has another sale under its id
}
ROLES = (*ENDS, "plain 2", "plain 3")
# Claims of several slots, of every fate.
SLOTS = {"plain": 3, "flaky": 2, "declined": 2, "recalled": 3, "contested": 2}
# In every payload, in the validator's data, in receipts, and in what the webhooks say of them. Never in a log.
MARKER = "Zo\u00eb Sm\u00eft, 4111 1111 1111 1111"
NUMBERS = itertools.count(1)

_PLACES: LiteralString = """
SELECT (i.message ->> 'claim_id')::uuid AS claim_id, i.place, i.message ->> 'state' AS state
FROM intake.intents i WHERE i.message ->> 'pool_id' = %s
"""
_EVERYTHING: LiteralString = """
SELECT 'queue' AS place, to_jsonb(q) AS content FROM pgmq.q_intake_queue q WHERE q.message ->> 'pool_id' = %(pool)s
UNION ALL SELECT 'dead', to_jsonb(d) FROM pgmq.q_intake_dlq d WHERE d.message ->> 'pool_id' = %(pool)s
UNION ALL SELECT 'archive', to_jsonb(a) FROM pgmq.a_intake_queue a WHERE a.message ->> 'pool_id' = %(pool)s
UNION ALL SELECT 'claimed', to_jsonb(h) FROM intake.claimed_slots h JOIN intake.engine_config c USING (pool_no)
    WHERE c.pool_id = %(pool)s
ORDER BY place, content
"""


class Kind(StrEnum):
    """The kinds of ledger."""

    RPC = "rpc"
    WEBHOOK = "webhook"


def payload_of(role: str) -> dict[str, Any]:
    """What the claimer has sent along."""
    return {"name": MARKER, "role": role, "price": 12.5}


def fate(role: str) -> str:
    """`plain 2` is one more `plain`."""
    return role.split(maxsplit=1)[0]


class InterruptedSale:
    """A sale whose workers are interrupted. Each claim has a role, which says how it must end."""

    def __init__(
        self, sale: Sale, kind: Kind, processes: WorkerProcesses, validator: WebhookServer, target: WebhookServer
    ) -> None:
        self.sale = sale
        self.kind = kind
        self._processes = processes
        self._validator = validator
        self._target = target
        self.by_role: dict[str, Claim] = {}
        self.asked_again: list[str] = []
        """Claims about which the validator was asked although its answer is in DB1."""
        self._workers: list[WorkerProcess] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self._claiming = asyncio.Lock()
        self._sold: dict[str, dict[str, Any]] = {}  # at the webhook target: an effect for each new key, its receipt
        self._violations: list[str] = []
        validator.behaviour = self._decide
        target.behaviour = self._sell

    async def set_up(self, roles: Sequence[str] = ROLES) -> None:
        """Claims of these fates, waiting for workers."""
        sale = self.sale
        commit = {"postgres": {"function": "finalize_transaction"}}
        if self.kind is Kind.WEBHOOK:
            commit = {"webhook": {"url": self._target.single}}
        await sale.configure(
            validation=validation(self._validator.single),
            commitTarget=commit,
            visibilityTimeoutSeconds=60,
            maxRetries=2,
        )
        # In a batch of their own, so that no worker has read the others.
        for some in (
            [each for each in roles if fate(each) == "recalled"],
            [each for each in roles if fate(each) != "recalled"],
        ):
            for role in some:
                (claim,) = await sale.claim(1, SLOTS.get(fate(role), 1), payload_of(role))
                self.by_role[role] = claim
                if fate(role) == "recalled":
                    await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 1)", sale.pool)
                    assert await sale.release(claim) == "releasing"
        for claim_id, row in (await sale.queue()).items() if self.kind is Kind.RPC else ():
            if self._fate(claim_id) == "contested":
                foreign = Jsonb(row["message"] | {"user_id": "another buyer"})
                await sale.ledger.execute("SELECT void_claim(%s)", (foreign,))

    async def claim(self, role: str) -> None:
        """One more claim while the workers are at work."""
        async with self._claiming:
            (self.by_role[role],) = await self.sale.claim(1, SLOTS.get(fate(role), 1), payload_of(role))

    # --- validator and ledger ---

    async def _fate_of(self, claim_id: str) -> str:
        async with self._claiming:  # the validator may be asked about a claim before it is in `by_role`
            return self._fate(UUID(claim_id))

    def _fate(self, claim_id: UUID) -> str:
        return next(fate(role) for role, claim in self.by_role.items() if claim.claim_id == claim_id)

    async def _decide(self, item: Item) -> Answer:
        await self.answering.wait()
        nth = self._validator.asked()[item["claim_id"]]
        if (await self.places())[UUID(item["claim_id"])]["state"] != "queued":
            self.asked_again.append(item["claim_id"])
        match await self._fate_of(item["claim_id"]):
            case "declined":
                return {"decision": "declined", "reason": f"under age: {MARKER}"}
            case "flaky" if nth <= 2:
                return status(500, {"reason": f"cannot pay for {MARKER}"})
        return {"decision": "approved", "data": {"payment_id": f"{item['claim_id']}-{nth}", "of": MARKER}}

    async def _sell(self, item: Item) -> Answer:
        places = await self.places()
        if (place := places[UUID(item["claim_id"])])["state"] != "committing":
            self._violations.append(f"I8: a commit is sent for a claim that is {place}")
        if await self._fate_of(item["claim_id"]) == "contested":
            return {"outcome": "conflict", "reason": f"sold to {MARKER}"}
        known = item["claim_id"] in self._sold
        receipt = self._sold.setdefault(item["claim_id"], {"order_no": len(self._sold) + 1, "for": MARKER})
        return {"outcome": "duplicate" if known else "committed", "receipt": receipt}

    async def words(self) -> dict[UUID, str]:
        """What the ledger says about our claims, without the contested one: that entry is not ours."""
        if self.kind is Kind.WEBHOOK:
            return {UUID(claim_id): "committed" for claim_id in self._sold}
        sales = await self.sale.sales()
        return {key: row["state"] for key, row in sales.items() if row["user_id"] != "another buyer"}

    # --- the workers ---

    async def worker(self, *faults: Fault, **environment: str) -> WorkerProcess:
        """A worker as a process of its own."""
        more = ({"FAULTS": ",".join(map(str, faults))} if faults else {}) | environment
        worker = await self._processes.start(
            {"PATH": os.environ["PATH"], "INTAKE_HTTP_PORT": "0", **self.sale.environment(**more)}
        )
        self._workers.append(worker)
        return worker

    async def until_fault(self, process: WorkerProcess, fault: Fault) -> None:
        """Wait until its fault has happened to it."""
        match fault.action:
            case Action.KILL:
                await within_patience(process.ended.wait())
                assert process.killed, f"ended with {process.exit_code}: {process.log.read_text()[-2000:]}"
            case Action.STOP:
                await within_patience(process.stopped.wait())
            case Action.LOSE:
                await until(lambda: process.logged(f"fault: lose {fault.position} {fault.step}") > 0)

    async def stop(self, *processes: WorkerProcess) -> None:
        """SIGTERM, and it exits 0."""
        for process in processes:
            await until(lambda process=process: process.logged("started") > 0)  # type: ignore[misc] # then it listens
            process.signal(signal.SIGTERM)
        for process in processes:
            await within_patience(process.ended.wait())
            assert process.exit_code == 0, process.log.read_text()[-2000:]
            assert not process.logged("a batch failed, its messages are given back"), process.log.read_text()[-2000:]

    async def drained(self) -> None:
        """Wait until the pool's queue is empty."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.sale.queue():  # noqa: ASYNC110 - another process empties it
                await asyncio.sleep(0.02)

    async def end_leases(self) -> None:
        """End all leases in DB1 now. By its own clock a frozen worker still has its lease."""
        await self.sale.intake.execute(
            "UPDATE pgmq.q_intake_queue SET vt = clock_timestamp() "
            "WHERE message ->> 'pool_id' = %s AND read_ct > 0 AND vt > clock_timestamp()",
            (self.sale.pool,),
        )

    async def leases_ended(self) -> None:
        """Wait until all leases have ended by themselves."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(row["visible"] for row in (await self.sale.queue()).values()):  # noqa: ASYNC110 - time passes
                await asyncio.sleep(0.05)

    async def effects(self) -> tuple[int, dict[UUID, str]]:
        """How often the webhooks were called, and what the ledger knows."""
        return len(self._validator.calls) + len(self._target.calls), await self.words()

    async def take_all(self) -> None:
        """Another worker reads all messages."""
        await self.sale.rows("SELECT FROM intake.read_releases(%s, 'other', 1000)", self.sale.pool)
        await self.sale.rows("SELECT FROM intake.read_batch(%s, 'other', 1000)", self.sale.pool)

    # --- the rules ---

    async def places(self) -> dict[UUID, dict[str, Any]]:
        """Where each claim is; it is in one place (I2), which `reconcile` checks."""
        rows = await self.sale.rows(_PLACES, self.sale.pool)
        return {row["claim_id"]: row for row in rows}

    async def everything(self) -> list[dict[str, Any]]:
        """All that a stale worker could change in DB1."""
        return await (await self.sale.intake.execute(_EVERYTHING, {"pool": self.sale.pool})).fetchall()

    async def violations(self) -> list[str]:
        """What breaks a rule (I1 to I5, I8) now, while no worker runs."""
        reconciled = await self.sale.rows("SELECT * FROM intake.reconcile(%s)", self.sale.pool)
        found = [f"{row['invariant']}: {row['detail']}" for row in reconciled] + self._violations
        places, words = await self.places(), await self.words()
        called = {UUID(item["claim_id"]) for item in self._target.calls}
        needed = "committing" if self.kind is Kind.WEBHOOK else "validated"
        for role, claim in self.by_role.items():
            place, word = places.get(claim.claim_id), words.get(claim.claim_id)
            if place is None:
                found.append(f"I2: {role} is nowhere")
                continue
            if word == "committed" and place["state"] != needed:
                found.append(f"I8: {role} is committed before it is marked: {place}")
            if place["place"] == "committed" and word != "committed":
                found.append(f"I8: {role} is acknowledged as committed, the ledger says {word}")
            if place["place"] == "voided" and (claim.claim_id in called or word == "committed"):
                found.append(f"I3: {role} is voided, and a commit was sent")
            if place["place"] == "voided" and self.kind is Kind.RPC and word != "voided":
                found.append(f"I8: {role} is acknowledged as voided, the ledger says {word}")
            if fate(role) == "declined" and (claim.claim_id in called or word == "committed"):
                found.append(f"I5: {role} is sold")
        found += [f"{MARKER!r} is in the log of a worker" for each in self._workers if _in_log(each)]
        return found + self._wrong_calls("validate", self._validator) + self._wrong_calls("commit", self._target)

    def _wrong_calls(self, step: str, server: WebhookServer) -> list[str]:
        """A webhook has one effect for each key: so each claim has one key, and each key one body."""
        found = [
            f"I5: {step} of {item['claim_id']} under the key {key}"
            for item, key in zip(server.calls, server.keys, strict=True)
            if key != f"{item['claim_id']}:{step}"
        ]
        bodies = {str(item) for item in server.calls}
        if len(bodies) != len(server.asked()):
            found.append(f"I4: {step} of a claim that was another before: {bodies}")
        return found

    async def check(self) -> None:
        """Everything has ended, each claim as it must, and no rule is broken."""
        assert await self.violations() == []
        places = await self.places()
        ends = {role: places[claim.claim_id]["place"] for role, claim in self.by_role.items()}
        wrong = {role: end for role, end in ends.items() if end not in ENDS[fate(role)]}
        assert not wrong, wrong
        (proof,) = await self.sale.rows("SELECT * FROM intake.proof(%s)", self.sale.pool)
        count = Counter(ends.values())
        assert proof["claims"] == len(self.sale.claims) == len(self.by_role) == len(places)
        assert {word: proof[word] for word in ("committed", "voided", "released", "dead")} == {
            word: count[word] for word in ("committed", "voided", "released", "dead")
        }
        words = await self.words()
        assert {key for key, word in words.items() if word == "committed"} == {
            self.by_role[role].claim_id for role, end in ends.items() if end == "committed"
        }
        assert await self._additions_in_the_ledger() == await self._additions_in_db1()
        assert MARKER not in str([await self.sale.dead(), await self.sale.status()])
        if self.kind is Kind.RPC:
            # A voided claim has no slot in the ledger.
            claimed = {
                claim.claim_id: (claim.user_id, claim.slot_nos if words.get(claim.claim_id) == "committed" else ())
                for claim in self.by_role.values()
            }
            sales = await self.sale.sales()
            assert {key: (sales[key]["user_id"], tuple(sales[key]["slot_nos"])) for key in words} == {
                key: claimed[key] for key in words
            }
            async with self.sale.ledger.transaction(force_rollback=True):
                # The ledger's entry for the contested claim is of another sale.
                await self.sale.ledger.execute("DELETE FROM ledger.claims WHERE user_id = 'another buyer'")
                cursor = await self.sale.ledger.execute("SELECT digest FROM ledger_proof(%s)", (self.sale.pool,))
                ledger = await cursor.fetchone()
            assert ledger is not None
            assert ledger["digest"] == proof["digest"]

    async def _additions_in_db1(self) -> dict[UUID, list[Any]]:
        """What DB1 keeps of each committed claim: payload, the validator's data, the ledger's receipt."""
        rows = {key: row for key, row in (await self.sale.kept()).items() if row["outcome"] == "committed"}
        for claim_id, row in rows.items():
            assert row["validation"] is not None
            assert row["receipt"] is not None
            assert row["validation"]["payment_id"].startswith(f"{claim_id}-")
            assert row["payload"]["name"] == row["validation"]["of"] == MARKER
            assert row["receipt"]["order_no"] > 0
        return {key: [row[word] for word in KEPT] for key, row in rows.items()}

    async def _additions_in_the_ledger(self) -> dict[UUID, list[Any]]:
        """The same as the ledger knows it. A webhook has one body for each claim (`_wrong_calls`)."""
        if self.kind is Kind.RPC:
            rows = {key: row for key, row in (await self.sale.sales()).items() if row["state"] == "committed"}
            return {key: [row[word] for word in KEPT] for key, row in rows.items()}
        return {
            UUID(item["claim_id"]): [item["payload"], item["validation"], self._sold[item["claim_id"]]]
            for item in self._target.calls
            if item["claim_id"] in self._sold
        }


def _in_log(worker: WorkerProcess) -> bool:
    """Whether the marker is in it, as it is or as JSON escapes it."""
    text = worker.log.read_text()
    return MARKER in text or json.dumps(MARKER)[1:-1] in text


@asynccontextmanager
async def open_interrupted_sale(
    intake_uri: str, ledger_uri: str, kind: Kind, processes: WorkerProcesses
) -> AsyncIterator[InterruptedSale]:
    """A pool of its own in databases that other tests use, too."""
    pool = f"pool-{next(NUMBERS)}"
    async with (
        WebhookServer() as validator,
        WebhookServer() as target,
        open_sale(intake_uri, ledger_uri, 200, pool) as sale,
    ):
        yield InterruptedSale(sale, kind, processes, validator, target)


async def within_patience[T](waiting: Awaitable[T]) -> T:
    """Wait; TimeoutError is not the AssertionError by which a mutant is caught."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await waiting


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process writes to its log."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
