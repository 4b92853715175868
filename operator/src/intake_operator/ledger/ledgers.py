"""The ledger as seen from the operator: can it be used, and does it agree in the end?"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import psycopg
from intake_shared import uris
from intake_shared.connections import bounded, connect
from intake_shared.redaction import one_line
from intake_shared.sqlstates import NO_SUCH_CHARACTER, Subject, subject
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from intake_operator import names
from intake_operator.decide.pool import LedgerKey
from intake_operator.model.observed import LedgerState
from intake_operator.model.proof import Account
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

# The functions that a call with one jsonb could mean, exactly as the bridge looks for them.
CALLABLE: Final = """
    SELECT p.oid::pg_catalog.regprocedure::text, p.proretset, p.prorettype = 'pg_catalog.text'::pg_catalog.regtype
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE p.proname = %(name)s AND p.prokind = 'f'
        AND (n.nspname = %(schema)s OR (%(schema)s = '' AND pg_catalog.pg_function_is_visible(p.oid)))
        AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
        AND p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype
    ORDER BY 1
"""
# Functions that are read from: of these the name alone has to be unique, whatever they take.
NAMED: Final = """
    SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p
    WHERE p.proname = %(name)s AND p.prokind = 'f' AND pg_catalog.pg_function_is_visible(p.oid) ORDER BY 1
"""
# Whether a text comes back as it was: a few characters of the Japanese and Chinese encodings become others, or bytes
# that the server itself refuses to read.
KEEPS: Final = "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
# As numbers, whatever type the ledger counts in.
PROOF: Final = "SELECT committed::bigint, voided::bigint, slots::bigint, digest::bigint FROM ledger_proof(%s)"


class Ledgers:
    """Looks at ledgers, seldom. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float], patience: float = LOOK_TIMEOUT) -> None:
        self._clock = clock
        self._patience = patience
        self._seen: dict[str, tuple[float, tuple[str, str], LedgerState]] = {}

    async def check(self, uid: str, uri: str, namespace: str, function: str) -> LedgerState:
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
            ledger = LedgerState(Problem.LEDGER_UNREACHABLE, one_line(error))
        else:
            ledger = await self._look(reachable, function)
        self._seen[uid] = (self._clock(), wish, ledger)
        return ledger

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event."""
        self._seen.pop(uid, None)

    async def _look(self, uri: str, function: str) -> LedgerState:
        try:
            async with bounded(self._patience), await _connect(uri) as connection:
                one = await _callable(connection, function)
                many = await _callable(connection, f"{function}s")
                await voider(connection, function)
                for read in ("ledger_proof", "ledger_claims"):
                    await offers(connection, read)
        except AmbiguousError as error:
            return LedgerState(
                Problem.LEDGER_FUNCTION_AMBIGUOUS, f"{error}. Drop or rename the others, or name a schema."
            )
        except (psycopg.Error, OSError) as error:
            return LedgerState(
                Problem.LEDGER_UNREACHABLE,
                f"the ledger cannot be reached: {one_line(error)}. Claims wait in the queue; correct the Secret or the "
                "database.",
            )
        if one is None and not (many and many.set_based):
            return LedgerState(
                Problem.LEDGER_FUNCTION_MISSING,
                f"the ledger has no function {function}(jsonb). Create it (sql/ledger is the reference), or correct "
                "spec.commitTarget.postgres.function.",
            )
        return LedgerState()


class AmbiguousError(psycopg.ProgrammingError):
    """Several functions could be meant: nobody could say whose word it is."""


@dataclass(frozen=True)
class _Function:
    form: str
    set_based: bool
    returns_text: bool


def from_elsewhere(uri: str, namespace: str) -> str:
    """The URI as it has to be for a pod of another namespace: a bare host name is a Service beside the event.

    Raises psycopg.ProgrammingError for a URI that cannot be parsed, without a word of it: it has a password.
    """
    parameters = uris.read(uri)
    if "hostaddr" not in parameters and (hosts := parameters.get("host")):
        parameters["host"] = ",".join(_absolute(host, namespace) for host in hosts.split(","))
    return make_conninfo(**parameters)


def _absolute(host: str, namespace: str) -> str:
    # With a dot it is a domain's or an IPv4 address, with a colon an IPv6 address, with a slash a socket.
    return host if not host or any(mark in host for mark in ".:/") else f"{host}.{namespace}.svc"


def key(uri: str, namespace: str, function: str) -> LedgerKey | None:
    """What tells one ledger from another: hosts with ports, database, function. None for a URI that is refused."""
    try:
        parts = uris.read(from_elsewhere(uri, namespace))
    except psycopg.Error:
        return None
    hosts, ports = (parts.get("hostaddr") or parts.get("host", "")).split(","), parts.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    database = parts.get("dbname") or parts.get("user", "")
    places = (f"{_spelt(host)} {port or 5432}" for host, port in zip(hosts, ports, strict=False))
    return (",".join(places), database, function)


def _spelt(host: str) -> str:
    """One spelling of a host: an IPv6 address has many, and a Service's name may have its domain behind it."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host if host.startswith("/") else host.lower().rstrip(".").removesuffix(".cluster.local")


