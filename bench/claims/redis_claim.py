"""Redis for comparison: one Lua script pops a slot and appends the claim to a stream."""

import csv
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Final

from bench.claims import programs
from bench.common.figures import Sample

# No limit per user, no request id, no window: LPOP and XADD, atomic as every script is.
SCRIPT: Final = """
local slot = redis.call('LPOP', KEYS[1])
if not slot then return 'sold_out' end
redis.call('XADD', KEYS[2], '*', 'user_id', ARGV[1], 'request_id', ARGV[2], 'slot_no', slot, 'state', 'queued')
return slot
"""
_SEED: Final = "for i = 1, tonumber(ARGV[1]) do redis.call('RPUSH', KEYS[1], i) end"
_PILOT_CALLS: Final = 5000


@contextmanager
def redis(appendfsync: str) -> Iterator[Path]:
    """Start a server with an append-only file; yield its socket."""
    program = programs.find("redis-server")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="intake-redis-") as directory:
        socket = Path(directory) / "socket"
        running = subprocess.Popen(
            [
                *(str(program), "--port", "0", "--unixsocket", str(socket), "--dir", directory),
                *("--appendonly", "yes", "--appendfsync", appendfsync, "--save", ""),
            ],
            env=programs.environment(),
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)
            yield socket
        finally:
            running.terminate()
            running.wait()


def sample(socket: Path, clients: int, seconds: int) -> Sample:
    """One closed-loop run of redis-benchmark."""
    _command("redis-cli", "-s", str(socket), "FLUSHALL")
    sha = _command("redis-cli", "-s", str(socket), "SCRIPT", "LOAD", SCRIPT).strip()
    pilot = _benchmark(socket, clients, _PILOT_CALLS, sha)
    return _benchmark(socket, clients, max(int(pilot.rate * seconds), _PILOT_CALLS), sha)


def _benchmark(socket: Path, clients: int, calls: int, sha: str) -> Sample:
    _command("redis-cli", "-s", str(socket), "DEL", "slots", "claims")
    _command("redis-cli", "-s", str(socket), "EVAL", _SEED, "1", "slots", str(calls))
    options = ["-s", str(socket), "-c", str(clients), "-n", str(calls), "-r", "999999999999", "--csv"]
    call = ["EVALSHA", sha, "2", "slots", "claims", "__rand_int__", "__rand_int__"]
    sample = read_csv(_command("redis-benchmark", *options, *call))
    left = _command("redis-cli", "-s", str(socket), "XLEN", "claims").strip()
    assert left == str(calls), f"{calls} calls made {left} claims"
    return sample


def read_csv(text: str) -> Sample:
    """The one line of figures that redis-benchmark --csv prints."""
    row = list(csv.DictReader(StringIO(text)))[-1]
    return Sample(
        rate=float(row["rps"]),
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
        max_ms=float(row["max_latency_ms"]),
    )


def _command(program: str, *arguments: str) -> str:
    found = programs.find(program)
    assert found is not None, program
    return subprocess.run(
        [found, *arguments], env=programs.environment(), capture_output=True, text=True, check=True
    ).stdout
