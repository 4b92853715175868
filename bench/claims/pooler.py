"""PgBouncer in transaction mode, between a crowd of clients and one database of the benchmark."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from bench.claims import programs

PORT: Final = 6432
# Named prepared statements survive a change of the server connection since then.
_PREPARED_SINCE: Final = (1, 21)
_NOBODY: Final = "nobody"


def protocol(program: Path) -> str:
    """The protocol that pgbench can use through it."""
    return "prepared" if programs.version(program) >= _PREPARED_SINCE else "extended"


@contextmanager
def pooler(program: Path, server: str, *, clients: int, size: int) -> Iterator[tuple[str, int]]:
    """Run it in front of the server whose socket is in that directory; yield (host, port)."""
    with tempfile.TemporaryDirectory(prefix="intake-bouncer-") as name:
        directory = Path(name)
        directory.chmod(0o777)  # it refuses to run as root
        (directory / "users").write_text('"claimer" ""\n"postgres" ""\n')
        prepared = "max_prepared_statements = 100\n" if protocol(program) == "prepared" else ""
        (directory / "ini").write_text(
            f"[databases]\n* = host={server} port=5432\n"
            f"[pgbouncer]\nunix_socket_dir = {directory}\nlisten_port = {PORT}\nauth_type = trust\n"
            f"auth_file = {directory / 'users'}\npool_mode = transaction\nmax_client_conn = {clients + 10}\n"
            f"default_pool_size = {size}\nserver_reset_query =\nlog_connections = 0\nlog_disconnections = 0\n"
            f"logfile = {directory / 'log'}\n{prepared}"
        )
        running = subprocess.Popen(
            [program, "--quiet", "--user", _NOBODY, directory / "ini"],
            env=programs.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(directory, running)
            yield str(directory), PORT
        finally:
            running.terminate()
            running.wait()


def _wait(directory: Path, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while not (directory / f".s.PGSQL.{PORT}").exists():
        if running.poll() is not None or time.monotonic() > deadline:
            log = directory / "log"
            raise RuntimeError(f"pgbouncer does not start: {log.read_text() if log.exists() else ''}")
        time.sleep(0.02)
    psycopg.connect(host=str(directory), port=PORT, user="postgres", dbname="postgres").close()
