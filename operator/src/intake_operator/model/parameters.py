"""The PostgreSQL parameters of DB1 that an event may set, with their bounds.

They say how many resources DB1 uses, how it plans, and what it logs about itself. All others are set by the operator:
a claim's durability, answer and secrecy depend on them (replication, time limits, preloaded code, formats, statements
in the log). A list of forbidden parameters would have to be checked again with each version of PostgreSQL. The bounds
exclude values with which the server does not start, or waits instead of answering. The CRD has the same rules (tested).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

# Name to minimum and maximum.
NUMBERS: Final[Mapping[str, tuple[str, str]]] = {
    # Each connection costs memory. decide/connections.py divides them between claimers and others.
    "max_connections": ("50", "5000"),
    # Microseconds that a commit waits for others.
    "commit_delay": ("0", "10000"),
    "commit_siblings": ("0", "1000"),
    "checkpoint_completion_target": ("0.1", "1"),
    "bgwriter_lru_maxpages": ("0", "10000"),
    "bgwriter_lru_multiplier": ("0", "10"),
    # Vacuum may run more or less often, and cannot be switched off: the queue needs it.
    "autovacuum_max_workers": ("1", "16"),
    "autovacuum_vacuum_threshold": ("0", "1000000"),
    "autovacuum_vacuum_scale_factor": ("0", "1"),
    "autovacuum_vacuum_insert_threshold": ("0", "1000000"),
    "autovacuum_vacuum_insert_scale_factor": ("0", "1"),
    "autovacuum_vacuum_cost_limit": ("100", "10000"),
    "autovacuum_analyze_threshold": ("0", "1000000"),
    "autovacuum_analyze_scale_factor": ("0", "1"),
    # The planner: other costs, never a kind of plan switched off.
    "seq_page_cost": ("0.1", "10"),
    "random_page_cost": ("0.1", "10"),
    "cpu_tuple_cost": ("0.001", "1"),
    "cpu_index_tuple_cost": ("0.001", "1"),
    "cpu_operator_cost": ("0.001", "1"),
    "default_statistics_target": ("10", "1000"),
    "effective_io_concurrency": ("0", "1000"),
    "maintenance_io_concurrency": ("0", "1000"),
    "io_workers": ("1", "32"),
    "max_worker_processes": ("8", "64"),
    "max_parallel_workers": ("0", "64"),
    "max_parallel_workers_per_gather": ("0", "16"),
    "max_parallel_maintenance_workers": ("0", "16"),
}

SIZES: Final[Mapping[str, tuple[str, str]]] = {
    "shared_buffers": ("16MB", "64GB"),
    "work_mem": ("1MB", "1GB"),
    "maintenance_work_mem": ("16MB", "8GB"),
    "autovacuum_work_mem": ("16MB", "8GB"),
    "effective_cache_size": ("64MB", "1TB"),
    "wal_buffers": ("1MB", "1GB"),
    "min_wal_size": ("32MB", "64GB"),
    # With less, checkpoints never stop.
    "max_wal_size": ("128MB", "256GB"),
}

TIMES: Final[Mapping[str, tuple[str, str]]] = {
    # After a crash, what was written since the last checkpoint is read again, and no claim is answered meanwhile.
    "checkpoint_timeout": ("30s", "1h"),
    "bgwriter_delay": ("10ms", "10s"),
    "autovacuum_naptime": ("1s", "10min"),
    "autovacuum_vacuum_cost_delay": ("0ms", "10ms"),
    "log_autovacuum_min_duration": ("0s", "1d"),
}

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    # Not `on`: without such pages the server does not start.
    "huge_pages": ("off", "try"),
    # Not io_uring, which the pod's seccomp profile refuses.
    "io_method": ("sync", "worker"),
    "wal_compression": ("off", "on", "pglz", "lz4", "zstd"),
    "jit": ("off", "on"),
    "track_io_timing": ("off", "on"),
    "track_wal_io_timing": ("off", "on"),
    # Numbers of processes and of pages, nothing of what they work on.
    "log_checkpoints": ("off", "on"),
}

ALLOWED: Final = frozenset({*NUMBERS, *SIZES, *TIMES, *WORDS})

NUMBER: Final = r"^[0-9]{1,8}(\.[0-9]{1,6})?$"
SIZE: Final = r"^[0-9]{1,8}(kB|MB|GB|TB)$"
TIME: Final = r"^[0-9]{1,8}(ms|s|min|h|d)$"
# In kB, and in milliseconds.
SIZE_UNITS: Final[Mapping[str, int]] = {"kB": 1, "MB": 1024, "GB": 1024**2, "TB": 1024**3}
TIME_UNITS: Final[Mapping[str, int]] = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}

NOT_ALLOWED: Final = (
    "cannot be set: database.parameters takes what tunes DB1 for its load (memory, WAL, checkpoints, autovacuum,"
    " planner costs, I/O, max_connections; docs/api.md has the list). The rest decides whether claims are kept,"
    " answered and kept private"
)


def problems(given: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with some parameters, a sentence each."""
    if unknown := sorted(given.keys() - ALLOWED):
        yield f"{', '.join(unknown)} {NOT_ALLOWED}"
    for name, value in given.items():
        if name in WORDS and value not in WORDS[name]:
            yield f"{name} must be one of {', '.join(WORDS[name])}, not {value!r}"
        for bounds, form, units, kind in (
            (NUMBERS, NUMBER, {}, "a number"),
            (SIZES, SIZE, SIZE_UNITS, "a size with kB, MB, GB or TB"),
            (TIMES, TIME, TIME_UNITS, "a time with ms, s, min, h or d"),
        ):
            if name in bounds:
                least, most = bounds[name]
                fits = re.fullmatch(form, value) and amount_of(least, units) <= amount_of(value, units) <= amount_of(
                    most, units
                )
                if not fits:
                    yield f"{name} must be {kind}, {least} to {most}, not {value!r}"


def amount_of(value: str, units: Mapping[str, int]) -> float:
    """A number, or a size or time in the smallest of its units."""
    digits = value.rstrip("kMGTBmsinhd")
    return float(digits) * units.get(value.removeprefix(digits), 1)
