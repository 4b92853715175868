"""`python -m bench.compare CHECKOUT`: the claims and the bridge of another checkout, in turns with those of this one.

The other checkout gives its SQL and its bridge; harness and Python packages are those of this one. In each round three
runs take turns: `before` (the other checkout), `now` (this one), and `now` again. The last two are the same code, so
the ratio between them is the noise of the machine.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench.bridge.runs import BridgeRuns
from bench.bridge.webhook_calls import slow_validator
from bench.claims.pgbench import Load
from bench.claims.runs import ClaimRuns
from bench.common.figures import Measurement, Sample, of, ratio
from bench.common.pool import Checkout
from bench.common.results import Results
from bench.common.turns import in_turns

# Each variant with the slots of its pool: more than a run of three seconds can sell.
SLOTS: Final = {"claim": 200_000, "batch_100": 1_000_000, "sold_out": 100_000, "sold_out_batch_100": 100_000}
FIGURES: Final[Mapping[str, Callable[[Sample], float]]] = {
    "rate": lambda sample: sample.rate,
    "server CPU": lambda sample: sample.cpu_us,
    "bridge CPU": lambda sample: sample.client_us,
    "WAL": lambda sample: sample.wal_bytes,
}
_BATCH: Final = 500


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare")
    parser.add_argument("checkout", type=Path, help="another working tree of this repository")
    parser.add_argument("--only", choices=("claims", "bridge"), help="one of the two")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=32, help="sessions that claim")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run of claims")
    parser.add_argument("--messages", type=int, default=20_000, help="claims that a run of the bridge takes")
    options = parser.parse_args(arguments)
    checkout = Checkout(options.checkout.resolve())
    if not (checkout.intake_sql.is_dir() and checkout.ledger_sql.is_dir()):
        parser.error(f"{checkout.root} is no checkout of this repository")
    if options.only != "bridge":
        compare_claims(checkout, options)
    if options.only != "claims":
        compare_bridges(checkout, options)


def compare_claims(checkout: Checkout, options: argparse.Namespace) -> None:
    """Compare single claims and batches, before the last slot is sold and after it."""
    load = Load(options.clients, options.seconds)
    with ClaimRuns(checkout=checkout) as before, ClaimRuns() as now:
        for variant, slots in SLOTS.items():
            samples = (partial(runs.sample, variant, slots, load) for runs in (before, now))
            in_three_turns(f"{variant}, {options.clients} clients", options.rounds, *samples)


def compare_bridges(checkout: Checkout, options: argparse.Namespace) -> None:
    """Compare one bridge process that empties a queue: without a validator, and with one call of it for each batch."""
    with BridgeRuns(checkout) as before, BridgeRuns() as now, slow_validator() as url:
        validation = {"url": url, "timeoutSeconds": 5, "batch": True}
        for title, changes in (("bridge, no validator", {}), ("bridge, validator", {"validation": validation})):
            drains = (partial(runs.drain, options.messages, 1, batchSize=_BATCH, **changes) for runs in (before, now))
            in_three_turns(title, options.rounds, *drains)


def in_three_turns(title: str, rounds: int, before: Callable[[], Sample], now: Callable[[], Sample]) -> None:
    """Run `before`, `now` and `now` again in each round, and print both ratios of every figure that was measured."""
    work = {"before": before, "now": now, "now again": now}
    measured = {label: Measurement(title, label, 0) for label in work}
    for each in in_turns(Results("", quick=True), list(measured.values()), rounds):
        each.samples.append(work[each.variant]())
    print("\n".join(lines(title, measured)), flush=True)


def lines(title: str, measured: Mapping[str, Measurement]) -> Iterator[str]:
    """A line for each figure: its medians, the ratio to `before`, and the ratio of `now` to itself."""
    before, now, again = (measured[label] for label in ("before", "now", "now again"))
    yield f"\n{title}: {len(now.samples)} rounds, median (least to greatest)"
    for name, figure in FIGURES.items():
        if not of(before, figure).middle:
            continue
        medians = f"{of(before, figure).middle:10,.1f} -> {of(now, figure).middle:10,.1f}"
        changed, noise = ratio(now, before, figure), ratio(again, now, figure)
        yield (
            f"  {name:10} {medians}   now / before {changed.middle:.3f} ({changed.low:.3f} to {changed.high:.3f})"
            f"   now again / now {noise.middle:.3f} ({noise.low:.3f} to {noise.high:.3f})"
        )
    most = max(of(each, lambda s: s.other_load).high for each in measured.values())
    yield f"  load of other processes, at most {most:.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
