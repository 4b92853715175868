"""DB1, a ledger and real bridge processes on this machine, for the benchmark of the bridge and for the soak."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import sql

from bench.common.cpu import cpu_of_machine, cpu_of_tree
from bench.common.figures import Sample
from bench.common.pool import DURABLE, POOL, THIS, Checkout, claim_until, configuration, make_pool
from tests.postgres import PostgresServer, install_ledger

_LEDGER: Final = "ledger"
# A ledger that sleeps 100 ms in each call.
_SLOW_LEDGER: Final = """
CREATE FUNCTION public.slow_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.1);
    RETURN QUERY SELECT f.claim_id, f.outcome FROM public.finalize_transactions(claims) f;
END $$;
"""
TARGET: Final = {"commitTarget": {"postgres": {"function": "finalize_transaction"}}}
SLOW_TARGET: Final = {"commitTarget": {"postgres": {"function": "slow_transaction"}}}
# PostgreSQL sleeps for a millisecond before each flush, as if its disk were across a network.
_SLOW_FLUSH: Final = {"commit_delay": 1000, "commit_siblings": 0}
_POLL_SECONDS: Final = 0.2
# A run that takes longer is broken.
_PATIENCE_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Spent:
    """CPU time so far, in seconds."""

    servers: float
    bridges: float
    machine: float


class BridgeRuns:
    """Two durable servers, with the SQL and the bridge of one checkout.

    Every run drains a fresh copy of a queue into an empty ledger:

    with BridgeRuns() as runs:
        sample = runs.drain(claims=20_000, count=1, batchSize=500)
    """

    def __init__(self, checkout: Checkout = THIS) -> None:
        self._checkout = checkout
        self.database = PostgresServer(DURABLE)
        self.ledger = PostgresServer(DURABLE)
        self._stack = ExitStack()
        self._queues: set[str] = set()
        self._runs = itertools.count(1)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.database)
        self._stack.enter_context(self.ledger)
        install_ledger(self.ledger.create_database(_LEDGER), directory=self._checkout.ledger_sql)
        with psycopg.connect(self.ledger_uri) as connection:
            connection.execute(_SLOW_LEDGER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def ledger_uri(self) -> str:
        """The URI of the ledger, as its owner."""
        return self.ledger.uri(_LEDGER)

    @contextmanager
    def queue(self, claims: int, **changes: object) -> Iterator[str]:
        """Yield the URI of a DB1 with that many claims queued; the ledger is empty. `changes` are of its settings."""
        server, template = self.database, f"queue_{claims}"
        if template not in self._queues:
            uri = server.create_database(template)
            make_pool(uri, claims, self._checkout)
            claim_until(uri, claims)
            execute(uri, "VACUUM ANALYZE")
            self._queues.add(template)
        execute(self.ledger_uri, "TRUNCATE ledger.claims, ledger.sold_slots")
        run = f"run_{next(self._runs)}"
        uri = server.create_database(run, template)
        wanted = json.loads(configuration(claims)) | TARGET | changes
        execute(uri, "SELECT intake.configure(%s, %s)", POOL, json.dumps(wanted))
        for each in (uri, self.ledger_uri):
            # Otherwise a checkpoint could fall into one run and not into the next.
            execute(each, "CHECKPOINT")
        try:
            yield uri
        finally:
            server.drop_database(run)

    @contextmanager
    def bridges(self, uri: str, count: int) -> Iterator[list[int]]:
        """Run that many bridges; yield their process ids. They are stopped with SIGTERM, as by Kubernetes."""
        with tempfile.TemporaryFile() as log, ExitStack() as stack:
            processes = [self._bridge(uri, f"bridge-{n}", log.fileno()) for n in range(count)]
            for process in processes:
                stack.callback(process.kill)
            try:
                yield [process.pid for process in processes]
                _stop(processes)
            except RuntimeError as error:
                log.seek(0)
                error.add_note(log.read().decode(errors="replace")[-3000:])
                raise

    @contextmanager
    def slow_flush(self) -> Iterator[None]:
        """Both servers wait a millisecond longer for the flush of each commit."""
        uris = [self.database.uri(), self.ledger.uri()]
        change = [sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(n), v) for n, v in _SLOW_FLUSH.items()]
        undo = [sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(n)) for n in _SLOW_FLUSH]
        for uri in uris:
            _reconfigure(uri, change)
        try:
            yield
        finally:
            for uri in uris:
                _reconfigure(uri, undo)

    def committed(self) -> int:
        """How many claims the ledger has."""
        with psycopg.connect(self.ledger_uri) as connection:
            found = connection.execute("SELECT count(*) FROM ledger.claims").fetchone()
        return int(found[0]) if found else 0

    def commits(self) -> list[float]:
        """When the ledger recorded each claim, in seconds, sorted."""
        with psycopg.connect(self.ledger_uri) as connection:
            rows = connection.execute("SELECT extract(epoch FROM recorded_at)::float8 FROM ledger.claims ORDER BY 1")
            return [row[0] for row in rows.fetchall()]

    def drain(self, claims: int, count: int, **changes: object) -> Sample:
        """Let that many bridges empty a queue; the rate is taken from the times of the ledger's rows."""
        with self.queue(claims, **changes) as uri, self.bridges(uri, count) as pids:
            return self.measured(claims, lambda: until(lambda: is_drained(uri), "the queue is empty"), pids)

    def measured(self, rows: int, work: Callable[[], Any], pids: list[int] | None = None) -> Sample:
        """Measure `work`, which must bring that many rows into the ledger; `pids` are its bridges."""
        before, began = self._spent(pids or []), time.monotonic()
        work()
        after, seconds = self._spent(pids or []), time.monotonic() - began
        servers, bridges = after.servers - before.servers, after.bridges - before.bridges
        other_load = after.machine - before.machine - servers - bridges
        times = self.commits()
        if len(times) != rows:
            raise RuntimeError(f"the ledger has {len(times)} rows instead of {rows}")
        return Sample(
            rate=steady(times),
            p50_ms=0.0,
            p99_ms=0.0,
            max_ms=0.0,
            cpu_us=servers / rows * 1e6,
            client_us=bridges / rows * 1e6,
            other_load=max(other_load / seconds / (os.cpu_count() or 1), 0.0),
        )

    def _bridge(self, uri: str, name: str, log: int) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ["PATH"],
            # Found before the installed package.
            "PYTHONPATH": os.pathsep.join(map(str, self._checkout.python_path)),
            "INTAKE_DATABASE_URI": uri.replace("postgres@", "bridge@"),
            "INTAKE_LEDGER_URI": self.ledger_uri.replace("postgres@", "ledger_writer@"),
            "INTAKE_POOL": POOL,
            "INTAKE_WORKER": name,
            "INTAKE_HTTP_PORT": "0",
        }
        return subprocess.Popen([sys.executable, "-m", "intake_bridge"], env=environment, stderr=log)

    def _spent(self, bridges: list[int]) -> Spent:
        """Without bridges, this process does the work."""
        servers = cpu_of_tree(self.database.pid) + cpu_of_tree(self.ledger.pid)
        return Spent(servers, sum(cpu_of_tree(pid) for pid in bridges or [os.getpid()]), cpu_of_machine())


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    dead = [process.pid for process in processes if process.poll() is not None]
    for process in processes:
        process.terminate()
    ends = [process.wait(30) for process in processes]
    if dead or any(ends):
        raise RuntimeError(f"bridges died: {dead}, ended with {ends}")


