"""Gives a new DB1 its SQL: pgmq first, then the files of sql/intake in the order of their names.

A DB1 keeps the SQL that it was made with (docs/decisions/0003-an-event-keeps-its-version.md).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, LiteralString

from psycopg import AsyncConnection

from intake_operator.model.sql_version import SqlVersion, name_of

# Two operators must not migrate at the same time. Any number will do, as long as it never changes.
ADVISORY_LOCK: Final = 7_251_001

# In a DB1 that sells, claims wait behind a lock for which a file waits.
LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '2s'"


class MigrationChangedError(Exception):
    """What ran in this DB1 is not the beginning of what would run, so nothing may run."""


@dataclass(frozen=True)
class Migration:
    """One file, run once."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, to see whether it is the one that ran."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(folder: Path) -> tuple[Migration, ...]:
    """pgmq out of its package, then our own files. Raises FileNotFoundError if there are none.

    pgmq is pinned exactly: an installation from SQL has no upgrade path.
    """
    pgmq = Migration("pgmq", (resources.files("pgmq") / "sql" / "pgmq.sql").read_text(encoding="utf-8"))
    own = sorted(folder.glob("[0-9]*_*.sql"))
    if not own:
        raise FileNotFoundError(
            f"no migrations in {folder}; set INTAKE_SQL_DIR to the folder that holds intake/ and ledger/"
        )
    return (pgmq, *(Migration(path.name, path.read_text(encoding="utf-8")) for path in own))


def version(migrations: Sequence[Migration]) -> str:
    """The name of the version that these files make."""
    return name_of({m.name: m.checksum for m in migrations})


async def look(connection: AsyncConnection, migrations: Sequence[Migration]) -> SqlVersion | None:
    """The version of a DB1, and how it differs from the operator's own; None before it has any SQL."""
    ran = await _ran(connection)
    if not ran:
        return None
    name, own = name_of(ran), version(migrations)
    if name == own:
        return SqlVersion(name, own)
    missing = await (await connection.execute(_packaged("calls.sql"))).fetchall()
    return SqlVersion(
        name,
        own,
        changed=_changed(ran, migrations),
        lacks=tuple(call for caller, call in missing if caller == "operator"),
        bridges_lack=tuple(call for caller, call in missing if caller == "bridge"),
    )


async def migrate(connection: AsyncConnection, migrations: Sequence[Migration]) -> None:
    """Run what has not run, all in one transaction. Safe to repeat, and to run twice at once.

    Raises MigrationChangedError, and runs nothing, if what ran is not the beginning of it.
    """
    await connection.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
    try:
        async with connection.transaction():
            await connection.execute(LOCK_TIMEOUT)
            await connection.execute(_packaged("migrations.sql"))
            ran = await _ran(connection)
            if changed := _changed(ran, migrations):
                raise MigrationChangedError(f"{', '.join(changed)} ran in this DB1 with another content or order")
            for migration in migrations[len(ran) :]:
                await connection.execute(_trusted(migration.sql))
                await connection.execute(
                    "INSERT INTO intake_operator.migrations (name, checksum) VALUES (%s, %s)",
                    (migration.name, migration.checksum),
                )
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))


async def _ran(connection: AsyncConnection) -> dict[str, str]:
    there = await (await connection.execute("SELECT to_regclass('intake_operator.migrations') IS NOT NULL")).fetchone()
    if not there or not there[0]:
        return {}
    return dict(await (await connection.execute("SELECT name, checksum FROM intake_operator.migrations")).fetchall())


def _changed(ran: Mapping[str, str], migrations: Sequence[Migration]) -> tuple[str, ...]:
    """The files that ran and are not, with the same content, the beginning of these; none if all are."""
    beginning = {m.name: m.checksum for m in migrations[: len(ran)]}
    return tuple(sorted(name for name, checksum in ran.items() if beginning.get(name) != checksum))


def _packaged(name: str) -> LiteralString:
    return _trusted((resources.files(__package__) / name).read_text(encoding="utf-8"))


def _trusted(sql: str) -> LiteralString:
    """SQL that comes with the operator. For psycopg's types, which refuse SQL composed at run time."""
    return sql
