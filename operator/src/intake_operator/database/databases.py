"""Calls the SQL functions of DB1 for the operator. No SQL is composed here."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from intake_shared.connections import bounded
from intake_shared.redaction import one_line
from psycopg import AsyncConnection
from psycopg.rows import class_row
from pydantic import ValidationError

from intake_operator.addresses import Address
from intake_operator.database.account import read_database_account
from intake_operator.database.connection import no_connection_left, to_database
from intake_operator.database.migrate import Migration, migrate, pending
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
        self._unaltered_at: dict[str, object] = {}
        """A timestamp of DB1: when all roles were last seen with their own settings."""

    async def observe(self, uid: str, pool: str, host: str, password: str) -> DatabaseState:
        """Read everything that a pass needs of DB1. If that fails, the state has the error.

        Raises MigrationChangedError if another version of the operator made this DB1.
        """
        try:
            async with bounded(self._timeout):
                connection = await self._connect(uid, host, password)
                missing = await pending(connection, self._migrations)
                if not missing:
                    # First: the claimers' sessions that it ends may block the statements below, and bridges' logins.
                    await connection.execute("SELECT intake.end_overdue()")
                logins, altered = ({}, ()) if missing else await self._roles(uid, connection)
                identity = await self._identity(connection)
                connections = None if missing else await self._connections_of(connection)
                status = None if missing else await self._status(connection, pool)
                stocked = await self._stocked(connection, pool) if status else 0
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
            migrated=not missing,
            logins=logins,
            altered_roles=altered,
            connections=connections,
            status=status,
            stocked=stocked,
        )

    async def migrate(self, uid: str) -> None:
        """Install pgmq and the files of sql/intake that have not run yet, each in a transaction of its own."""
        await migrate(self._connections[uid], self._migrations)

    async def limit_claimers(self, uid: str, others: int) -> None:
        """Limit claimers to the connections that bridges and operator, with `others` connections, leave."""
        connection = self._connections[uid]
        known = await self._connections_of(connection)
        if known.limit != (most := claimer_limit(known, others)):
            await connection.execute("SELECT intake.limit_claimers(%s)", (most,))

    async def set_logins(self, uid: str, logins: Mapping[str, Login]) -> None:
        """Set the passwords of `logins`, by role. DB1 gets a SCRAM verifier, never the password itself."""
        connection = self._connections[uid]
        async with connection.transaction():
            for role, login in logins.items():
                verifier = connection.pgconn.encrypt_password(
                    login.password.encode(), role.encode(), b"scram-sha-256"
                ).decode()
                await connection.execute("SELECT intake.set_login(%s, %s, %s)", (role, verifier, login.fingerprint))

    async def reset_roles(self, uid: str, roles: Sequence[str]) -> int:
        """Give roles their own settings again.

        Ends the sessions that may have begun with other settings, and returns how many it ended.
        """
        found = await self._connections[uid].execute(
            "SELECT sum(intake.reset_role(r, %s)) FROM unnest(%s::name[]) r", (self._unaltered_at.get(uid), list(roles))
        )
        row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def configure(self, uid: str, pool: str, config: Mapping[str, Any]) -> None:
        """Write the live configuration, as `IntakeEventSpec.engine_config` returns it. Bridges read it within 2 s."""
        await self._connections[uid].execute("SELECT intake.configure(%s, %s::jsonb)", (pool, json.dumps(config)))

    async def stock(self, uid: str, pool: str, chunks: AsyncIterator[Sequence[Row]]) -> None:
        """Write the user's own rows, from the first slot on: all of them, or none if DB1 refuses one.

        Raises psycopg.Error with SQLSTATE IE002 (a row is not valid) or IE006 (a row that is on sale has changed).
        """
        connection, first = self._connections[uid], 1
        async with connection.transaction():
            async for chunk in chunks:
                resource_ids, labels = [row.resource_id for row in chunk], [row.label for row in chunk]
                attributes = [row.attributes for row in chunk]
                await connection.execute(
                    "SELECT intake.stock(%s, %s, %s::uuid[], %s::text[], %s::jsonb[])",
                    (pool, first, resource_ids, labels, attributes),
                )
                first += len(chunk)

    async def seed(self, uid: str, pool: str) -> int:
        """Seed slots, and rebuild after a crash, so that claims are answered. Returns the number of slots added."""
        row = await (await self._connections[uid].execute("SELECT intake.seed(%s)", (pool,))).fetchone()
        return int(row[0]) if row else 0

    async def recover(self, uid: str, pool: str, ledger: Address) -> Restored:
        """Rebuild a lost DB1 from the ledger: all of it, or nothing. Call after `configure` and `stock`, before `seed`.

        Raises also RecoveryError and PageOrderError.
        """
        connection = self._connections[uid]
        try:
            async with bounded(RECOVERY_TIMEOUT):
                return await recover(connection, ledger, pool, time.monotonic)
        except OSError:
            # A transaction that was broken off ends with its connection.
            await self.close(uid)
            raise

    async def seal(self, uid: str, pool: str, reason: str) -> None:
        """End claiming for good; `reason` goes to the audit. Returns when no claim is under way any more."""
        await self._connections[uid].execute("SELECT intake.seal(%s, %s)", (pool, reason))

    async def account(self, uid: str, pool: str) -> DatabaseAccount:
        """Counts the claims of a sealed pool by where they are, with the digest to compare with the ledger's."""
        return await read_database_account(self._connections[uid], pool)

    async def audit(self, uid: str, pool: str) -> tuple[str, ...]:
        """What people did by hand: the latest hundred entries, newest first, each as one line of JSON."""
        found = await self._connections[uid].execute(
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
        return self._connections[uid]

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
