"""Calls the SQL functions of DB1 for the operator. No SQL is composed here."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg
from intake_shared.connections import bounded
from intake_shared.redaction import one_line
from psycopg import AsyncConnection
from psycopg.rows import class_row
from pydantic import ValidationError

from intake_operator import names
from intake_operator.addresses import Address
from intake_operator.database.account import read_database_account
from intake_operator.database.connection import connect, no_connection_left, to_database
from intake_operator.database.migrate import Migration, look, migrate
from intake_operator.database.recovery import Restored, recover
from intake_operator.decide.connections import claimer_limit
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.inventory import Row
from intake_operator.model.observed import Connections, DatabaseState
from intake_operator.model.proof import DatabaseAccount

# Seconds. A pass reads little, and a DB1 that is frozen must not hold the event for longer.
OBSERVE_TIMEOUT: Final = 20.0
# Seeding ten million slots takes longest.
STATEMENT_TIMEOUT: Final = "300s"
# Seconds, counted here: a frozen DB1 does not keep to its own limit. Of one step, of which the longest waits 60 s for
# locks; of seeding, which also rebuilds after a crash; of the rows of one chunk; of all claims of a pool.
STEP_TIMEOUT: Final = 90.0
SEED_TIMEOUT: Final = 310.0
CHUNK_TIMEOUT: Final = 60.0
ACCOUNT_TIMEOUT: Final = 310.0

# Seconds. A hundred thousand claims took 53 on two busy cores; ten million are the most.
RECOVERY_TIMEOUT: Final = 5400.0

# SQLSTATE of a pool that is not configured.
UNKNOWN_POOL: Final = "IE001"


@dataclass(frozen=True)
class Login:
    """The password of a role, and the fingerprint of the Secret that it is from."""

    password: str = field(repr=False)
    fingerprint: str


class Databases:
    """One connection to the DB1 of each event, by the event's uid. It is kept between passes.

        state = await databases.observe(event.uid, event.pool, host, password)
        if state.reachable and not state.migrated:
            await databases.migrate(event.uid)

    `observe` connects, and never raises because of DB1. The other methods use its connection: they raise KeyError
    before a successful `observe`, psycopg.Error for what DB1 refuses, and OSError or psycopg.Error when the connection
    is lost.
    """

    def __init__(self, migrations: Sequence[Migration], timeout: float = OBSERVE_TIMEOUT) -> None:
        """`timeout` bounds `observe`, in seconds."""
        self._migrations = migrations
        self._timeout = timeout
        self._connections: dict[str, AsyncConnection] = {}
        self._ways: dict[str, tuple[str, str]] = {}
        """Host and superuser's password of the connection that is kept, for one apart from it. The Secret may have
        another password by now, which DB1 takes at its next start."""
        self._unaltered_at: dict[str, object] = {}
        """A timestamp of DB1: when all roles were last seen with their own settings."""

    async def observe(self, uid: str, pool: str, host: str, password: str) -> DatabaseState:
        """Read everything that a pass needs of DB1. If that fails, the state has the error.

        Of a DB1 without SQL, or with one that lacks what the operator calls, it reads no more than that.
        """
        try:
            async with bounded(self._timeout):
                connection = await self._connect(uid, host, password)
                version = await look(connection, self._migrations)
                migrated = version is not None and not version.lacks
                if migrated:
                    # First: the claimers' sessions that it ends may block the statements below, and bridges' logins.
                    await connection.execute("SELECT intake.end_overdue()")
                logins, altered = await self._roles(uid, connection) if migrated else ({}, ())
                identity = await self._identity(connection)
                connections = await self._connections_of(connection) if migrated else None
                status = await self._status(connection, pool) if migrated else None
                stocked = await self._stocked(connection, pool) if status else 0
                if version and status and not version.is_own:
                    version = replace(version, settings=await self._settings(connection, pool))
        except (psycopg.Error, OSError) as error:
            await self._disconnect(uid)
            return DatabaseState(
                error=one_line(error),
                login_failed="password authentication failed" in str(error),
                refused=no_connection_left(error),
            )
        except ValidationError as error:
            return DatabaseState(error=_misread(error))
        return DatabaseState(
            reachable=True,
            identity=identity,
            version=version,
            migrated=migrated,
            logins=logins,
            altered_roles=altered,
            connections=connections,
            status=status,
            stocked=stocked,
        )

    async def migrate(self, uid: str) -> None:
        """Install pgmq and the files of sql/intake that have not run yet: all of them, or none."""
        async with self._step(uid, SEED_TIMEOUT) as connection:
            await migrate(connection, self._migrations)

    async def limit_claimers(self, uid: str, others: int) -> None:
        """Limit claimers to the connections that bridges and operator, with `others` connections, leave."""
        async with self._step(uid, STEP_TIMEOUT) as connection:
            known = await self._connections_of(connection)
            if known.limit != (most := claimer_limit(known, others)):
                await connection.execute("SELECT intake.limit_claimers(%s)", (most,))

    async def set_logins(self, uid: str, logins: Mapping[str, Login]) -> None:
        """Set the passwords of `logins`, by role. DB1 gets a SCRAM verifier, never the password itself."""
        async with self._step(uid, STEP_TIMEOUT) as connection, connection.transaction():
            for role, login in logins.items():
                verifier = connection.pgconn.encrypt_password(
                    login.password.encode(), role.encode(), b"scram-sha-256"
                ).decode()
                await connection.execute("SELECT intake.set_login(%s, %s, %s)", (role, verifier, login.fingerprint))

    async def reset_roles(self, uid: str, roles: Sequence[str]) -> int:
        """Give roles their own settings again.

        Ends the sessions that may have begun with other settings, and returns how many it ended.
        """
        query = "SELECT sum(intake.reset_role(r, %s)) FROM unnest(%s::name[]) r"
        async with self._step(uid, STEP_TIMEOUT) as connection:
            found = await connection.execute(query, (self._unaltered_at.get(uid), list(roles)))
            row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def configure(self, uid: str, pool: str, config: Mapping[str, Any]) -> None:
        """Write the live configuration, as `IntakeEventSpec.engine_config` returns it. Bridges read it within 2 s."""
        async with self._step(uid, STEP_TIMEOUT) as connection:
            await connection.execute("SELECT intake.configure(%s, %s::jsonb)", (pool, json.dumps(config)))

    async def stock(self, uid: str, pool: str, chunks: AsyncIterator[Sequence[Row]]) -> None:
        """Write the user's own rows, from the first slot on: all of them, or none if DB1 refuses one.

        Raises psycopg.Error with SQLSTATE IE002 (a row is not valid) or IE006 (a row that is on sale has changed).
        """
        first = 1
        async with self._apart(uid) as connection, connection.transaction():
            async for chunk in chunks:
                resource_ids, labels = [row.resource_id for row in chunk], [row.label for row in chunk]
                attributes = [row.attributes for row in chunk]
                async with bounded(CHUNK_TIMEOUT):
                    await connection.execute(
                        "SELECT intake.stock(%s, %s, %s::uuid[], %s::text[], %s::jsonb[])",
                        (pool, first, resource_ids, labels, attributes),
                    )
                first += len(chunk)

    async def seed(self, uid: str, pool: str) -> int:
        """Seed slots, and rebuild after a crash, so that claims are answered. Returns the number of slots added."""
        async with self._step(uid, SEED_TIMEOUT) as connection:
            row = await (await connection.execute("SELECT intake.seed(%s)", (pool,))).fetchone()
        return int(row[0]) if row else 0

    async def recover(self, uid: str, pool: str, ledger: Address) -> Restored:
        """Rebuild a lost DB1 from the ledger: all of it, or nothing. Call after `configure` and `stock`, before `seed`.

        Raises also RecoveryError and PageOrderError.
        """
        async with self._step(uid, RECOVERY_TIMEOUT) as connection:
            return await recover(connection, ledger, pool, time.monotonic)

    async def seal(self, uid: str, pool: str, reason: str) -> None:
        """End claiming for good; `reason` goes to the audit. Returns when no claim is under way any more."""
        async with self._step(uid, STEP_TIMEOUT) as connection:
            await connection.execute("SELECT intake.seal(%s, %s)", (pool, reason))

    async def account(self, uid: str, pool: str) -> tuple[DatabaseAccount, tuple[str, ...]]:
        """Counts the claims of a sealed pool by where they are, with the digest to compare with the ledger's.

        Returns the audit as well. It reads every claim, so it has a connection of its own.
        """
        async with bounded(ACCOUNT_TIMEOUT), self._apart(uid) as connection:
            return await read_database_account(connection, pool), await self._audit(connection, pool)

    async def audit(self, uid: str, pool: str) -> tuple[str, ...]:
        """What people did by hand: the latest hundred entries, newest first, each as one line of JSON."""
        async with bounded(self._timeout):
            return await self._audit(self._connections[uid], pool)

    async def _audit(self, connection: AsyncConnection, pool: str) -> tuple[str, ...]:
        found = await connection.execute(
            "SELECT jsonb_build_object('at', at, 'action', action, 'actor', actor, 'reason', reason,"
            " 'evidence', detail -> 'evidence',"
            " 'claims', CASE WHEN action IN ('replay', 'discard', 'show payloads') THEN jsonb_array_length("
            "coalesce(detail -> 'moved', detail -> 'discarded', detail -> 'asked')) END,"
            " 'slots', coalesce(detail -> 'withheld', detail -> 'returned'))::text"
            " FROM intake.audit_log(%s, 100)",
            (pool,),
        )
        return tuple(line for (line,) in await found.fetchall())

    async def close(self, uid: str) -> None:
        """Close the connection to an event's DB1, and forget what is known about it. Never raises."""
        self._unaltered_at.pop(uid, None)
        self._ways.pop(uid, None)
        await self._disconnect(uid)

    async def _disconnect(self, uid: str) -> None:
        if connection := self._connections.pop(uid, None):
            await connection.close()

    async def close_all(self) -> None:
        """Close every connection."""
        for uid in list(self._connections):
            await self.close(uid)

    async def _connect(self, uid: str, host: str, password: str) -> AsyncConnection:
        known = self._connections.get(uid)
        if known is not None and not known.closed:
            return known
        self._connections[uid] = await to_database(host, password, STATEMENT_TIMEOUT)
        self._ways[uid] = (host, password)
        return self._connections[uid]

    @asynccontextmanager
    async def _step(self, uid: str, seconds: float) -> AsyncIterator[AsyncConnection]:
        """The connection that is kept, for calls that take at most `seconds` together."""
        connection = self._connections[uid]
        try:
            async with bounded(seconds):
                yield connection
        except OSError:
            # A call or a transaction that was broken off ends with its connection.
            await self._disconnect(uid)
            raise

    @asynccontextmanager
    async def _apart(self, uid: str) -> AsyncIterator[AsyncConnection]:
        """A connection of its own, for what may take minutes: the one that is kept is the passes'.

        Raises psycopg.Error or OSError, also where DB1 is being removed.
        """
        if uid not in self._ways:
            raise ConnectionError("DB1 is being removed, or was not reached yet")
        host, password = self._ways[uid]
        async with connect(host, password, names.SUPERUSER, STATEMENT_TIMEOUT) as connection:
            yield connection

    async def _identity(self, connection: AsyncConnection) -> str:
        row = await (await connection.execute("SELECT system_identifier::text FROM pg_control_system()")).fetchone()
        assert row is not None
        return str(row[0])

    async def _roles(self, uid: str, connection: AsyncConnection) -> tuple[dict[str, str], tuple[str, ...]]:
        logins = await connection.execute("SELECT role_name, fingerprint FROM intake.known_logins()")
        altered = await connection.execute("SELECT array(SELECT intake.altered_roles()::text), now()")
        row = await altered.fetchone()
        assert row is not None
        if not row[0]:
            self._unaltered_at[uid] = row[1]
        return dict(await logins.fetchall()), tuple(row[0])

    async def _settings(self, connection: AsyncConnection, pool: str) -> frozenset[str]:
        """What `intake.configure` takes in this DB1: it gives back what it was given, and a little more."""
        found = await connection.execute("SELECT array(SELECT jsonb_object_keys(intake.configuration(%s)))", (pool,))
        row = await found.fetchone()
        assert row is not None
        return frozenset(row[0])

    async def _connections_of(self, connection: AsyncConnection) -> Connections:
        cursor = connection.cursor(row_factory=class_row(Connections))
        await cursor.execute(
            'SELECT most, superusers, reserved, claimer_limit AS "limit", claimers, taken FROM intake.connections()'
        )
        found = await cursor.fetchone()
        assert found is not None
        return found

    async def _stocked(self, connection: AsyncConnection, pool: str) -> int:
        # max() reads one entry of the primary key, count() would read all; slot numbers have no gaps.
        found = await connection.execute(
            "SELECT coalesce(max(i.slot_no), 0) FROM intake.inventory i"
            " WHERE i.pool_no = (SELECT c.pool_no FROM intake.engine_config c WHERE c.pool_id = %s)",
            (pool,),
        )
        row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def _status(self, connection: AsyncConnection, pool: str) -> EngineStatus | None:
        try:
            row = await (await connection.execute("SELECT intake.engine_status(%s)", (pool,))).fetchone()
        except psycopg.Error as error:
            if error.sqlstate == UNKNOWN_POOL:
                return None
            raise
        assert row is not None
        return EngineStatus.model_validate(row[0])


def _misread(error: ValidationError) -> str:
    """The first field of `intake.engine_status` that is not as EngineStatus has it; never its value."""
    wrong = error.errors(include_url=False, include_input=False)[0]
    return f"DB1's engine_status is not the one of this operator: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
