"""`python -m bench.orders`: the benchmark of payloads, claims of several slots and holds."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.claims.runs import ClaimRuns
from bench.common.machine import facts
from bench.common.pool import settings_in_force
from bench.common.results import DOCS, RESULTS, Results
from bench.orders import parts
from bench.orders.page import page


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.orders")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    plan = parts.QUICK if options.quick else parts.FULL
    with ClaimRuns() as runs:
        today = datetime.now(UTC).date().isoformat()
        results = Results(today, options.quick, facts(runs.server), settings_in_force(runs.server))
        for part in (parts.orders, parts.expiry):
            part(runs, plan, results)
    if options.quick:
        print(page(results))
        return
    results.write(RESULTS / f"orders-{results.date}.json")
    publish(results)


def publish(results: Results) -> None:
    """Write the page into docs/."""
    (DOCS / "benchmarks-orders.md").write_text(page(results), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
