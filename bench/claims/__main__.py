"""`python -m bench.claims`: the benchmark of claims, or a part of it. ../README.md describes the parts."""

import argparse
import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.claims import parts, plot
from bench.claims.page import page
from bench.claims.pgbench import Load
from bench.claims.runs import ClaimRuns
from bench.common.figures import Measurement
from bench.common.machine import facts
from bench.common.pool import settings_in_force
from bench.common.results import DOCS, RESULTS, Results
from bench.common.turns import comma_separated, in_turns, print_ratios

NOTES = Path(__file__).with_name("notes.md")


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    options = _parser().parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    # The parts with 2,000 clients need more file descriptors than the default.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ClaimRuns(dict(pair.split("=", 1) for pair in options.set)) as runs:
        if options.only:
            chosen(runs, options)
        else:
            everything(runs, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.claims")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--parts", type=comma_separated, default=list(parts.PARTS), metavar="PART,…")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    some = parser.add_argument_group("only some variants: in turns, printed, nothing kept")
    some.add_argument(
        "--only", type=comma_separated, metavar="VARIANT,…", help="the first is what the others are compared with"
    )
    some.add_argument("--clients", type=comma_separated, default=["32"], metavar="N,…")
    some.add_argument("--slots", type=int, default=100_000)
    some.add_argument("--rounds", type=int, default=5)
    some.add_argument("--seconds", type=int, default=3)
    return parser


def everything(runs: ClaimRuns, options: argparse.Namespace) -> None:
    """Run all parts, or some. Only a full run of all of them is kept and makes the page."""
    plan = parts.QUICK if options.quick else parts.FULL
    today = datetime.now(UTC).date().isoformat()
    results = Results(today, options.quick, facts(runs.server), settings_in_force(runs.server))
    for name in options.parts:
        parts.PARTS[name](runs, plan, results)
    if options.quick or options.parts != list(parts.PARTS):
        print(page(results, ""))
        return
    results.write(RESULTS / f"{results.date}.json")
    publish(results)


def publish(results: Results) -> None:
    """Write the page and its plots into docs/."""
    (DOCS / "benchmarks.md").write_text(page(results, NOTES.read_text("utf-8")), "utf-8")
    (DOCS / "benchmarks.svg").write_text(plot.bars(results), "utf-8")
    (DOCS / "benchmarks-sell-out.svg").write_text(plot.lines(results.traces), "utf-8")


def chosen(runs: ClaimRuns, options: argparse.Namespace) -> None:
    """Run only some variants, in turns, and print them."""
    for clients in map(int, options.clients):
        results = Results("", quick=True)
        measured = [Measurement("chosen", name, clients, options.slots) for name in options.only]
        for each in in_turns(results, measured, options.rounds):
            each.samples.append(runs.sample(each.variant, each.slots, Load(clients, options.seconds)))
        print_ratios(f"{clients} clients", [(each.variant, each) for each in measured])


if __name__ == "__main__":
    main(sys.argv[1:])
