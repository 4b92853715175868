"""CPU time and memory of processes, and CPU time of the machine."""

import os
import re
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu_of_tree(pid: int) -> float:
    """Seconds of CPU that a process, its children and its dead children have used."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    total = 0
    for each in pids:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11 : 15 if each == pid else 13]))
    return total / _TICKS


def cpu_of_machine() -> float:
    """Seconds that all cores were busy, with the time that the hypervisor gave to other machines."""
    user, nice, system, _idle, _io, *more = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(more)) / _TICKS


def children(pid: int) -> list[int]:
    """The live child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def anonymous_memory(pid: int) -> float:
    """RssAnon of a process in MiB: neither files nor shared memory. 0 if it has ended."""
    return memory(pid, "RssAnon")


def memory(pid: int, what: str) -> float:
    """A line of the memory of a process in MiB: VmRSS is all that is resident, VmHWM the most that ever was."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
