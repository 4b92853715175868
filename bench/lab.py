"""One durable PostgreSQL 18, the databases that runs start from, and what a run cost the machine."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Final, LiteralString, Self

import psycopg
from intake_operator.children.database import settings
from intake_operator.model.spec import Database
from psycopg import sql

from bench import pgbench
from bench.cpu import cpu_of_machine, cpu_of_tree
from bench.figures import Sample, percentile
from bench.pgbench import Load, Seen, Target
from bench.variants import POOL, VARIANTS, Variant, standin_sql
from tests.postgres import Patch, PostgresServer, install_intake

# DB1 as the operator starts it, on a disk that is waited for.
DURABLE: Final = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "log_min_messages": "fatal",
} | settings(Database(parameters={}))
_RUN: Final = "run"
_BATCH: Final = 200
_FILLERS: Final = os.cpu_count() or 1
_MANY: Final = 1000


@dataclass(frozen=True)
class Meters:
    """Read now and then; what counts is the difference. Times are seconds of CPU."""

    at: float
    wal: float
    server: float
    clients: float
    machine: float


class Lab:
    """Runs variants, each in a fresh copy of its database."""

    def __init__(self, settings: dict[str, str] | None = None, other_sql: Path | None = None) -> None:
        self.server = PostgresServer(DURABLE | (settings or {}))
        self.other_sql = other_sql
        self._templates: set[str] = set()
        self._payload = ""

    def __enter__(self) -> Self:
        self.server.start()
        self._payload = self._message_of_a_claim()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.close()

    @property
    def socket(self) -> str:
        """The directory of the unix socket."""
        return str(self.server.directory / "socket")

    def settings(self) -> dict[str, str]:
        """What the server was started with."""
        return {name: self.setting(name) for name in DURABLE if name != "log_min_messages"}

    def setting(self, name: str) -> str:
        """A setting as the server runs with it."""
        with psycopg.connect(self.server.uri()) as connection:
            found = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert found is not None
        return str(found[0])

    def script(self, variant: Variant) -> str:
        """What pgbench repeats."""
        return variant.script.replace("{payload}", self._payload)

    def sample(
        self, name: str, slots: int, load: Load, *, held_snapshot: bool = False, via: tuple[str, int] | None = None
    ) -> Sample:
        """One run of a variant in a database of its own."""
        variant = VARIANTS[name]
        with self.database(variant, slots) as database:
            if variant.template in ("ours_sold", "other_sold"):
                self._touch_holds(database)
            if not held_snapshot:
                return self._measured(variant, database, load, via)
            with psycopg.connect(self.server.uri(database)) as idle:
                idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                idle.execute("SELECT count(*) FROM pg_class").fetchall()
                return self._measured(variant, database, load, via)

    @contextmanager
    def database(self, variant: Variant, slots: int) -> Iterator[str]:
        """A fresh copy of a variant's database."""
        template = self.template(variant.template, slots)
        self.server.create_database(_RUN, template)
        try:
            yield _RUN
        finally:
            self.server.drop_database(_RUN)

    def template(self, kind: str, slots: int) -> str:
        """The name of the database that copies are made of; made at first use."""
        name = kind if kind == "bare" else f"{kind}_{slots}"
        if name not in self._templates:
            uri = self.server.create_database(name)
            _MAKERS[kind](self, uri, slots)
            self._templates.add(name)
        return name

    def sold(self, variant: Variant, database: str) -> int:
        """Claims that are on the queue."""
        queue = "q_intake_queue" if variant.user == "claimer" else "q_standin"
        with psycopg.connect(self.server.uri(database)) as connection:
            found = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("pgmq", queue))
            ).fetchone()
        assert found is not None
        return int(found[0])

    def _measured(self, variant: Variant, database: str, load: Load, via: tuple[str, int] | None) -> Sample:
        host, port = via or (self.socket, 5432)
        target = Target(host, variant.user, database, port)
        meters: list[Meters] = []
        with psycopg.connect(self.server.uri(database), autocommit=True) as connection:
            seen = pgbench.run(
                self.script(variant), load, target, every_second=lambda: meters.append(self._meters(connection))
            )
        if variant.template in ("ours", "other"):
            self._check_all_claimed(variant, database, seen.calls * variant.rows)
        return _sample(variant, seen, meters[load.warm_up - 1 :], seen.seconds[load.warm_up : len(meters)])

    def _touch_holds(self, database: str) -> None:
        """Read the users' index from end to end: a sale leaves it in memory, the copy of a database does not."""
        with psycopg.connect(self.server.uri(database)) as connection:
            connection.execute("SET enable_seqscan = off")
            connection.execute("SELECT count(user_id) FROM intake.claimed_slots WHERE pool_no > 0")

    def _check_all_claimed(self, variant: Variant, database: str, claims: int) -> None:
        """An answer other than `claimed` is quicker than a claim: a run with one of them would flatter us."""
        if (sold := self.sold(variant, database)) != claims:
            raise RuntimeError(f"{claims} calls made {sold} claims: give the run more slots, or less time")

    def _meters(self, connection: psycopg.Connection) -> Meters:
        found = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert found is not None
        return Meters(
            time.monotonic(),
            float(found[0]),
            cpu_of_tree(self.server.pid),
            cpu_of_tree(os.getpid()),
            cpu_of_machine(),
        )

    def _message_of_a_claim(self) -> str:
        template = self.template("other" if self.other_sql else "ours", 1000)
        with psycopg.connect(self.server.uri(template)) as connection:
            connection.execute(
                "SELECT intake.claim_resource(%s, %s, %s)", (POOL, "123456789012345678", "123456789012345678")
            )
            found = connection.execute("SELECT message::text FROM pgmq.q_intake_queue").fetchone()
            connection.rollback()
        assert found is not None
        return str(found[0])


