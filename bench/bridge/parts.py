"""The parts of a full run of the bridge's benchmark. In each part all variants take turns, round by round."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from bench.bridge import webhook_calls
from bench.bridge.runs import SLOW_TARGET, BridgeRuns, execute, is_drained, until
from bench.common.figures import Measurement, Sample, busiest
from bench.common.pool import POOL
from bench.common.results import Results
from bench.common.turns import in_turns, progress

_BATCH: Final = 500
# Left out at the start, where processes connect and count each other.
_SETTLED_SECONDS: Final = 1.5
# Messages behind the leased ones; at most 10,000, which is the largest batch of a read.
_ROOM: Final = 5000
_DEEPER: Final = """
INSERT INTO pgmq.q_intake_queue (vt, message)
SELECT clock_timestamp(), (SELECT q.message FROM pgmq.q_intake_queue q LIMIT 1) FROM generate_series(1, %s)
"""


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rounds: int
    claims: int
    naive: int
    slow_claims: int
    calls: int
    concurrencies: tuple[int, ...]
    validated: int
    rate: int
    limited_seconds: int
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
    limited_seconds=6,
    workers=(1, 2, 5),
    reads=20,
    invisible=(1000, 100_000),
    backlog=1_000_000,
)
# Only tries out the harness: its figures mean nothing.
QUICK: Final = Plan(
    rounds=1,
    claims=3000,
    naive=30,
    slow_claims=2000,
    calls=300,
    concurrencies=(32,),
    validated=500,
    rate=500,
    limited_seconds=2,
    workers=(2,),
    reads=5,
    invisible=(1000, 4000),
    backlog=10_000,
)

type Part = Callable[[BridgeRuns, Plan, Results], None]


def drain(runs: BridgeRuns, plan: Plan, results: Results) -> None:
    """From the queue to the ledger: the bridge, the ledger alone, and a simple loop."""
    work: dict[str, Callable[[], Sample]] = {
        "ledger": partial(_ledger_alone, runs, plan.claims),
        "bridge_1": partial(runs.drain, plan.claims, 1, batchSize=_BATCH),
        "naive": partial(_naive, runs, plan.naive),
    }
    work |= {f"{name}_flush": partial(_slow_flush, runs, work[name]) for name in ("bridge_1", "naive")}
    _take_turns(results, "drain", plan.rounds, plan.claims, work)


def two(runs: BridgeRuns, plan: Plan, results: Results) -> None:
    """One process and two, with a ledger that sleeps in each call and so is not saturated."""
    work: dict[str, Callable[[], Sample]] = {
        f"slow_{count}": partial(runs.drain, plan.slow_claims, count, batchSize=_BATCH, **SLOW_TARGET)
        for count in (1, 2)
    }
    _take_turns(results, "two", plan.rounds, plan.slow_claims, work)


def validation(runs: BridgeRuns, plan: Plan, results: Results) -> None:
    """A validation webhook that takes 20 ms, called for each claim or for each batch."""
    with webhook_calls.slow_validator() as url:
        for concurrency in plan.concurrencies:
            measured = [Measurement("calls", name, concurrency) for name in ("aiohttp", "ours")]
            clients = {"aiohttp": webhook_calls.alone, "ours": webhook_calls.ours}
            for each in in_turns(results, measured, plan.rounds):
                each.samples.append(webhook_calls.sample(clients[each.variant], url, plan.calls, concurrency))
        work: dict[str, Callable[[], Sample]] = {
            name: partial(
                runs.drain,
                plan.validated,
                1,
                batchSize=_BATCH,
                validation={"url": url, "timeoutSeconds": 5, "batch": name == "batch"},
            )
            for name in ("single", "batch")
        }
        _take_turns(results, "validation", plan.rounds, plan.validated, work)


def rate_limit(runs: BridgeRuns, plan: Plan, results: Results) -> None:
    """A backlog under maxPerSecond: commits in the busiest second, and on average."""
    for workers in plan.workers:
        measured = {name: Measurement("rate_limit", name, workers) for name in ("limit", "mean", "busiest")}
        results.measurements += measured.values()
        for _ in range(min(plan.rounds, 2)):
            times = _commits_under_limit(runs, plan, workers)
            settled = [each for each in times if each >= times[0] + _SETTLED_SECONDS]
            found = {
                "limit": float(plan.rate),
                "mean": (len(settled) - 1) / (settled[-1] - settled[0]),
                "busiest": float(busiest(times, 1.0)),
            }
            for name, rate in found.items():
                measured[name].samples.append(Sample(rate, 0.0, 0.0, 0.0))
            progress(f"rate limit: {workers} workers: {found}")


def read(runs: BridgeRuns, plan: Plan, results: Results) -> None:
    """What a read costs with few and with many leased before it, and in front of a long queue."""
    few, many = plan.invisible
    with ExitStack() as stack:
        connections = {
            invisible: stack.enter_context(psycopg.connect(stack.enter_context(_leased(runs, invisible, many))))
            for invisible in (few, many)
        }
        measured = [Measurement("read", "read", 1, invisible) for invisible in connections]
        for each in in_turns(results, measured, plan.reads):
            each.samples.append(_one_read(connections[each.slots]))
    with _leased(runs, few, many) as uri, psycopg.connect(uri) as connection:
        execute(uri, _DEEPER, plan.backlog)
        deep = Measurement("backlog", "read", 1, plan.backlog)
        for each in in_turns(results, [deep], plan.reads):
            each.samples.append(_one_read(connection))


PARTS: Final[dict[str, Part]] = {
    "drain": drain,
    "two": two,
    "validation": validation,
    "rate_limit": rate_limit,
    "read": read,
}


def _take_turns(results: Results, part: str, rounds: int, claims: int, work: dict[str, Callable[[], Sample]]) -> None:
    measured = [Measurement(part, name, 1, claims) for name in work]
    for each in in_turns(results, measured, rounds):
        each.samples.append(work[each.variant]())


def _slow_flush(runs: BridgeRuns, run: Callable[[], Sample]) -> Sample:
    with runs.slow_flush():
        return run()


def _ledger_alone(runs: BridgeRuns, claims: int) -> Sample:
    """Insert the same rows with the same function, without a queue."""
    with runs.queue(claims) as uri:
        messages = _messages(uri, claims)
        chunks = [Jsonb(messages[first : first + _BATCH]) for first in range(0, claims, _BATCH)]

        def insert() -> None:
            with psycopg.connect(runs.ledger_uri, autocommit=True) as connection:
                for chunk in chunks:
                    connection.execute("SELECT claim_id, outcome FROM finalize_transactions(%s)", (chunk,)).fetchall()

        return runs.measured(claims, insert)


def _naive(runs: BridgeRuns, claims: int) -> Sample:
    """The simplest loop: read 100; for each message one call of the ledger and one delete."""
    with runs.queue(claims) as uri:

        def loop() -> None:
            with (
                psycopg.connect(uri, autocommit=True) as queue,
                psycopg.connect(runs.ledger_uri, autocommit=True) as ledger,
            ):
                while found := queue.execute(
                    "SELECT msg_id, message FROM pgmq.read('intake_queue', 45, 100)"
                ).fetchall():
                    for msg_id, message in found:
                        ledger.execute("SELECT finalize_transaction(%s)", (Jsonb(message),))
                        queue.execute("SELECT pgmq.delete('intake_queue', %s::bigint)", (msg_id,))

        return runs.measured(claims, loop)


def _messages(uri: str, claims: int) -> list[Any]:
    with psycopg.connect(uri) as connection:
        rows = connection.execute("SELECT message FROM pgmq.q_intake_queue ORDER BY msg_id LIMIT %s", (claims,))
        return [row[0] for row in rows.fetchall()]


def _commits_under_limit(runs: BridgeRuns, plan: Plan, workers: int) -> list[float]:
    """The times of all commits, in seconds; the queue is never empty."""
    backlog = plan.rate * (plan.limited_seconds + 20)
    wanted = plan.rate * plan.limited_seconds
    with runs.queue(backlog, batchSize=100, maxPerSecond=plan.rate) as uri:
        with runs.bridges(uri, workers):
            until(lambda: runs.committed() >= wanted, f"{wanted} sales are committed")
            if is_drained(uri):
                raise RuntimeError("the backlog ended before the measurement")
        return runs.commits()


@contextmanager
def _leased(runs: BridgeRuns, invisible: int, most: int) -> Iterator[str]:
    """A queue whose first messages are leased for an hour, with others behind them."""
    with runs.queue(most + _ROOM, visibilityTimeoutSeconds=3600) as uri:
        for first in range(0, invisible, _ROOM):
            execute(uri, "SELECT intake.read_batch(%s, 'bench', %s)", POOL, min(_ROOM, invisible - first))
        yield uri


def _one_read(connection: psycopg.Connection[Any]) -> Sample:
    """Read a batch of 100 and roll back, so that the next read finds the same."""
    began = time.perf_counter()
    rows = connection.execute("SELECT msg_id FROM intake.read_batch(%s, 'bench', 100)", (POOL,)).fetchall()
    seconds = time.perf_counter() - began
    connection.rollback()
    if len(rows) != 100:
        raise RuntimeError(f"a read gave {len(rows)} messages")
    return Sample(100 / seconds, seconds * 1e3, seconds * 1e3, seconds * 1e3)
