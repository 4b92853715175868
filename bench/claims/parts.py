"""The parts of a full run. In each part all variants take turns, round by round."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import psycopg

from bench.claims import pgbench, programs, redis_claim
from bench.claims.pgbench import Address, Load
from bench.claims.pooler import pooler, protocol
from bench.claims.runs import ClaimRuns
from bench.claims.variants import VARIANTS
from bench.common import figures
from bench.common.figures import Measurement
from bench.common.pool import DURABLE, POOL, claim_until, make_pool
from bench.common.results import Rebuild, Results, Trace
from bench.common.turns import in_turns, progress
from tests.postgres import PostgresServer

DIRECT: Final = 32
# As many server connections as the direct runs have.
POOL_SIZE: Final = 32


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rounds: int
    seconds: int
    clients: tuple[int, ...]
    crowd: int
    slots: int
    many_slots: int
    trace_slots: int
    trace_seconds: int
    rebuilds: int


FULL: Final = Plan(
    rounds=3,
    seconds=3,
    clients=(8, 32, 128),
    crowd=2000,
    slots=100_000,
    many_slots=1_000_000,
    trace_slots=50_000,
    trace_seconds=14,
    rebuilds=2,
)
# Only tries out the harness: its figures mean nothing.
QUICK: Final = Plan(
    rounds=1,
    seconds=1,
    clients=(32,),
    crowd=200,
    slots=60_000,
    many_slots=200_000,
    trace_slots=10_000,
    trace_seconds=2,
    rebuilds=1,
)

type Part = Callable[[ClaimRuns, Plan, Results], None]


def throughput(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Single calls of every variant, in a closed loop."""
    for clients in plan.clients:
        measured = [
            Measurement("throughput", name, clients, plan.slots)
            for name in ("select1", "insert", "claim", "send", "skip_locked", "sequence")
        ]
        for each in in_turns(results, measured, plan.rounds):
            each.samples.append(runs.sample(each.variant, each.slots, Load(clients, plan.seconds)))


