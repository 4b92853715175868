"""Migrates DB1: pgmq first, then the files of sql/intake in the order of their names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, LiteralString

from psycopg import AsyncConnection

# Two operators must not migrate at the same time. Any number will do, as long as it never changes.
ADVISORY_LOCK: Final = 7_251_001


class MigrationChangedError(Exception):
    """A file that ran in this DB1 had another content. A DB1 lives for one event, so it is never upgraded."""


@dataclass(frozen=True)
class Migration:
    """One file, run once, in one transaction."""

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


async def pending(connection: AsyncConnection, migrations: Sequence[Migration]) -> list[Migration]:
    """The migrations that have not run. Raises MigrationChangedError if one ran with another content."""
    there = await (await connection.execute("SELECT to_regclass('intake_operator.migrations') IS NOT NULL")).fetchone()
    if not there or not there[0]:
        return list(migrations)
    rows = await (await connection.execute("SELECT name, checksum FROM intake_operator.migrations")).fetchall()
    ran: dict[str, str] = dict(rows)
    if changed := [m.name for m in migrations if m.name in ran and ran[m.name] != m.checksum]:
        raise MigrationChangedError(
            f"{', '.join(changed)} ran in this DB1 with another content: made by another version of the operator. "
            "Let that version finish the event, or delete the event."
        )
    return [m for m in migrations if m.name not in ran]


async def migrate(connection: AsyncConnection, migrations: Sequence[Migration]) -> None:
    """Run what is pending, each in its own transaction. Safe to repeat, and to run twice at once."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
    try:
        await connection.execute(
            _trusted((resources.files(__package__) / "migrations.sql").read_text(encoding="utf-8"))
        )
        for migration in await pending(connection, migrations):
            async with connection.transaction():
                await connection.execute(_trusted(migration.sql))
                await connection.execute(
                    "INSERT INTO intake_operator.migrations (name, checksum) VALUES (%s, %s)",
                    (migration.name, migration.checksum),
                )
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))


def _trusted(sql: str) -> LiteralString:
    """SQL that comes with the operator. For psycopg's types, which refuse SQL composed at run time."""
    return sql
