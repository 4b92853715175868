"""DB1 through its own SQL functions; no SQL is composed here."""

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

from intake_operator.database.connection import no_connection_left, to_database
from intake_operator.database.migrate import Migration, migrate, pending
from intake_operator.database.recovery import Restored, recover
from intake_operator.decide import room
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.inventory import Row
from intake_operator.model.observed import Connections, DatabaseState
from intake_operator.model.proof import Account, DatabaseAccount

# Seconds. What is looked at in each pass is small; a DB1 that stands still must not hold the event for longer.
OBSERVE_TIMEOUT: Final = 20.0
# Seeding ten million slots is the longest thing that is ever asked.
STATEMENT_TIMEOUT: Final = "300s"

# Seconds. A hundred thousand claims took 53 on two cores that had five others to serve; ten million are the most.
RECOVERY_TIMEOUT: Final = 5400.0

UNKNOWN_POOL: Final = "IE001"


@dataclass(frozen=True)
class Login:
    """The password of a role, and the fingerprint of the Secret that it is from."""

    password: str = field(repr=False)
    fingerprint: str


class Databases:
    """One connection for each event's DB1, kept between passes, closed with the event."""

    def __init__(self, migrations: Sequence[Migration], patience: float = OBSERVE_TIMEOUT) -> None:
        self._migrations = migrations
        self._patience = patience
        self._connections: dict[str, AsyncConnection] = {}
        self._right_at: dict[str, object] = {}
        """When the roles were last seen with their own settings, by DB1's clock."""

    async def observe(self, uid: str, pool: str, host: str, password: str) -> DatabaseState:
        """Look at DB1. Not being able to is an observation, too."""
        try:
            async with bounded(self._patience):
                connection = await self._connect(uid, host, password)
                missing = await pending(connection, self._migrations)
                if not missing:
                    # First: sessions of claimers that it ends may block the statements below, and bridges' logins.
                    await connection.execute("SELECT intake.end_overdue()")
                logins, altered = ({}, ()) if missing else await self._roles(uid, connection)
                identity = await self._identity(connection)
                connections = None if missing else await self._room(connection)
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
        """Install what is missing."""
        await migrate(self._connections[uid], self._migrations)

    async def keep_room(self, uid: str, others: int) -> None:
        """Let claimers have the connections that others do not want; at once, and until it is said again."""
        connection = self._connections[uid]
        known = await self._room(connection)
        if known.limit != (most := room.limit(known, others)):
            await connection.execute("SELECT intake.limit_claimers(%s)", (most,))

    async def set_logins(self, uid: str, logins: Mapping[str, Login]) -> None:
        """Let these roles log in. The server sees a SCRAM verifier, never the password."""
        connection = self._connections[uid]
        async with connection.transaction():
            for role, login in logins.items():
                verifier = connection.pgconn.encrypt_password(
                    login.password.encode(), role.encode(), b"scram-sha-256"
                ).decode()
                await connection.execute("SELECT intake.set_login(%s, %s, %s)", (role, verifier, login.fingerprint))

    async def reset_roles(self, uid: str, roles: Sequence[str]) -> int:
        """Give roles their settings again; the number of sessions that were ended because they may have had others."""
        found = await self._connections[uid].execute(
            "SELECT sum(intake.reset_role(r, %s)) FROM unnest(%s::name[]) r", (self._right_at.get(uid), list(roles))
        )
        row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def configure(self, uid: str, pool: str, config: Mapping[str, Any]) -> None:
        """Push the live configuration."""
        await self._connections[uid].execute("SELECT intake.configure(%s, %s::jsonb)", (pool, json.dumps(config)))

    async def stock(self, uid: str, pool: str, chunks: AsyncIterator[Sequence[Row]]) -> None:
        """Give DB1 the user's own rows, from the first on: all of them, or none if one is refused."""
        connection, first = self._connections[uid], 1
        async with connection.transaction():
            async for chunk in chunks:
                resource_ids, labels = [row[0] for row in chunk], [row[1] for row in chunk]
                await connection.execute(
                    "SELECT intake.stock(%s, %s, %s::uuid[], %s::text[])", (pool, first, resource_ids, labels)
                )
                first += len(chunk)

    async def seed(self, uid: str, pool: str) -> int:
        """Make DB1 ready to answer claims; the number of slots that were added."""
        row = await (await self._connections[uid].execute("SELECT intake.seed(%s)", (pool,))).fetchone()
        return int(row[0]) if row else 0

    async def recover(self, uid: str, event_namespace: str, pool: str, uri: str) -> Restored:
        """Make a lost DB1 again from the ledger, after `configure` and `stock` and before `seed`: all, or nothing.

        Raises RecoveryError, OrderError, psycopg.Error or OSError (TimeoutError is one).
        """
        connection = self._connections[uid]
        try:
            async with bounded(RECOVERY_TIMEOUT):
                return await recover(connection, uri, event_namespace, pool, time.monotonic)
        except OSError:
            # Broken off in the middle: whatever is left of the transaction ends with the connection.
            await self.close(uid)
            raise

    async def seal(self, uid: str, pool: str, reason: str) -> None:
        """End claiming for good; returns when no claim is under way any more."""
        await self._connections[uid].execute("SELECT intake.seal(%s, %s)", (pool, reason))

    async def account(self, uid: str, pool: str) -> DatabaseAccount:
        """Where every claim of a sealed pool is. Raises psycopg.Error or OSError."""
        connection = self._connections[uid]
        found = await connection.execute(
            "SELECT claims, released, queued, dead, committed, voided, slots, digest FROM intake.proof(%s)", (pool,)
        )
        row = await found.fetchone()
        assert row is not None
        violations = await (
            await connection.execute("SELECT invariant || ': ' || detail FROM intake.reconcile(%s) LIMIT 20", (pool,))
        ).fetchall()
        claims, released, queued, dead, *ended = row
        return DatabaseAccount(claims, released, queued, dead, Account(*ended), tuple(v[0] for v in violations))

    async def audit(self, uid: str, pool: str) -> tuple[str, ...]:
        """What people did by hand, the latest hundred, a line of JSON each: it outlives DB1 in the report."""
        found = await self._connections[uid].execute(
            "SELECT jsonb_build_object('at', at, 'action', action, 'actor', actor, 'reason', reason,"
            " 'evidence', detail -> 'evidence',"
            " 'claims', jsonb_array_length(coalesce(detail -> 'moved', detail -> 'discarded')))::text"
            " FROM intake.audit_log(%s, 100)",
            (pool,),
        )
        return tuple(line for (line,) in await found.fetchall())

    async def close(self, uid: str) -> None:
        """Drop the connection of an event, and what is known of its DB1."""
        self._right_at.pop(uid, None)
        await self._disconnect(uid)

    async def _disconnect(self, uid: str) -> None:
        if connection := self._connections.pop(uid, None):
            await connection.close()

    async def close_all(self) -> None:
        """Drop every connection."""
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
            self._right_at[uid] = row[1]
        return dict(await logins.fetchall()), tuple(row[0])

    async def _room(self, connection: AsyncConnection) -> Connections:
        cursor = connection.cursor(row_factory=class_row(Connections))
        await cursor.execute(
            'SELECT most, superusers, reserved, claimer_limit AS "limit", claimers, taken FROM intake.connections()'
        )
        found = await cursor.fetchone()
        assert found is not None
        return found

    async def _stocked(self, connection: AsyncConnection, pool: str) -> int:
        # By the primary key, however many there are; there are no gaps.
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
