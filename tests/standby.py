"""DB1 and a ledger on a primary with a synchronous standby, which can be disconnected and promoted."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from tests.postgres import Patch, PostgresServer, install_intake, install_ledger

STANDBY = "standby"
# Longer than anything takes here on a busy machine. Only a broken server reaches it.
TIMEOUT_SECONDS = 60


class Pair:
    """A context manager: both servers run, with `intake` and `ledger`; every commit waits for the standby."""

    def __init__(self, patch: Patch | None = None) -> None:
        self._patch = patch
        self.primary = PostgresServer()
        self.standby: PostgresServer

    def __enter__(self) -> Self:
        self.primary.start()
        install_intake(self.primary.create_database("intake"), self._patch)
        install_ledger(self.primary.create_database("ledger"))
        self.standby = self.primary.standby(STANDBY)
        _set(self.primary, "synchronous_standby_names", STANDBY)
        self._wait_until_heard()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.standby.close()
        self.primary.close()

    def uri(self, role: str = "postgres") -> str:
        """The URI of DB1 on the primary."""
        return self.primary.uri("intake", role)

    def deafen(self) -> None:
        """Disconnect the standby: from now on every commit waits."""
        _set(self.standby, "primary_conninfo", "")
        until(lambda: not self.hears(), "the standby is disconnected")

    def hear(self) -> None:
        """Connect the standby again; it catches up."""
        _set(self.standby, "primary_conninfo", self.primary.conninfo(STANDBY))
        self._wait_until_heard()

    def hears(self) -> bool:
        """Whether the standby is connected."""
        return bool(_ask(self.primary, "SELECT count(*) FROM pg_stat_replication") == 1)

    def waiting(self) -> list[int]:
        """The process ids of the primary's sessions whose commit waits for the standby."""
        with psycopg.connect(self.primary.uri()) as connection:
            rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall()
        return [row[0] for row in rows]

    def wait_until_waiting(self, done: Callable[[], bool] = lambda: False) -> int:
        """Wait until a commit waits for the standby or `done` is true; return its process id, or 0."""
        until(lambda: bool(self.waiting()) or done(), "a commit waits for the standby")
        return next(iter(self.waiting()), 0)

    def cancel(self, pid: int) -> None:
        """Cancel the wait, as a client's timeout does: the commit stays."""
        assert _ask(self.primary, "SELECT pg_cancel_backend(%s)", pid) is True

    def terminate(self, pid: int) -> None:
        """End the session, as a shutdown does: the commit stays."""
        assert _ask(self.primary, "SELECT pg_terminate_backend(%s, 10000)", pid) is True

    def catch_up(self) -> None:
        """Wait until the standby has replayed what the primary has written."""
        written = _ask(self.primary, "SELECT pg_current_wal_lsn()::text")
        until(
            lambda: _ask(self.standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written),
            "the standby has caught up",
        )

    def fail_over(self) -> None:
        """Kill the primary for good, and promote the standby."""
        self.primary.kill()
        assert _ask(self.standby, "SELECT pg_promote()") is True

    def _wait_until_heard(self) -> None:
        query: LiteralString = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
        until(lambda: _ask(self.primary, query) == 1, "the standby is synchronous")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_SECONDS} s: {what}"


def _ask(server: PostgresServer, query: LiteralString, *arguments: object) -> Any:  # noqa: ANN401 - the type depends on the query
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        row = connection.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


def _set(server: PostgresServer, name: str, value: str) -> None:
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
