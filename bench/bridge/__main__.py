"""`python -m bench.bridge`: the benchmark of the bridge, or a part of it. ../README.md describes the parts."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.bridge import parts
from bench.bridge.page import page
from bench.bridge.runs import BridgeRuns
from bench.common.machine import facts
from bench.common.pool import settings_in_force
from bench.common.results import DOCS, RESULTS, Results
from bench.common.turns import comma_separated

NOTES = Path(__file__).with_name("notes.md")


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--parts", type=comma_separated, default=list(parts.PARTS), metavar="PART,…")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    with BridgeRuns() as runs:
        today = datetime.now(UTC).date().isoformat()
        results = Results(today, options.quick, facts(runs.database), settings_in_force(runs.database))
        for name in options.parts:
            parts.PARTS[name](runs, parts.QUICK if options.quick else parts.FULL, results)
    if options.quick or options.parts != list(parts.PARTS):
        print(page(results, ""))
        return
    results.write(RESULTS / f"bridge-{results.date}.json")
    publish(results)


def publish(results: Results) -> None:
    """Write the page into docs/."""
    (DOCS / "benchmarks-bridge.md").write_text(page(results, NOTES.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
