"""`python -m bench.soak SECONDS`: steady claims, two bridges, a validator and a ledger, for an hour.

Ends with 1 if memory grows or the books do not agree. What is judged, and how, stands in soak_report.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.bridge_http import slow_server
from bench.bridge_lab import TARGET, BridgeLab, execute, is_drained, until
from bench.cpu import anonymous_memory, children
from bench.lab import configuration, make_ours
from bench.parts import say
from bench.soak_report import Books, Look, Soak, report, verdicts
from bench.variants import POOL

_BRIDGES: Final = 2
_TICK_SECONDS: Final = 0.1
# Many enough for a median of each quarter; and a line each minute of an hour.
_LOOKS: Final = 240
_LINES: Final = 60
_OURS: Final = "SELECT claims, committed, voided, slots, digest FROM intake.proof(%s)"
_THEIRS: Final = "SELECT committed, voided, slots, digest FROM ledger_proof(%s)"


@dataclass
class Scene:
    """What is soaked."""

    lab: BridgeLab
    uri: str
    bridges: list[int]
    claims: int = 0
    looks: list[Look] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("seconds", type=int, nargs="?", default=3600)
    parser.add_argument("--rate", type=int, default=100, help="claims a second")
    parser.add_argument("--report", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    found = soak(options.seconds, options.rate)
    text = report(found)
    print(text)
    if options.report:
        options.report.write_text(text, "utf-8")
    return 0 if all(verdict.good for verdict in verdicts(found)) else 1


def soak(seconds: int, rate: int) -> Soak:
    """Claim for so long, at that rate; then wait until everything has ended, and compare."""
    with BridgeLab() as lab, slow_server() as webhook, _pool(lab, seconds * rate, webhook) as uri:
        with lab.bridges(uri, _BRIDGES) as pids:
            scene = Scene(lab, uri, pids)
            _claim(scene, seconds, rate)
            until(lambda: is_drained(uri), "the queue is empty")
            scene.violations += _reconciled(uri)
        return Soak(seconds, rate, scene.claims, scene.looks, scene.violations, _books(lab, uri))


@contextmanager
def _pool(lab: BridgeLab, slots: int, webhook: str) -> Iterator[str]:
    uri = lab.lab.server.create_database("soak")
    make_ours(uri, slots)
    wanted = TARGET | {"batchSize": 100, "validation": {"url": webhook, "timeoutSeconds": 5, "batch": False}}
    execute(uri, "SELECT intake.configure(%s, %s)", POOL, json.dumps(json.loads(configuration(slots)) | wanted))
    yield uri


def _claim(scene: Scene, seconds: int, rate: int) -> None:
    """Each tick as many claims as are due by the clock; looks and lines between them."""
    with psycopg.connect(scene.uri.replace("postgres@", "claimer@"), autocommit=True) as claimer:
        began, lines = time.monotonic(), 0
        while (at := time.monotonic() - began) < seconds:
            for _ in range(int(at * rate) - scene.claims):
                _one(claimer, scene.claims)
                scene.claims += 1
            if at >= len(scene.looks) * seconds / _LOOKS:
                scene.looks.append(_look(scene, at))
            if at >= (lines + 1) * seconds / _LINES:
                lines += 1
                scene.violations += _reconciled(scene.uri)
                say(f"{at:.0f} s: {scene.claims:,} claims, {scene.looks[-1]}, {len(scene.violations)} violations")
            time.sleep(_TICK_SECONDS)


def _one(claimer: psycopg.Connection[Any], number: int) -> None:
    somebody = str(10**17 + number)
    found = claimer.execute("SELECT outcome FROM intake.claim_resource(%s, %s, %s)", (POOL, somebody, somebody))
    if (row := found.fetchone()) != ("claimed",):
        raise RuntimeError(f"claim {number} was answered {row}")


def _look(scene: Scene, at: float) -> Look:
    with psycopg.connect(scene.uri) as connection:
        (depth,) = connection.execute("SELECT count(*) FROM pgmq.q_intake_queue").fetchone() or (0,)
    return Look(
        at,
        depth,
        max(anonymous_memory(pid) for pid in scene.bridges),
        _largest(scene.lab.lab.server.pid),
        _largest(scene.lab.ledger.pid),
    )


def _largest(postmaster: int) -> float:
    return max(anonymous_memory(pid) for pid in children(postmaster))


def _reconciled(uri: str) -> list[str]:
    with psycopg.connect(uri) as connection:
        rows = connection.execute("SELECT invariant, detail FROM intake.reconcile(%s)", (POOL,)).fetchall()
    return [f"{invariant}: {detail}" for invariant, detail in rows]


def _books(lab: BridgeLab, uri: str) -> Books:
    with psycopg.connect(uri) as intake, psycopg.connect(lab.ledger_uri) as ledger:
        ours = intake.execute(_OURS, (POOL,)).fetchone()
        theirs = ledger.execute(_THEIRS, (POOL,)).fetchone()
    assert ours is not None
    assert theirs is not None
    return Books(ours[0], ours[1:], theirs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
