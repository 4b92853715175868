"""The parts of a full run of the bridge's benchmark. Inside each, all variants take turns, round by round."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from bench import bridge_http
from bench.bridge_lab import SLOW_TARGET, BridgeLab, execute, is_drained, until
from bench.figures import Measurement, Sample, busiest
from bench.parts import interleaved, say
from bench.results import Results
from bench.variants import POOL

_BATCH: Final = 500
# A second without commits at the start: processes start, connect, and are counted by each other.
_SETTLED_SECONDS: Final = 1.5
# Messages behind those that are leased; at most 10 000, what one read may take.
_ROOM: Final = 5000
_DEEPER: Final = """
INSERT INTO pgmq.q_intake_queue (vt, message)
SELECT clock_timestamp(), (SELECT q.message FROM pgmq.q_intake_queue q LIMIT 1) FROM generate_series(1, %s)
"""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    claims: int
    naive: int
    slow_claims: int
    calls: int
    concurrencies: tuple[int, ...]
    validated: int
    rate: int
    metered_seconds: int
    workers: tuple[int, ...]
    reads: int
    invisible: tuple[int, int]
    backlog: int


FULL: Final = Plan(
    rounds=3,
    claims=60_000,
    naive=400,
    slow_claims=15_000,
    calls=6000,
    concurrencies=(32, 100, 400),
    validated=20_000,
    rate=1000,
    metered_seconds=6,
    workers=(1, 2, 5),
    reads=20,
    invisible=(1000, 100_000),
    backlog=1_000_000,
)
# Checks the harness; its figures mean nothing.
QUICK: Final = Plan(
    rounds=1,
    claims=3000,
    naive=30,
    slow_claims=2000,
    calls=300,
    concurrencies=(32,),
    validated=500,
    rate=500,
    metered_seconds=2,
    workers=(2,),
    reads=5,
    invisible=(1000, 4000),
    backlog=10_000,
)

type Part = Callable[[BridgeLab, Plan, Results], None]


def drain(lab: BridgeLab, plan: Plan, results: Results) -> None:
    """From the queue to the ledger, beside what the ledger can do and what a simple loop does."""
    runs: dict[str, Callable[[], Sample]] = {
        "ledger": partial(_ledger_alone, lab, plan.claims),
        "bridge_1": partial(lab.drain, plan.claims, 1, batchSize=_BATCH),
        "naive": partial(_naive, lab, plan.naive),
    }
    runs |= {f"{name}_flush": partial(_slow_flush, lab, runs[name]) for name in ("bridge_1", "naive")}
    _take_turns(results, "drain", plan.rounds, plan.claims, runs)


def two(lab: BridgeLab, plan: Plan, results: Results) -> None:
    """One process and two, in front of a ledger that takes its time and no CPU: it is not saturated."""
    runs: dict[str, Callable[[], Sample]] = {
        f"slow_{count}": partial(lab.drain, plan.slow_claims, count, batchSize=_BATCH, **SLOW_TARGET)
        for count in (1, 2)
    }
    _take_turns(results, "two", plan.rounds, plan.slow_claims, runs)


def validation(lab: BridgeLab, plan: Plan, results: Results) -> None:
    """A validation webhook that takes 20 ms: each claim a call, or each batch."""
    with bridge_http.slow_server() as url:
        for concurrency in plan.concurrencies:
            measured = [Measurement("calls", name, concurrency) for name in ("aiohttp", "ours")]
            clients = {"aiohttp": bridge_http.alone, "ours": bridge_http.ours}
            for each in interleaved(results, measured, plan.rounds):
                each.samples.append(bridge_http.sample(clients[each.variant], url, plan.calls, concurrency))
        runs: dict[str, Callable[[], Sample]] = {
            name: partial(
                lab.drain,
                plan.validated,
                1,
                batchSize=_BATCH,
                validation={"url": url, "timeoutSeconds": 5, "batch": name == "batch"},
            )
            for name in ("single", "batch")
        }
        _take_turns(results, "validation", plan.rounds, plan.validated, runs)


def meter(lab: BridgeLab, plan: Plan, results: Results) -> None:
    """More on the queue than maxPerSecond lets through: how many come in any one second, and in all."""
    for workers in plan.workers:
        measured = {name: Measurement("meter", name, workers) for name in ("limit", "mean", "busiest")}
        results.measurements += measured.values()
        for _ in range(min(plan.rounds, 2)):
            times = _metered(lab, plan, workers)
            settled = [each for each in times if each >= times[0] + _SETTLED_SECONDS]
            found = {
                "limit": float(plan.rate),
                "mean": (len(settled) - 1) / (settled[-1] - settled[0]),
                "busiest": float(busiest(times, 1.0)),
            }
            for name, rate in found.items():
                measured[name].samples.append(Sample(rate, 0.0, 0.0, 0.0))
            say(f"meter: {workers} workers: {found}")


def read(lab: BridgeLab, plan: Plan, results: Results) -> None:
    """What a read costs with few and with many leased before it, and in front of a long queue."""
    few, many = plan.invisible
    with ExitStack() as stack:
        connections = {
            invisible: stack.enter_context(psycopg.connect(stack.enter_context(_leased(lab, invisible, many))))
            for invisible in (few, many)
        }
        measured = [Measurement("read", "read", 1, invisible) for invisible in connections]
        for each in interleaved(results, measured, plan.reads):
            each.samples.append(_one_read(connections[each.slots]))
    with _leased(lab, few, many) as uri, psycopg.connect(uri) as connection:
        execute(uri, _DEEPER, plan.backlog)
        deep = Measurement("backlog", "read", 1, plan.backlog)
        for each in interleaved(results, [deep], plan.reads):
            each.samples.append(_one_read(connection))


PARTS: Final[dict[str, Part]] = {
    "drain": drain,
    "two": two,
    "validation": validation,
    "meter": meter,
    "read": read,
}


def _take_turns(results: Results, part: str, rounds: int, claims: int, runs: dict[str, Callable[[], Sample]]) -> None:
    measured = [Measurement(part, name, 1, claims) for name in runs]
    for each in interleaved(results, measured, rounds):
        each.samples.append(runs[each.variant]())


def _slow_flush(lab: BridgeLab, run: Callable[[], Sample]) -> Sample:
    with lab.slow_flush():
        return run()


def _ledger_alone(lab: BridgeLab, claims: int) -> Sample:
    """The same rows, ready made, by the same function."""
    with lab.queue(claims) as uri:
        payloads = _payloads(uri, claims)
        chunks = [Jsonb(payloads[first : first + _BATCH]) for first in range(0, claims, _BATCH)]

        def insert() -> None:
            with psycopg.connect(lab.ledger_uri, autocommit=True) as connection:
                for chunk in chunks:
                    connection.execute("SELECT claim_id, outcome FROM finalize_transactions(%s)", (chunk,)).fetchall()

        return lab.measured(claims, insert)


def _naive(lab: BridgeLab, claims: int) -> Sample:
    """What one writes first."""
    with lab.queue(claims) as uri:

        def loop() -> None:
            with (
                psycopg.connect(uri, autocommit=True) as queue,
                psycopg.connect(lab.ledger_uri, autocommit=True) as ledger,
            ):
                while found := queue.execute(
                    "SELECT msg_id, message FROM pgmq.read('intake_queue', 45, 100)"
                ).fetchall():
                    for msg_id, message in found:
                        ledger.execute("SELECT finalize_transaction(%s)", (Jsonb(message),))
                        queue.execute("SELECT pgmq.delete('intake_queue', %s::bigint)", (msg_id,))

        return lab.measured(claims, loop)


def _payloads(uri: str, claims: int) -> list[Any]:
    with psycopg.connect(uri) as connection:
        rows = connection.execute("SELECT message FROM pgmq.q_intake_queue ORDER BY msg_id LIMIT %s", (claims,))
        return [row[0] for row in rows.fetchall()]


def _metered(lab: BridgeLab, plan: Plan, workers: int) -> list[float]:
    """When each sale was committed, from the start on; the queue is never empty."""
    backlog = plan.rate * (plan.metered_seconds + 20)
    wanted = plan.rate * plan.metered_seconds
    with lab.queue(backlog, batchSize=100, maxPerSecond=plan.rate) as uri:
        with lab.bridges(uri, workers):
            until(lambda: lab.committed() >= wanted, f"{wanted} sales are committed")
            if is_drained(uri):
                raise RuntimeError("the backlog ended before the measurement")
        return lab.commits()


@contextmanager
def _leased(lab: BridgeLab, invisible: int, most: int) -> Iterator[str]:
    """A queue whose first messages are leased for an hour, with work for a while behind them."""
    with lab.queue(most + _ROOM, visibilityTimeoutSeconds=3600) as uri:
        for first in range(0, invisible, _ROOM):
            execute(uri, "SELECT intake.read_batch(%s, 'bench', %s)", POOL, min(_ROOM, invisible - first))
        yield uri


def _one_read(connection: psycopg.Connection[Any]) -> Sample:
    """Undone, so that the next one finds the same."""
    began = time.perf_counter()
    rows = connection.execute("SELECT msg_id FROM intake.read_batch(%s, 'bench', 100)", (POOL,)).fetchall()
    seconds = time.perf_counter() - began
    connection.rollback()
    if len(rows) != 100:
        raise RuntimeError(f"a read gave {len(rows)} messages")
    return Sample(100 / seconds, seconds * 1e3, seconds * 1e3, seconds * 1e3)
