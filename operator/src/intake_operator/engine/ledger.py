"""The ledger as seen from the operator: can it be used, and does it agree in the end?"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from intake_operator.engine.connection import CONNECTION, in_time
from intake_operator.engine.errors import brief
from intake_operator.model.observed import Ledger
from intake_operator.reasons import Problem

# Seconds between two looks: the ledger is somebody's old database, but a person who mends something wants to see it.
WHILE_GOOD: Final = 60.0
WHILE_BAD: Final = 3.0
# Seconds of a look, which a pass over the event waits for.
LOOK_TIMEOUT: Final = 10.0
# Seconds of one call, counted here: the URI may bring settings of its own, and a pooler may not take ours.
CALL_TIMEOUT: Final = 20.0
# The same for the account of a whole pool: five seconds for a million slots, and ten million are the most.
PROOF_TIMEOUT: Final = 120.0

# Classes of SQLSTATE that speak of the ledger, or of a lock in it (docs/ledger.md); any other speaks of the claim.
OF_THE_LEDGER: Final = ("08", "0A", "25", "28", "3D", "40", "42", "53", "55", "57", "58", "F0", "XX")

PROOFS: Final = """
    SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc p
    WHERE p.proname = 'ledger_proof' AND pg_catalog.pg_function_is_visible(p.oid) ORDER BY 1
