"""`python -m bench.operator`: what the operator costs. Run it through `make bench-operator`, which has a cluster."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.common.machine import machine
from bench.common.results import DOCS, RESULTS
from bench.operator.figures import Results
from bench.operator.page import page
from bench.operator.runs import connect, namespace
from tests.e2e.kube import Kube

NOTES: Final = Path(__file__).with_name("notes.md")


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    waiting: tuple[int, ...]
    seconds: int


FULL: Final = Plan(waiting=(1, 20, 200), seconds=300)
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
    results = measured(connect(), QUICK if options.quick else FULL)
    if options.quick:
        print(page(results, NOTES))
        return
    results.write(RESULTS / f"operator-{results.date}.json")
    publish(results)


def measured(kube: Kube, plan: Plan) -> Results:
    """An operator for each number of waiting events, and one for an event that sells, all at the same time.

    An event that waits is looked at every few minutes, so all are measured for as long as that.
    """
    version = json.loads(kube.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    results = Results(datetime.now(UTC).date().isoformat(), machine(), version)
    with ExitStack() as stack:
        parts = [("waiting", count) for count in plan.waiting] + [("open", 1)]
        runs = [
            stack.enter_context(namespace(kube, f"{part}-{count}", number))
            for number, (part, count) in enumerate(parts)
        ]
        # What it takes to make the events is not the memory of an operator that has found them.
        for (part, count), each in zip(parts, runs, strict=True):
            with each.operator():
                each.wait(count) if part == "waiting" else each.open("sale")
        with ExitStack() as operators:
            pids = [operators.enter_context(each.operator()) for each in runs]
            with runs[-1].claims("sale"):
                for each in runs:
                    each.settle()
                begun = [each.begin(pid) for each, pid in zip(runs, pids, strict=True)]
                time.sleep(plan.seconds)
                results.figures += [each.end(*part) for each, part in zip(begun, parts, strict=True)]
            for each in runs:
                each.abandon()
    return results


def publish(results: Results) -> None:
    """Write the page into docs/."""
    (DOCS / "benchmarks-operator.md").write_text(page(results, NOTES), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
