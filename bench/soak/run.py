"""A soak: steady claims, two bridges, a validator and a ledger. report.py judges what it found."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from bench.bridge.runs import TARGET, BridgeRuns, execute, is_drained, until
from bench.bridge.webhook_calls import slow_validator
from bench.common.cpu import anonymous_memory, children
from bench.common.pool import POOL, configuration, make_pool
from bench.common.turns import progress
from bench.soak.report import Counts, Reading, Soak

_BRIDGES: Final = 2
_TICK_SECONDS: Final = 0.1
# Enough for a median of each quarter, and one line a minute in an hour.
_READINGS: Final = 240
_LINES: Final = 60
_PROOF_QUERY: Final = "SELECT claims, committed, voided, slots, digest FROM intake.proof(%s)"
_LEDGER_PROOF_QUERY: Final = "SELECT committed, voided, slots, digest FROM ledger_proof(%s)"


@dataclass
class Record:
    """What a soak runs on, and what it has found so far."""

    runs: BridgeRuns
    uri: str
    bridges: list[int]
    claims: int = 0
    readings: list[Reading] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def soak(seconds: int, rate: int) -> Soak:
    """Claim `rate` times a second for so many seconds, wait until the queue is empty, and compare both databases."""
    with BridgeRuns() as runs, slow_validator() as webhook, _pool(runs, seconds * rate, webhook) as uri:
        with runs.bridges(uri, _BRIDGES) as pids:
            record = Record(runs, uri, pids)
            _claim(record, seconds, rate)
            until(lambda: is_drained(uri), "the queue is empty")
            record.violations += _violations(uri)
        return Soak(seconds, rate, record.claims, record.readings, record.violations, _counts(runs, uri))


@contextmanager
def _pool(runs: BridgeRuns, slots: int, webhook: str) -> Iterator[str]:
    uri = runs.database.create_database("soak")
    make_pool(uri, slots)
    wanted = TARGET | {"batchSize": 100, "validation": {"url": webhook, "timeoutSeconds": 5, "batch": False}}
    execute(uri, "SELECT intake.configure(%s, %s)", POOL, json.dumps(json.loads(configuration(slots)) | wanted))
    yield uri


def _claim(record: Record, seconds: int, rate: int) -> None:
    """Make the claims that are due at each tick; take readings and print lines between them."""
    with psycopg.connect(record.uri.replace("postgres@", "claimer@"), autocommit=True) as claimer:
        began, lines = time.monotonic(), 0
        while (at := time.monotonic() - began) < seconds:
            for _ in range(int(at * rate) - record.claims):
                _claim_once(claimer, record.claims)
                record.claims += 1
            if at >= len(record.readings) * seconds / _READINGS:
                record.readings.append(_reading(record, at))
            if at >= (lines + 1) * seconds / _LINES:
                lines += 1
                record.violations += _violations(record.uri)
                found = f"{record.readings[-1]}, {len(record.violations)} violations"
                progress(f"{at:.0f} s: {record.claims:,} claims, {found}")
            time.sleep(_TICK_SECONDS)


def _claim_once(claimer: psycopg.Connection[Any], number: int) -> None:
    user = str(10**17 + number)
    found = claimer.execute("SELECT outcome FROM intake.claim_resource(%s, %s, %s)", (POOL, user, user))
    if (row := found.fetchone()) != ("claimed",):
        raise RuntimeError(f"claim {number} was answered {row}")


def _reading(record: Record, at: float) -> Reading:
    with psycopg.connect(record.uri) as connection:
        (depth,) = connection.execute("SELECT count(*) FROM pgmq.q_intake_queue").fetchone() or (0,)
    return Reading(
        at,
        depth,
        max(anonymous_memory(pid) for pid in record.bridges),
        _largest(record.runs.database.pid),
        _largest(record.runs.ledger.pid),
    )


def _largest(postmaster: int) -> float:
    return max(anonymous_memory(pid) for pid in children(postmaster))


def _violations(uri: str) -> list[str]:
    with psycopg.connect(uri) as connection:
        rows = connection.execute("SELECT invariant, detail FROM intake.reconcile(%s)", (POOL,)).fetchall()
    return [f"{invariant}: {detail}" for invariant, detail in rows]


def _counts(runs: BridgeRuns, uri: str) -> Counts:
    with psycopg.connect(uri) as database, psycopg.connect(runs.ledger_uri) as ledger:
        in_database = database.execute(_PROOF_QUERY, (POOL,)).fetchone()
        in_ledger = ledger.execute(_LEDGER_PROOF_QUERY, (POOL,)).fetchone()
    assert in_database is not None
    assert in_ledger is not None
    return Counts(in_database[0], in_database[1:], in_ledger)
