"""DB1 and a ledger on two servers: a primary, and a synchronous standby that can be made deaf, and take over."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from tests.postgres import Patch, PostgresServer, install_intake, install_ledger

STANDBY = "standby"
# Longer than anything takes here on a busy machine; only a broken server reaches it.
TIMEOUT_SECONDS = 60


class Pair:
    """With `with`: both started, `intake` and `ledger` installed, and every commit waits for the standby."""

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
        """DB1 on the primary."""
        return self.primary.uri("intake", role)

    def deafen(self) -> None:
        """From now on the standby hears nothing: whoever commits waits."""
        _set(self.standby, "primary_conninfo", "")
        until(lambda: not self.hears(), "the standby is gone")

    def hear(self) -> None:
        """It hears again, and catches up."""
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
        """Until one commit waits, or needs no more to: its process id, or 0."""
        until(lambda: bool(self.waiting()) or done(), "somebody waits for the standby")
        return next(iter(self.waiting()), 0)

    def cancel(self, pid: int) -> None:
        """What a client's own timeout does: it ends the wait, and the commit stands."""
        assert _ask(self.primary, "SELECT pg_cancel_backend(%s)", pid) is True

    def terminate(self, pid: int) -> None:
        """The same, and the connection ends, as in a shutdown."""
        assert _ask(self.primary, "SELECT pg_terminate_backend(%s, 10000)", pid) is True

    def catch_up(self) -> None:
        """Until what the primary has written can be read on the standby."""
        written = _ask(self.primary, "SELECT pg_current_wal_lsn()::text")
        until(lambda: _ask(self.standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written), "it caught up")

    def fail_over(self) -> None:
        """The primary is lost with all its processes and never comes back; the standby takes over, alone."""
        self.primary.kill()
        assert _ask(self.standby, "SELECT pg_promote()") is True

    def _wait_until_heard(self) -> None:
        query: LiteralString = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
        until(lambda: _ask(self.primary, query) == 1, "the standby is synchronous")


def until(condition: Callable[[], object], what: str) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"


def _ask(server: PostgresServer, query: LiteralString, *arguments: object) -> Any:  # noqa: ANN401 - whatever it is
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        row = connection.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


def _set(server: PostgresServer, name: str, value: str) -> None:
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
