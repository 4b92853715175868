"""Runs of the claims' variants on one durable PostgreSQL 18, and what each run cost the machine."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from bench.claims import pgbench
from bench.claims.pgbench import Address, Figures, Load
from bench.claims.templates import MAKERS
from bench.claims.variants import VARIANTS, Variant
from bench.common.cpu import cpu_of_machine, cpu_of_tree
from bench.common.figures import Sample, percentile
from bench.common.pool import DURABLE, POOL, THIS, Checkout
from tests.postgres import PostgresServer

_RUN: Final = "run"


@dataclass(frozen=True)
class Meters:
    """Counters of one moment; only differences mean something. CPU times are in seconds, WAL in bytes."""

    at: float
    wal: float
    server: float
    clients: float
    machine: float


class ClaimRuns:
    """Runs variants with the SQL of one checkout, each run in a fresh copy of its variant's database.

    with ClaimRuns() as runs:
        sample = runs.sample("claim", slots=100_000, load=Load(clients=32, seconds=3))
    """

    def __init__(self, settings: dict[str, str] | None = None, checkout: Checkout = THIS) -> None:
        self.server = PostgresServer(DURABLE | (settings or {}))
        self._checkout = checkout
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

    def script(self, variant: Variant) -> str:
        """The script that pgbench repeats."""
        return variant.script.replace("{payload}", self._payload)

    def sample(
        self, name: str, slots: int, load: Load, *, old_snapshot: bool = False, via: tuple[str, int] | None = None
    ) -> Sample:
        """Run a variant once, in a fresh copy of its database."""
        variant = VARIANTS[name]
        with self.database(variant, slots) as database:
            if variant.template == "ours_sold":
                self._read_users_index(database)
            if not old_snapshot:
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
        """The name of the database that runs copy; it is made at the first use."""
        name = kind if kind == "bare" else f"{kind}_{slots}"
        if name not in self._templates:
            uri = self.server.create_database(name)
            MAKERS[kind](uri, slots, self._checkout)
            self._templates.add(name)
        return name

    def sold(self, variant: Variant, database: str) -> int:
        """How many claims are on the queue."""
        queue = "q_intake_queue" if variant.user == "claimer" else "q_standin"
        with psycopg.connect(self.server.uri(database)) as connection:
            found = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("pgmq", queue))
            ).fetchone()
        assert found is not None
        return int(found[0])

    def _measured(self, variant: Variant, database: str, load: Load, via: tuple[str, int] | None) -> Sample:
        host, port = via or (self.socket, 5432)
        address = Address(host, variant.user, database, port)
        meters: list[Meters] = []
        with psycopg.connect(self.server.uri(database), autocommit=True) as connection:
            figures = pgbench.run(
                self.script(variant), load, address, every_second=lambda: meters.append(self._meters(connection))
            )
        if variant.template in {"ours", "ours_held"}:
            self._check_all_claimed(variant, database, figures.calls * (variant.messages or variant.rows))
        return _sample(variant, figures, meters[load.warm_up - 1 :], figures.seconds[load.warm_up : len(meters)])

    def _read_users_index(self, database: str) -> None:
        """Read the users' index from end to end: a sale leaves it in memory, the copy of a database does not."""
        with psycopg.connect(self.server.uri(database)) as connection:
            connection.execute("SET enable_seqscan = off")
            # Found by its columns, because the checkouts of a comparison may differ in the table's name.
            table = connection.execute(
                "SELECT attrelid::regclass::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
                " WHERE relnamespace = 'intake'::regnamespace AND relkind = 'r' AND attname IN ('user_id', 'pool_no')"
                " GROUP BY attrelid HAVING count(*) = 2"
            ).fetchone()
            assert table is not None
            connection.execute(f"SELECT count(user_id) FROM {table[0]} WHERE pool_no > 0".encode())

    def _check_all_claimed(self, variant: Variant, database: str, claims: int) -> None:
        """Other answers than `claimed` are cheaper, so a run with one of them does not count."""
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
        template = self.template("ours", 1000)
        with psycopg.connect(self.server.uri(template)) as connection:
            connection.execute(
                "SELECT intake.claim_resource(%s, %s, %s)", (POOL, "123456789012345678", "123456789012345678")
            )
            found = connection.execute("SELECT message::text FROM pgmq.q_intake_queue").fetchone()
            connection.rollback()
        assert found is not None
        return str(found[0])


def _sample(variant: Variant, figures: Figures, meters: list[Meters], seconds: list[tuple[float, float]]) -> Sample:
    """Costs are the differences between the first and the last meters; `seconds` are the calls between them."""
    first, last = meters[0], meters[-1]
    rows = sum(calls for _, calls in seconds) * variant.rows or math.inf
    server, elapsed = last.server - first.server, last.at - first.at or math.inf
    other_load = (last.machine - first.machine) - server - (last.clients - first.clients)
    return Sample(
        rate=figures.calls_per_second * variant.rows,
        p50_ms=percentile(figures.latencies_ms, 0.5),
        p99_ms=percentile(figures.latencies_ms, 0.99),
        max_ms=max(figures.latencies_ms, default=0.0),
        cpu_us=server / rows * 1e6,
        wal_bytes=(last.wal - first.wal) / rows,
        other_load=max(other_load / elapsed / (os.cpu_count() or 1), 0.0),
    )