def batches(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Many callers in one transaction."""
    names = [f"{kind}_{rows}" for rows in (10, 100, 1000) for kind in ("insert", "batch")]
    measured = [Measurement("batches", name, DIRECT, plan.many_slots) for name in names]
    for each in in_turns(results, measured, plan.rounds):
        each.samples.append(runs.sample(each.variant, each.slots, Load(DIRECT, plan.seconds)))


def sizes(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """The same sale with ten times the slots."""
    measured = [
        Measurement("sizes", name, DIRECT, slots)
        for name in ("claim", "skip_locked", "sequence")
        for slots in (plan.slots, plan.many_slots)
    ]
    for each in in_turns(results, measured, plan.rounds):
        each.samples.append(runs.sample(each.variant, each.slots, Load(DIRECT, min(plan.seconds, 2))))


def sold_out(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """The answer to claims after the last slot."""
    for clients in (n for n in plan.clients if n >= DIRECT):
        measured = [Measurement("sold_out", "select1", clients)] + [
            Measurement("sold_out", "sold_out", clients, slots) for slots in (plan.slots, plan.many_slots)
        ]
        measured.append(Measurement("sold_out", "sold_out_batch_100", clients, plan.slots))
        measured += [
            Measurement("sold_out", f"{name}_sold", clients, plan.slots) for name in ("skip_locked", "sequence")
        ]
        for each in in_turns(results, measured, plan.rounds):
            each.samples.append(runs.sample(each.variant, each.slots, Load(clients, plan.seconds)))


def snapshot(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """The same with an old transaction open in another session, so that dead rows cannot be removed."""
    measured = [
        Measurement(part, name, DIRECT, plan.slots)
        for name in ("claim", "skip_locked", "sequence")
        for part in ("no_snapshot", "snapshot")
    ]
    for each in in_turns(results, measured, plan.rounds):
        load = Load(DIRECT, plan.seconds)
        each.samples.append(runs.sample(each.variant, each.slots, load, old_snapshot=each.part == "snapshot"))


def open_loop(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Calls come at half the rate of the closed loop; latencies count from the scheduled start."""
    for clients in (n for n in plan.clients if n >= DIRECT):
        closed = results.find("throughput", "claim", clients)
        if closed is None:
            continue
        rate = figures.of(closed, lambda sample: sample.rate).middle / 2
        measured = [Measurement("open_loop", name, clients, plan.slots) for name in ("insert", "claim")]
        for each in in_turns(results, measured, plan.rounds):
            each.samples.append(runs.sample(each.variant, each.slots, Load(clients, plan.seconds + 1, rate=rate)))


def crowd(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """More clients than the server has connections, through a pooler in transaction mode."""
    program = programs.find("pgbouncer")
    if program is None:
        results.notes.append("No PgBouncer on this machine: the pooler was not measured.")
        return
    version = ".".join(map(str, programs.version(program)))
    spoken = protocol(program)
    results.notes.append(f"PgBouncer {version}, transaction mode, {POOL_SIZE} server connections, protocol {spoken}.")
    direct = [Measurement("crowd", name, DIRECT, plan.slots) for name in ("claim", "insert")]
    pooled = [Measurement("crowd", name, plan.crowd, plan.slots) for name in ("claim", "insert")]
    with pooler(program, runs.socket, clients=plan.crowd, size=POOL_SIZE) as address:
        for each in in_turns(results, direct + pooled, plan.rounds):
            if each in direct:
                sample = runs.sample(each.variant, each.slots, Load(DIRECT, plan.seconds))
            else:
                load = Load(plan.crowd, plan.seconds, protocol=spoken)
                sample = runs.sample(each.variant, each.slots, load, via=address)
            each.samples.append(sample)


def sell_out(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """One sale, from the first slot until sold out, and after."""
    step = 0.5
    for name in ("claim", "skip_locked", "sequence"):
        variant = VARIANTS[name]
        with runs.database(variant, plan.trace_slots) as database:
            load = Load(DIRECT, plan.trace_seconds)
            found = pgbench.run(runs.script(variant), load, Address(runs.socket, variant.user, database))
            sold = runs.sold(variant, database)
        if sold > plan.trace_slots:
            results.notes.append(f"OVERSOLD: {name} sold {sold} of {plan.trace_slots} slots.")
        elif name == "claim" and sold < plan.trace_slots and not results.quick:
            results.notes.append(f"claim left {plan.trace_slots - sold} of {plan.trace_slots} slots unsold.")
        steps = Counter(int((end - load.warm_up) / step) for end in found.finished)
        rates = [steps[n] / pgbench.LOGGED_SHARE / step for n in range(int(plan.trace_seconds / step))]
        results.traces.append(Trace(name, plan.trace_slots, DIRECT, step, rates))
        progress(f"sell-out of {plan.trace_slots} slots: {name} sold {sold}")


def rebuild(_runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """kill -9, start, seed(): with no slot claimed, half of them, and all."""
    for _ in range(plan.rebuilds):
        with PostgresServer(DURABLE) as server:
            seeded = make_pool(server.uri(), plan.many_slots)
            progress(f"fresh seed of {plan.many_slots:,} slots: {seeded:.2f} s")
            for claimed in (0, plan.many_slots // 2, plan.many_slots):
                claim_until(server.uri(), claimed)
                server.kill()
                recovery = _timed(server.start)
                with psycopg.connect(server.uri(), autocommit=True) as connection:
                    rebuilt = _timed(partial(connection.execute, "SELECT intake.seed(%s)", (POOL,)))
                results.rebuilds.append(Rebuild(plan.many_slots, claimed, seeded, recovery, rebuilt))
                progress(f"{claimed} claimed: recovery {recovery:.2f} s, rebuild {rebuilt:.2f} s")


def others(_runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Redis, for comparison."""
    program = programs.find("redis-server")
    if program is None:
        results.notes.append("No Redis on this machine: it was not measured.")
        return
    version = ".".join(map(str, programs.version(program)))
    results.notes.append(f"Redis {version}, redis-benchmark over a unix socket.")
    with redis_claim.redis("always") as always, redis_claim.redis("everysec") as everysec:
        sockets = {"redis_always": always, "redis_everysec": everysec}
        for clients in plan.clients:
            measured = [Measurement("redis", name, clients) for name in sockets]
            for each in in_turns(results, measured, plan.rounds):
                each.samples.append(redis_claim.sample(sockets[each.variant], clients, plan.seconds))


PARTS: Final[dict[str, Part]] = {
    part.__name__: part
    for part in (throughput, batches, sizes, sold_out, snapshot, open_loop, crowd, sell_out, rebuild, others)
}


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
