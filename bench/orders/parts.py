"""What a run does. All variants take turns, round by round."""

import threading
import time
from dataclasses import dataclass
from typing import Final

import psycopg

from bench.claims import pgbench
from bench.claims.pgbench import Address, Load
from bench.claims.runs import ClaimRuns
from bench.claims.variants import VARIANTS
from bench.common.figures import Measurement, Sample, percentile
from bench.common.pool import POOL, claim_until, configuration
from bench.common.results import Results
from bench.common.turns import in_turns, progress

CLIENTS: Final = 32


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rounds: int
    seconds: int
    slots: int
    holds: int


FULL: Final = Plan(rounds=5, seconds=3, slots=200_000, holds=100_000)
# Only tries out the harness: its figures mean nothing.
QUICK: Final = Plan(rounds=1, seconds=1, slots=60_000, holds=5_000)


def orders(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Claims with a payload, of several slots, and confirmations, beside the plain claim."""
    measured = [
        Measurement("orders", name, CLIENTS, plan.slots) for name in ("claim", "claim_payload", "claim_4", "confirm")
    ]
    for each in in_turns(results, measured, plan.rounds):
        each.samples.append(runs.sample(each.variant, each.slots, Load(CLIENTS, plan.seconds)))


def expiry(runs: ClaimRuns, plan: Plan, results: Results) -> None:
    """Claims while no hold ends, and while all of them end at once."""
    quiet = Measurement("expiry", "quiet", CLIENTS, plan.holds)
    ending = Measurement("expiry", "ending", CLIENTS, plan.holds)
    for each in in_turns(results, [quiet, ending], plan.rounds):
        each.samples.append(_claims_beside_holds(runs, plan, end=each is ending))


def _claims_beside_holds(runs: ClaimRuns, plan: Plan, *, end: bool) -> Sample:
    """Claim at half the speed that the machine has, in an open loop; `max_ms` is how long the end of the holds took."""
    variant = VARIANTS["claim"]
    with runs.database(variant, plan.slots + plan.holds) as database:
        uri = runs.server.uri(database)
        took = 0.0
        with psycopg.connect(uri, autocommit=True) as owner:
            _hold(owner, uri, plan)

            def end_holds() -> None:
                nonlocal took
                time.sleep(load.warm_up + 1)
                owner.execute("UPDATE intake.holds SET expires_at = clock_timestamp()" if end else "SELECT")
                began = time.monotonic()
                owner.execute("SELECT intake.housekeep(%s)", (POOL,))
                took = time.monotonic() - began

            load = Load(CLIENTS, plan.seconds + 3, rate=2000)
            ender = threading.Thread(target=end_holds)
            ender.start()
            found = pgbench.run(runs.script(variant), load, Address(runs.socket, variant.user, database))
            ender.join()
            left = owner.execute("SELECT count(*) FROM intake.holds WHERE ended IS NULL").fetchone()
        if left != (0 if end else plan.holds,):
            raise RuntimeError(f"{left} of {plan.holds} holds are left")
    progress(f"housekeep took {took:.2f} s")
    latencies = found.latencies_ms
    return Sample(found.calls_per_second, percentile(latencies, 0.5), percentile(latencies, 0.99), took * 1000)


def _hold(owner: psycopg.Connection, uri: str, plan: Plan) -> None:
    """Make the holds in a pool that sells without: the claims that run beside them then write the same as always."""
    owner.execute("UPDATE intake.engine_config SET epoch = 0")
    owner.execute("SELECT intake.configure(%s, %s)", (POOL, configuration(plan.slots + plan.holds, holdSeconds=3600)))
    claim_until(uri, plan.holds, "intake.holds")
    owner.execute("UPDATE intake.pools SET hold_seconds = NULL")
    owner.execute("VACUUM (ANALYZE)")
