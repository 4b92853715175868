"""`python -m bench.operator`: what the operator costs. Run it through `make bench-operator`, which has a cluster."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.common.machine import machine
from bench.common.results import DOCS, RESULTS
from bench.operator.figures import Results
from bench.operator.page import page
from bench.operator.runs import OperatorRuns, cluster

NOTES: Final = Path(__file__).with_name("notes.md")


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    waiting: tuple[int, ...]
    seconds: int


FULL: Final = Plan(waiting=(1, 20, 200), seconds=120)
# Only tries out the harness: its figures mean nothing.
QUICK: Final = Plan(waiting=(1, 5), seconds=10)


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    with cluster() as runs:
        results = measured(runs, QUICK if options.quick else FULL)
    if options.quick:
        print(page(results, NOTES))
        return
    results.write(RESULTS / f"operator-{results.date}.json")
    publish(results)


def measured(runs: OperatorRuns, plan: Plan) -> Results:
    """Waiting events, more each time, with a new operator; then one that sells."""
    results = Results(datetime.now(UTC).date().isoformat(), machine(), runs.version())
    before = 0
    for count in plan.waiting:
        with runs.operator():
            runs.wait(before, count)
        before = count
        with runs.operator() as pid:  # what it took to make them is not its memory
            runs.settle()
            results.figures.append(runs.measure(pid, "waiting", count, plan.seconds))
    with runs.operator():
        runs.abandon()
    with runs.operator() as pid:
        runs.open("sale")
        with runs.claims("sale"):
            runs.settle()
            results.figures.append(runs.measure(pid, "open", 1, plan.seconds))
        runs.abandon()
    return results


def publish(results: Results) -> None:
    """Write the page into docs/."""
    (DOCS / "benchmarks-operator.md").write_text(page(results, NOTES), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