async def account(uri: str, pool: str) -> Account | None:
    """The ledger's own account of a pool; None when it offers none (`ledger_proof` is optional for users' ledgers).

    Raises psycopg.Error, too, where it offers several, or answers with something else than four numbers.
    """
    async with bounded(PROOF_TIMEOUT), await _connect(uri) as connection:
        if not await offers(connection, "ledger_proof"):
            return None
        rows = await (await connection.execute(PROOF, (pool,))).fetchall()
    # Not "none offered", which would pass for the word of a ledger that keeps no account.
    if len(rows) != 1 or None in rows[0]:
        raise psycopg.DataError(
            f"ledger_proof must return one row of four numbers for any pool, and returned "
            f"{'a NULL' if len(rows) == 1 else f'{len(rows)} rows'} for this one"
        )
    return Account(*rows[0])


def difference(told: Account, ours: Account) -> str:
    """What the ledger says, and what DB1 says, in words."""
    return (
        f"the ledger has {told.committed} committed, {told.voided} voided;"
        f" the database {ours.committed} and {ours.voided}"
        + ("" if told.slots == ours.slots else f"; the ledger has sold {told.slots} slots, the database {ours.slots}")
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
    found = await _callable(connection, ".".join([*schema, "void_claim"]))
    usable = found is not None and not found.set_based and found.returns_text
    return sql.Identifier(*schema, "void_claim") if usable else None


async def offers(connection: AsyncConnection, name: str) -> bool:
    """Whether the ledger has a function to read from. Raises AmbiguousError for more than one: which is it?"""
    async with bounded(CALL_TIMEOUT):
        found = [form for (form,) in await (await connection.execute(NAMED, {"name": name})).fetchall()]
    if len(found) > 1:
        raise AmbiguousError(
            f"ambiguous: the ledger has {len(found)} functions named {name}, and must have one: {', '.join(found)}"
        )
    return bool(found)


async def _callable(connection: AsyncConnection, function: str) -> _Function | None:
    """What a call of the function with one jsonb means. Raises AmbiguousError."""
    schema, _, name = function.rpartition(".")
    async with bounded(CALL_TIMEOUT):
        rows = await (await connection.execute(CALLABLE, {"name": name, "schema": schema})).fetchall()
    found = [_Function(*row) for row in rows]
    if len(found) > 1:
        forms = ", ".join(each.form for each in found)
        raise AmbiguousError(
            f"ambiguous: {len(found)} functions {name} can be called with one jsonb, and there must be one: {forms}"
        )
    return found[0] if found else None


async def void(connection: AsyncConnection, voider: sql.Identifier, payload: Mapping[str, object]) -> str:
    """The ledger's word on a claim that is to be given up: voided, committed, conflict. Raises TimeoutError, too."""
    # Without escapes: those of other databases than UTF8 know few of them, or none.
    text = json.dumps(payload, ensure_ascii=False)
    async with bounded(CALL_TIMEOUT):
        await _written(connection, text)
        found = await connection.execute(sql.SQL("SELECT {}(%s)").format(voider), (Jsonb(text, dumps=str),))
        row = await found.fetchone()
    return str(row[0]) if row else ""


async def _written(connection: AsyncConnection, text: str) -> None:
    """Raises psycopg.DataError where the ledger's encoding has not every character of a text, or makes others of them.

    The bridge asks the same: another name would be voided than the one that was claimed.
    """
    if text.isascii():
        return
    try:
        row = await (await connection.execute(KEEPS, (text, text.encode()))).fetchone()
    except psycopg.DataError as error:
        if error.sqlstate not in NO_SUCH_CHARACTER:
            raise
        row = None
    if row is None or not row[0]:
        found = await (await connection.execute("SELECT pg_catalog.getdatabaseencoding()")).fetchone()
        assert found is not None
        raise psycopg.errors.UntranslatableCharacter(
            f"the ledger's database has the encoding {found[0]}, which has not every character of this claim (user or "
            "request): it can be neither committed nor voided there. Move the ledger to a database in UTF8"
        )


def of_the_claim(error: psycopg.Error) -> bool:
    """Whether the ledger refused this claim alone. After any other error the next claim would fail, too."""
    return subject(error.sqlstate) is Subject.CLAIM


async def _connect(uri: str) -> AsyncConnection:
    # Never prepared, and nothing set for the session: a transaction pooler may stand before the ledger.
    return await connect(uri, application_name=names.FIELD_MANAGER, autocommit=True, prepare_threshold=None)
