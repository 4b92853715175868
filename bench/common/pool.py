"""The pool that every run sells, the server settings it is sold with, and the version of the SQL that sells it."""

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from intake_operator.children.database import settings
from intake_operator.model.spec import Database

from tests.postgres import REPOSITORY, PostgresServer, install_intake

POOL: Final = "sale"
# DB1 as the operator starts it, on a disk that is waited for.
DURABLE: Final = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "log_min_messages": "fatal",
} | settings(Database(parameters={}))
_BATCH: Final = 200
_SESSIONS: Final = os.cpu_count() or 1


@dataclass(frozen=True)
class Checkout:
    """A working tree of this repository. A run takes its SQL and its bridge from it, and all else from this one."""

    root: Path = REPOSITORY

    @property
    def intake_sql(self) -> Path:
        """The SQL of DB1."""
        return self.root / "sql" / "intake"

    @property
    def ledger_sql(self) -> Path:
        """The SQL of the reference ledger."""
        return self.root / "sql" / "ledger"

    @property
    def python_path(self) -> tuple[Path, ...]:
        """The folders of the packages that the bridge runs."""
        return self.root / "bridge" / "src", self.root / "shared" / "src"


THIS: Final = Checkout()


def setting(server: PostgresServer, name: str) -> str:
    """A setting as the server runs with it."""
    with psycopg.connect(server.uri()) as connection:
        found = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert found is not None
    return str(found[0])


def settings_in_force(server: PostgresServer) -> dict[str, str]:
    """The settings of `DURABLE` as the server runs with them."""
    return {name: setting(server, name) for name in DURABLE if name != "log_min_messages"}


def configuration(slots: int, **more: object) -> str:
    """The argument of intake.configure: window, pause and limit are in force. `more` are further keys."""
    now = datetime.now(UTC)
    return json.dumps(
        {
            "inventorySize": slots,
            "claimsPerUser": 4,
            "opensAt": (now - timedelta(hours=1)).isoformat(),
            "closesAt": (now + timedelta(days=1)).isoformat(),
            **more,
        }
    )


def make_pool(uri: str, slots: int, checkout: Checkout = THIS, **more: object) -> float:
    """Install the SQL and open the pool; return how many seconds `seed` took."""
    install_intake(uri, directory=checkout.intake_sql)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("SELECT intake.configure(%s, %s)", (POOL, configuration(slots, **more)))
        began = time.monotonic()
        connection.execute("SELECT intake.seed(%s)", (POOL,))
        return time.monotonic() - began


def claim_until(uri: str, claims: int, table: LiteralString = "pgmq.q_intake_queue") -> None:
    """Claim until the queue, or the table of holds, has that many rows; no bridge may be reading it."""

    def claim(batches: Iterable[range]) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            for batch in batches:
                users = [str(10**17 + n) for n in batch]
                connection.execute("SELECT intake.claim_batch(%s, %s, %s)", (POOL, users, users))

    with psycopg.connect(uri) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found is not None
    missing = range(int(found[0]), claims)
    batches = [missing[first : first + _BATCH] for first in range(0, len(missing), _BATCH)]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(claim, batches[n::_SESSIONS]) for n in range(_SESSIONS)]:
            done.result()
