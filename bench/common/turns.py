"""Runs in turns, round by round, and the lines that are printed meanwhile."""

import sys
import time
from collections.abc import Iterator

from bench.common import figures
from bench.common.figures import Measurement, Sample
from bench.common.results import Results


def in_turns(results: Results, measured: list[Measurement], rounds: int) -> Iterator[Measurement]:
    """Yield each measurement once a round, another one first every time. The caller appends the sample of the run."""
    results.measurements += measured
    for number in range(rounds):
        first = number % len(measured)
        for each in measured[first:] + measured[:first]:
            yield each
            sample: Sample = each.samples[-1]
            slots = f", {each.slots:,} slots" if each.slots else ""
            clients = f", {each.clients} clients" if each.clients else ""
            progress(f"{each.part}: {each.variant}{clients}{slots}: {sample.rate:,.0f}/s")


def progress(text: str) -> None:
    """Print a line with the time, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def comma_separated(text: str) -> list[str]:
    """`a,b` as a list."""
    return text.split(",")


def print_ratios(title: str, measured: list[tuple[str, Measurement]]) -> None:
    """Print a line for each measurement: the ratio of its rate to that of the first one, and its figures."""
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
            f"  other load {figures.of(each, lambda s: s.other_load).high:.2f}",
            flush=True,
        )
