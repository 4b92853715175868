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
from bench.common.turns import comma_separated
from bench.operator.bare import bare_api_server
from bench.operator.figures import Results
from bench.operator.page import page
from bench.operator.runs import connect, namespace
from tests.e2e.kube import Kube
from tests.postgres import PostgresServer, install_ledger

NOTES: Final = Path(__file__).with_name("notes.md")


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    waiting: tuple[int, ...]
    seconds: int
    """An event that waits is looked at every five minutes."""
    open_seconds: int


FULL: Final = Plan(waiting=(1, 20, 200), seconds=300, open_seconds=120)
# Only tries out the harness: its figures mean nothing.
QUICK: Final = Plan(waiting=(1, 5), seconds=10, open_seconds=10)


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    parser.add_argument("--parts", type=comma_separated, default=["waiting", "open"], metavar="waiting,open")
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    today = datetime.now(UTC).date().isoformat()
    file = RESULTS / f"operator-{today}.json"
    # Both parts need not run at once: the cluster may be in use.
    results = Results.read(file) if file.exists() and not options.quick else Results(today, machine(), "")
    for part in options.parts:
        PARTS[part](QUICK if options.quick else FULL, results)
    if options.quick:
        print(page(results, NOTES))
        return
    results.write(file)
    publish(results)


def waiting(plan: Plan, results: Results) -> None:
    """An operator for each number of events, all at the same time, against an API server with nothing behind it.

    An event that waits is looked at every few minutes, so all are measured for as long as that.
    """
    with PostgresServer() as server, bare_api_server() as kube, ExitStack() as stack:
        install_ledger(server.create_database("ledger"))
        results.kubernetes = version(kube)
        runs = [stack.enter_context(namespace(kube, f"{n}", number)) for number, n in enumerate(plan.waiting)]
        # What it takes to make the events is not the memory of an operator that has found them.
        for each, count in zip(runs, plan.waiting, strict=True):
            each.has_ledger(server.uri("ledger"))
            with each.operator():
                each.wait(count)
        pids = [stack.enter_context(each.operator()) for each in runs]
        for each in runs:
            each.settle()
        begun = [each.begin(pid) for each, pid in zip(runs, pids, strict=True)]
        time.sleep(plan.seconds)
        results.put(each.end("waiting", count) for each, count in zip(begun, plan.waiting, strict=True))


def selling(plan: Plan, results: Results) -> None:
    """An operator for one event that sells, on the cluster of the tests."""
    kube = connect()
    with namespace(kube, "open", 0, has_databases=True) as runs, runs.operator() as pid:
        runs.open("sale")
        with runs.claims("sale"):
            runs.settle()
            begun = runs.begin(pid)
            time.sleep(plan.open_seconds)
            results.put([begun.end("open", 1)])
        runs.abandon()
    kube.delete("namespace", runs.kube.namespace)


def version(kube: Kube) -> str:
    """Of Kubernetes."""
    found: str = json.loads(kube.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return found


PARTS: Final = {"waiting": waiting, "open": selling}


def publish(results: Results) -> None:
    """Write the page into docs/."""
    (DOCS / "benchmarks-operator.md").write_text(page(results, NOTES), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