def steady(times: list[float]) -> float:
    """Rows a second without the first fifth, in which processes start, connect and plan."""
    first = len(times) // 5
    return (len(times) - 1 - first) / ((times[-1] - times[first]) or 1e-9)


def execute(uri: str, statement: LiteralString, *parameters: object) -> None:
    """Run one statement in a new connection."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(statement, parameters)


def _reconfigure(uri: str, changes: Sequence[sql.Composed]) -> None:
    """Return when new connections have the settings."""
    with psycopg.connect(uri, autocommit=True) as connection:
        (loaded,) = connection.execute("SELECT pg_conf_load_time()").fetchone() or (None,)
        for change in changes:
            connection.execute(change)
        connection.execute("SELECT pg_reload_conf()")

    def is_loaded() -> bool:
        with psycopg.connect(uri) as connection:
            return connection.execute("SELECT pg_conf_load_time() > %s", (loaded,)).fetchone() == (True,)

    until(is_loaded, "the settings are loaded")


def is_drained(uri: str) -> bool:
    """Whether nothing is on the queue."""
    with psycopg.connect(uri, autocommit=True) as connection:
        found = connection.execute("SELECT NOT EXISTS (SELECT FROM pgmq.q_intake_queue)").fetchone()
    return found == (True,)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition is true. Raises RuntimeError after two minutes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
