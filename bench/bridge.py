"""`python -m bench.bridge`: from the queue to the ledger, as README.md of this folder describes it, or a part."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import bridge_parts as parts
from bench.bridge_lab import BridgeLab
from bench.bridge_page import page
from bench.claims import words
from bench.machine import facts
from bench.results import Results

BENCH = Path(__file__).parent


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--parts", type=words, default=list(parts.PARTS), metavar="PART,…")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    with BridgeLab() as lab:
        results = Results(datetime.now(UTC).date().isoformat(), options.quick, facts(lab.lab), lab.lab.settings())
        for name in options.parts:
            parts.PARTS[name](lab, parts.QUICK if options.quick else parts.FULL, results)
    if options.quick or options.parts != list(parts.PARTS):
        print(page(results, ""))
        return
    results.write(BENCH / "results" / f"bridge-{results.date}.json")
    publish(results)


def publish(results: Results) -> None:
    """The page."""
    notes = (BENCH / "notes-bridge.md").read_text("utf-8")
    (BENCH.parent / "docs" / "benchmarks-bridge.md").write_text(page(results, notes), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