def _sample(variant: Variant, seen: Seen, meters: list[Meters], seconds: list[tuple[float, float]]) -> Sample:
    """Costs are those between the first and the last meters, in which the calls of these seconds were made."""
    first, last = meters[0], meters[-1]
    rows = sum(calls for _, calls in seconds) * variant.rows or math.inf
    server, elapsed = last.server - first.server, last.at - first.at or math.inf
    alien = (last.machine - first.machine) - server - (last.clients - first.clients)
    return Sample(
        rate=seen.calls_per_second * variant.rows,
        p50_ms=percentile(seen.latencies_ms, 0.5),
        p99_ms=percentile(seen.latencies_ms, 0.99),
        max_ms=max(seen.latencies_ms, default=0.0),
        cpu_us=server / rows * 1e6,
        wal_bytes=(last.wal - first.wal) / rows,
        alien=max(alien / elapsed / (os.cpu_count() or 1), 0.0),
    )


def configuration(slots: int) -> str:
    """The pool of the benchmark: window, pause and limit are in force."""
    now = datetime.now(UTC)
    return json.dumps(
        {
            "inventorySize": slots,
            "claimsPerUser": 4,
            "opensAt": (now - timedelta(hours=1)).isoformat(),
            "closesAt": (now + timedelta(days=1)).isoformat(),
        }
    )


def make_ours(uri: str, slots: int, patch: Patch | None = None) -> float:
    """A pool on sale; returns the seconds that seeding it took."""
    install_intake(uri, patch)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("SELECT intake.configure(%s, %s)", (POOL, configuration(slots)))
        began = time.monotonic()
        connection.execute("SELECT intake.seed(%s)", (POOL,))
        return time.monotonic() - began


def fill(uri: str, claims: int) -> None:
    """Claim until that many slots are held."""

    def some(batches: Iterable[range]) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            for batch in batches:
                somebody = [str(10**17 + n) for n in batch]
                connection.execute("SELECT intake.claim_batch(%s, %s, %s)", (POOL, somebody, somebody))

    with psycopg.connect(uri) as connection:
        found = connection.execute("SELECT count(*) FROM intake.claimed_slots").fetchone()
    assert found is not None
    missing = range(int(found[0]), claims)
    batches = [missing[first : first + _BATCH] for first in range(0, len(missing), _BATCH)]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(some, batches[n::_FILLERS]) for n in range(_FILLERS)]:
            done.result()


def _sell_out(uri: str) -> None:
    """Ask until the pool says that it is sold out: it looks through the numbers piece by piece before it does."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for _ in range(_MANY):
            found = connection.execute("SELECT outcome FROM intake.claim_resource(%s, 'late')", (POOL,)).fetchone()
            if found == ("sold_out",):
                return
    raise RuntimeError("the pool does not sell out")


def _make_bare(_lab: Lab, uri: str, _slots: int) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute(files("pgmq").joinpath("sql/pgmq.sql").read_text(encoding="utf-8").encode())
        connection.execute("SELECT pgmq.create('bare')")


def _make_ours(_lab: Lab, uri: str, slots: int) -> None:
    make_ours(uri, slots)


def _make_other(lab: Lab, uri: str, slots: int) -> None:
    directory = lab.other_sql
    assert directory is not None, "say with --other where its SQL is"
    make_ours(uri, slots, lambda name, _: (directory / name).read_text(encoding="utf-8"))


def _make_sold(lab: Lab, uri: str, slots: int) -> None:
    _make_ours(lab, uri, slots)
    _sell(uri, slots)


def _make_other_sold(lab: Lab, uri: str, slots: int) -> None:
    _make_other(lab, uri, slots)
    _sell(uri, slots)


def _sell(uri: str, slots: int) -> None:
    fill(uri, slots)
    _sell_out(uri)
    # What autovacuum does within a minute.
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) intake.claimed_slots")


def _make_standin(name: str, after: LiteralString = "SELECT") -> Callable[[Lab, str, int], None]:
    key = {"skip_locked": "allocation_id", "sequence": "position"}[name]

    def make(lab: Lab, uri: str, slots: int) -> None:
        _make_bare(lab, uri, slots)
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(standin_sql(name).encode())
            connection.execute(
                sql.SQL("INSERT INTO public.allocations ({}) SELECT generate_series(1, {})").format(
                    sql.Identifier(key), sql.Literal(slots)
                )
            )
            connection.execute(after)
            connection.execute("VACUUM (ANALYZE)")

    return make


_MAKERS: Final[dict[str, Callable[[Lab, str, int], None]]] = {
    "bare": _make_bare,
    "ours": _make_ours,
    "other": _make_other,
    "ours_sold": _make_sold,
    "other_sold": _make_other_sold,
    "skip_locked": _make_standin("skip_locked"),
    "sequence": _make_standin("sequence"),
    # Sold in one statement and vacuumed: kinder than a sale is.
    "skip_locked_sold": _make_standin("skip_locked", "UPDATE public.allocations SET status = 'RESERVED'"),
    "sequence_sold": _make_standin(
        "sequence", "SELECT setval('public.position', (SELECT max(position) FROM public.allocations))"
    ),
}