"""

UNREADABLE: Final = "the URI cannot be parsed; write postgresql://user:password@host/db, in a password %40 for @"


@dataclass(frozen=True)
class Account:
    """What one side holds of a pool: claims, claims, sold slots, and a digest of them all (docs/ledger.md)."""

    committed: int
    voided: int
    slots: int
    digest: int


class Ledgers:
    """Looks at ledgers, seldom. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float], patience: float = LOOK_TIMEOUT) -> None:
        self._clock = clock
        self._patience = patience
        self._seen: dict[str, tuple[float, tuple[str, str], Ledger]] = {}

    async def check(self, uid: str, uri: str, namespace: str, function: str) -> Ledger:
        """Whether the ledger answers and has the function. A changed URI or function is looked at once."""
        wish = (uri, function)
        if seen := self._seen.get(uid):
            at, before, ledger = seen
            patience = WHILE_BAD if ledger.problem else WHILE_GOOD
            if before == wish and self._clock() - at < patience:
                return ledger
        try:
            reachable = from_elsewhere(uri, namespace)
        except psycopg.Error as error:
            ledger = Ledger(Problem.LEDGER_UNREACHABLE, brief(error))
        else:
            ledger = await self._look(reachable, function)
        self._seen[uid] = (self._clock(), wish, ledger)
        return ledger

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event."""
        self._seen.pop(uid, None)

    async def _look(self, uri: str, function: str) -> Ledger:
        schema, _, name = function.rpartition(".")
        try:
            async with in_time(self._patience), await _connect(uri) as connection:
                found = await connection.execute(
                    """
                    SELECT count(*) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                    WHERE p.proname = %(name)s
                      AND (n.nspname = %(schema)s OR (%(schema)s = '' AND pg_catalog.pg_function_is_visible(p.oid)))
                    """,
                    {"name": name, "schema": schema},
                )
                row = await found.fetchone()
        except (psycopg.Error, OSError) as error:
            return Ledger(
                Problem.LEDGER_UNREACHABLE,
                f"the ledger cannot be reached: {brief(error)}. Claims wait in the queue; correct the Secret or the "
                "database.",
            )
        if not row or not row[0]:
            return Ledger(
                Problem.LEDGER_FUNCTION_MISSING,
                f"the ledger has no function {function}. Create it (sql/ledger is the reference), or correct "
                "spec.commitTarget.postgres.function.",
            )
        return Ledger()


def from_elsewhere(uri: str, namespace: str) -> str:
    """The URI as it has to be for a pod of another namespace: a bare host name is a Service beside the event.

    Raises psycopg.ProgrammingError for a URI that cannot be parsed, without a word of it: it has a password.
    """
    try:
        hosts = str(conninfo_to_dict(uri).get("host") or "").split(",")
    except psycopg.Error:
        raise psycopg.ProgrammingError(UNREADABLE) from None
    if any("@" in host[1:] for host in hosts):
        # The end of a password that has an @ in it; whoever cannot resolve it would quote it. First, it names a socket.
        raise psycopg.ProgrammingError(UNREADABLE)
    bare = [bool(h) and "." not in h and not h.startswith("/") for h in hosts]
    return make_conninfo(
        uri, host=",".join(f"{h}.{namespace}.svc" if b else h for h, b in zip(hosts, bare, strict=True))
    )


def key(uri: str, namespace: str, function: str) -> tuple[str, ...] | None:
    """What tells one ledger from another: hosts, ports, database and function; None for a URI that cannot be parsed."""
    try:
        parts = conninfo_to_dict(from_elsewhere(uri, namespace))
    except psycopg.Error:
        return None
    host, user = str(parts.get("host") or "").lower(), str(parts.get("user") or "")
    return (host, str(parts.get("port") or 5432), str(parts.get("dbname") or user), function)


async def account(uri: str, pool: str) -> Account | None:
    """The ledger's own account of a pool; None when it offers none (`ledger_proof` is optional for users' ledgers).

    Raises psycopg.Error, too, where it offers several: nobody could say whose word it is.
    """
    async with in_time(PROOF_TIMEOUT), await _connect(uri) as connection:
        forms = await (await connection.execute(PROOFS)).fetchall()
        if not one_proof([form for (form,) in forms]):
            return None
        row = await (
            await connection.execute("SELECT committed, voided, slots, digest FROM ledger_proof(%s)", (pool,))
        ).fetchone()
        return Account(*row) if row else None


def one_proof(forms: Sequence[str]) -> bool:
    """Whether the ledger offers `ledger_proof`. Raises psycopg.ProgrammingError for more than one: which is it?"""
    if len(forms) > 1:
        raise psycopg.ProgrammingError(
            f"the ledger has {len(forms)} functions named ledger_proof, and must have one: {', '.join(forms)}"
        )
    return bool(forms)


def difference(told: Account, ours: Account) -> str:
    """What the ledger says, and what DB1 says, in words."""
    return (
        f"the ledger has {told.committed} committed, {told.voided} voided;"
        f" the engine {ours.committed} and {ours.voided}"
        + ("" if told.slots == ours.slots else f"; the ledger has sold {told.slots} slots, the engine {ours.slots}")
        + ("" if told.digest == ours.digest else "; the claims are not the same ones")
    )


@asynccontextmanager
async def visit(uri: str, namespace: str) -> AsyncIterator[AsyncConnection]:
    """The ledger, for some calls. Raises psycopg.Error or OSError when it cannot be reached."""
    async with await _connect(from_elsewhere(uri, namespace)) as connection:
        yield connection


async def voider(connection: AsyncConnection, function: str) -> sql.Identifier | None:
    """`void_claim` beside the commit function, if it is there and returns text, as the bridge looks for it."""
    *schema, _ = function.split(".")
    name = sql.Identifier(*schema, "void_claim")
    found = await _row(
        connection,
        "SELECT 1 FROM pg_catalog.pg_proc p WHERE p.oid = to_regprocedure(%s)"
        " AND NOT p.proretset AND p.prorettype = 'text'::regtype",
        f"{name.as_string(connection)}(jsonb)",
    )
    return name if found else None


async def offers(connection: AsyncConnection, signature: str) -> bool:
    """Whether the ledger has a function that we may call."""
    row = await _row(
        connection, "SELECT has_function_privilege(to_regprocedure(%s)::oid, 'EXECUTE') IS TRUE", signature
    )
    return bool(row and row[0])


async def void(connection: AsyncConnection, voider: sql.Identifier, payload: Mapping[str, object]) -> str:
    """The ledger's word on a claim that is to be given up: voided, committed, conflict. Raises TimeoutError, too."""
    row = await _row(connection, sql.SQL("SELECT {}(%s)").format(voider), Jsonb(payload))
    return str(row[0]) if row else ""


def of_the_claim(error: psycopg.Error) -> bool:
    """Whether a call failed for its claim's sake, by the same classes as for the bridge; all others would fail, too."""
    return error.sqlstate is not None and not error.sqlstate.startswith(OF_THE_LEDGER)


async def _row(connection: AsyncConnection, query: LiteralString | sql.Composed, argument: object) -> TupleRow | None:
    async with in_time(CALL_TIMEOUT):
        found = await connection.execute(query, (argument,))
        return await found.fetchone()


async def _connect(uri: str) -> AsyncConnection:
    # Never prepared: a transaction pooler may stand before the ledger.
    return await AsyncConnection.connect(uri, autocommit=True, prepare_threshold=None, **CONNECTION)
