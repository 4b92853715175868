"""The facts about the machine that the pages print."""

import os
import platform
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.common.pool import setting
from tests.postgres import PostgresServer


def facts(server: PostgresServer) -> dict[str, str]:
    """PostgreSQL's version, the machine, and the time of a flush to the disk."""
    return {
        "PostgreSQL": setting(server, "server_version").split()[0],
        **machine(),
        "flush of 8 kB to the disk": f"{_flush_us():.0f} us",
    }


def machine() -> dict[str, str]:
    """Cores, processor and memory."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert memory is not None
    return {
        "cores": str(os.cpu_count()),
        "processor": f"{platform.machine()}, {model[1] if model else 'unknown'}",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB",
    }


def _flush_us() -> float:
    """The median time of fdatasync after a write of one page, on the disk of the database."""
    times = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(200):
            os.pwrite(file.fileno(), b"x" * 8192, 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1e6
