"""`python -m bench.claims`: everything that README.md of this folder describes, or a part of it."""

import argparse
import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import figures, parts, plot
from bench.figures import Measurement
from bench.lab import Lab
from bench.machine import facts
from bench.page import page
from bench.pgbench import Load
from bench.results import Results

BENCH = Path(__file__).parent


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    options = _parser().parse_args(arguments)
    if options.publish:
        publish(Results.read(options.publish))
        return
    # Two thousand clients of pgbench and of the pooler.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Lab(dict(pair.split("=", 1) for pair in options.set), options.other) as lab:
        if options.only:
            chosen(lab, options)
        else:
            everything(lab, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.claims")
    parser.add_argument("--quick", action="store_true", help="check the harness; print, keep nothing")
    parser.add_argument("--parts", type=words, default=list(parts.PARTS), metavar="PART,…")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="make the page again out of kept results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    some = parser.add_argument_group("only some variants: interleaved, printed, nothing kept")
    some.add_argument("--only", type=words, metavar="VARIANT,…", help="the first is what the others are compared with")
    some.add_argument("--clients", type=words, default=["32"], metavar="N,…")
    some.add_argument("--slots", type=int, default=100_000)
    some.add_argument("--rounds", type=int, default=5)
    some.add_argument("--seconds", type=int, default=3)
    some.add_argument("--other", type=Path, metavar="DIRECTORY", help="the SQL of the variant `other`")
    return parser


def words(text: str) -> list[str]:
    """`a,b` as a list."""
    return text.split(",")


def everything(lab: Lab, options: argparse.Namespace) -> None:
    """All parts, or some. Only a full run with all of them is kept and makes the page."""
    plan = parts.QUICK if options.quick else parts.FULL
    results = Results(datetime.now(UTC).date().isoformat(), options.quick, facts(lab), lab.settings())
    for name in options.parts:
        parts.PARTS[name](lab, plan, results)
    if options.quick or options.parts != list(parts.PARTS):
        print(page(results, ""))
        return
    results.write(BENCH / "results" / f"{results.date}.json")
    publish(results)


def publish(results: Results) -> None:
    """The page and its plots."""
    docs = BENCH.parent / "docs"
    (docs / "benchmarks.md").write_text(page(results, (BENCH / "notes.md").read_text("utf-8")), "utf-8")
    (docs / "benchmarks.svg").write_text(plot.bars(results), "utf-8")
    (docs / "benchmarks-sell-out.svg").write_text(plot.lines(results.traces), "utf-8")


def chosen(lab: Lab, options: argparse.Namespace) -> None:
    """Only some variants."""
    for clients in map(int, options.clients):
        results = Results("", quick=True)
        measured = [Measurement("chosen", name, clients, options.slots) for name in options.only]
        for each in parts.interleaved(results, measured, options.rounds):
            each.samples.append(lab.sample(each.variant, each.slots, Load(clients, options.seconds)))
        report(f"{clients} clients", [(each.variant, each) for each in measured])


def report(title: str, measured: list[tuple[str, Measurement]]) -> None:
    """A line for each, with its ratio to the first."""
    first = measured[0][1]
    print(f"\n{title}: ratios to {measured[0][0]}")
    for label, each in measured:
        share, rate = figures.ratio(each, first), figures.of(each, lambda s: s.rate)
        print(
            f"  {label:24} {share.middle:6.3f} ({share.low:.3f} to {share.high:.3f})  {rate.middle:9,.0f}/s"
            f"  p50 {figures.of(each, lambda s: s.p50_ms).middle:7.3f}"
            f"  p99 {figures.of(each, lambda s: s.p99_ms).middle:7.3f} ms"
            f"  server {figures.of(each, lambda s: s.cpu_us).middle:6.1f} us"
            f"  WAL {figures.of(each, lambda s: s.wal_bytes).middle:5.0f} B"
            f"  alien {figures.of(each, lambda s: s.alien).high:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
