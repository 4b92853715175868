"""DB1 as its callers see it: one method for each SQL function, and many buyers that call at once."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, Self
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row, tuple_row
from psycopg.types.json import Jsonb

POOL = "drop"
CLAIM: LiteralString = "SELECT * FROM intake.claim_resource(%s, %s, %s, %s)"
SEVERAL: LiteralString = "SELECT * FROM intake.claim_resources(%s, %s, %s, %s, %s)"
SEATS: LiteralString = "SELECT * FROM intake.claim_seats(%s, %s, %s, %s, %s)"
NOTHING = sql.SQL("")
BATCH: LiteralString = "SELECT * FROM intake.claim_batch(%s, %s, %s, %s, %s)"


@dataclass(frozen=True)
class Answer:
    """What a claim function returns for one slot."""

    outcome: str
    claim_id: UUID | None
    resource_id: UUID | None
    slot_no: int | None
    label: str | None = None
    attributes: dict[str, Any] | None = None
    expires_at: datetime | None = None
    differs: str | None = None


@dataclass(frozen=True)
class Request:
    """One request of a batch."""

    user: str | None
    request: str | None = None
    quantity: int | None = None
    payload: object = None


@dataclass(frozen=True)
class Asked:
    """One call and its answer; None = the connection broke before it came."""

    user: str
    request: str | None
    answer: Answer | None


def window(opens: timedelta = timedelta(hours=-1), closes: timedelta = timedelta(hours=1)) -> dict[str, str]:
    """A window around the present, on the clock that this machine shares with the server."""
    now = datetime.now(UTC)
    return {"opensAt": (now + opens).isoformat(), "closesAt": (now + closes).isoformat()}


class Intake:
    """One connection to DB1, every call a transaction of its own unless `transaction` says otherwise."""

    def __init__(self, uri: str, pool: str = POOL) -> None:
        self.uri = uri
        self.pool = pool
        self.connection = psycopg.connect(uri, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def rows(self, query: LiteralString, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.cursor(row_factory=tuple_row).execute(query, arguments).fetchall()

    def dicts(self, query: LiteralString, *arguments: object) -> list[dict[str, Any]]:
        """All rows of a query, by column name."""
        return self.connection.cursor(row_factory=dict_row).execute(query, arguments).fetchall()

    def value(self, query: LiteralString, *arguments: object) -> Any:  # noqa: ANN401 - whatever the query selects
        """The first column of the first row."""
        return self.rows(query, *arguments)[0][0]

    def column(self, query: LiteralString, *arguments: object) -> list[Any]:
        """The first column, sorted."""
        return sorted(row[0] for row in self.rows(query, *arguments))

    def configure(self, inventory: int, **settings: object) -> int:
        """Configure the pool; open now by default. Returns the generation."""
        config = window() | {"inventorySize": inventory} | settings
        return int(self.value("SELECT intake.configure(%s, %s)", self.pool, json.dumps(config)))

    def seed(self) -> int:
        """Provision or rebuild."""
        return int(self.value("SELECT intake.seed(%s)", self.pool))

    def open(self, inventory: int, **settings: object) -> Self:
        """A pool that is on sale."""
        self.configure(inventory, **settings)
        self.seed()
        return self

    def claim(self, user: str, request: str | None = None, payload: object = None) -> Answer:
        """The next slot."""
        return self.answers(CLAIM, self.pool, user, request, as_jsonb(payload))[0]

    def answers(self, query: LiteralString, *arguments: object) -> list[Answer]:
        """What a claim function answers, one for each row."""
        return self.connection.cursor(row_factory=class_row(Answer)).execute(query, arguments).fetchall()

    def claim_several(
        self, user: str, quantity: int | None, request: str | None = None, payload: object = None
    ) -> list[Answer]:
        """Several slots or none, as one claim."""
        return self.answers(SEVERAL, self.pool, user, quantity, request, as_jsonb(payload))

    def claim_seats(
        self, user: str, seats: Sequence[str | None], request: str | None = None, payload: object = None
    ) -> list[Answer]:
        """Named seats, all or none, as one claim."""
        return self.answers(SEATS, self.pool, user, list(seats), request, as_jsonb(payload))

    def claim_named(self, user: str, seat: str | None, request: str | None = None) -> Answer:
        """One named seat."""
        return self.claim_seats(user, [seat], request)[0]

    def claim_requests(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """A batch: the rows of each request, in their order, those of a claim by slot."""
        rows = self.rows(
            BATCH,
            self.pool,
            [r.user for r in requests],
            array_of(r.request for r in requests),
            array_of(r.quantity for r in requests),
            array_of(as_jsonb(r.payload) for r in requests),
        )
        rows.sort(key=lambda row: (int(row[0]), row[4] or 0))
        answers: list[list[Answer]] = [[] for _ in requests]
        for row in rows:
            answers[row[0] - 1].append(Answer(*row[1:]))
        assert all(answers), "at least one row for each"
        return answers

    def claim_batch(self, callers: Sequence[tuple[str | None, str | None]]) -> list[Answer]:
        """One slot for each (user, request), in their order."""
        answers = self.claim_requests([Request(user, request) for user, request in callers])
        assert all(len(each) == 1 for each in answers), "one row for each"
        return [each[0] for each in answers]

    def confirm(self, claim_id: UUID | None, user: str, payload: object = None) -> str:
        """Send a hold on its way."""
        return str(
            self.value("SELECT intake.confirm_claim(%s, %s, %s, %s)", self.pool, claim_id, user, as_jsonb(payload))
        )

    def extend_hold(self, claim_id: UUID | None, user: str) -> tuple[str, datetime | None]:
        """More time for a hold."""
        found: tuple[str, datetime | None] = self.rows(
            "SELECT * FROM intake.extend_hold(%s, %s, %s)", self.pool, claim_id, user
        )[0]
        return found

    def expire_holds(self) -> None:
        """Let the time of every hold pass."""
        self.connection.execute("UPDATE intake.holds SET expires_at = clock_timestamp() - interval '1 s'")

    def release(self, claim_id: UUID | None, reason: str = "changed my mind") -> str:
        """Give a claim back."""
        return str(self.value("SELECT intake.release_claim(%s, %s, %s)", self.pool, claim_id, reason))

    def claim_status(self, claim_id: UUID | None) -> dict[str, Any]:
        """Where a claim is: the row of its first slot."""
        return self.claim_slots(claim_id)[0]

    def claim_slots(self, claim_id: UUID | None) -> list[dict[str, Any]]:
        """Where a claim is, a row for each of its slots."""
        return self.dicts("SELECT * FROM intake.claim_status(%s, %s::uuid)", self.pool, claim_id)

    def request_status(self, user: str, request: str) -> list[dict[str, Any]]:
        """Where the claim of a request is, a row for each of its slots."""
        return self.dicts("SELECT * FROM intake.claim_status(%s, %s::text, %s)", self.pool, user, request)

    def stock(self, first: int, rows: Sequence[tuple[UUID, str | None]]) -> int:
        """Put resources of one's own behind the slots from `first` on."""
        ids, labels = [row[0] for row in rows], [row[1] for row in rows]
        return int(self.value("SELECT intake.stock(%s, %s, %s, %s)", self.pool, first, ids, labels))

    def read(self, limit: int = 100, worker: str = "worker") -> list[dict[str, Any]]:
        """Lease messages."""
        return self.dicts("SELECT * FROM intake.read_batch(%s, %s, %s)", self.pool, worker, limit)

    def read_releases(self, limit: int = 100, worker: str = "worker") -> list[dict[str, Any]]:
        """Lease messages that are to be voided."""
        return self.dicts("SELECT * FROM intake.read_releases(%s, %s, %s)", self.pool, worker, limit)

    def read_quarantined(self, worker: str = "worker") -> list[dict[str, Any]]:
        """Lease a quarantined message."""
        return self.dicts("SELECT * FROM intake.read_quarantined(%s, %s)", self.pool, worker)

    def change(self, function: LiteralString, messages: Sequence[dict[str, Any]], *more: list[Any]) -> list[int]:
        """Call a fenced function for leased messages; returns the ids it changed."""
        holes: LiteralString = ", ".join(["%s"] * (3 + len(more)))
        query: LiteralString = "SELECT intake." + function + "(" + holes + ")"
        ids, fences = [m["msg_id"] for m in messages], [m["read_ct"] for m in messages]
        return self.column(query, self.pool, ids, fences, *more)

    def acknowledge(self, messages: Sequence[dict[str, Any]], outcome: str) -> list[int]:
        """Acknowledge all with one outcome."""
        return self.change("acknowledge", messages, [outcome] * len(messages))

    def expire_leases(self) -> None:
        """Let the visibility timeout of every message pass."""
        self.connection.execute("UPDATE pgmq.q_intake_queue SET vt = clock_timestamp() - interval '1 s'")

    def status(self) -> dict[str, Any]:
        """engine_status."""
        found: dict[str, Any] = self.value("SELECT intake.engine_status(%s)", self.pool)
        return found

    def inventory(self) -> tuple[int, int, int]:
        """(available, reserved, consumed)."""
        counts = self.status()["inventory"]
        return counts["available"], counts["reserved"], counts["consumed"]

    def reconcile(self) -> list[tuple[Any, ...]]:
        """What reconcile finds."""
        return self.rows("SELECT invariant, detail FROM intake.reconcile(%s)", self.pool)

    def housekeep(self) -> int:
        """One round of housekeeping."""
        return int(self.value("SELECT intake.housekeep(%s)", self.pool))


def as_jsonb(value: object) -> Jsonb | None:
    """A value as the driver sends it to a parameter of type jsonb."""
    return None if value is None else Jsonb(value)


def slots(*rows: dict[str, Any]) -> list[int]:
    """The slots of leased messages or dead letters."""
    return [seat["slot_no"] for row in rows for seat in row["seats"]]


def array_of[T](values: Iterable[T | None]) -> list[T | None] | None:
    """An array that may be left out if it has nothing in it."""
    found = list(values)
    return None if all(value is None for value in found) else found


def error_of(call: Callable[[], object]) -> psycopg.Error:
    """The error that a call must end with."""
    try:
        call()
    except psycopg.Error as error:
        return error
    raise AssertionError("no error")


def empty(uri: str) -> None:
    """DB1 as migrated: no connections, every table empty, no sequences."""
    with psycopg.connect(uri, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        tables = owner.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname = 'intake' OR schemaname = 'pgmq' AND tablename ~ '^[aq]_'"
        ).fetchall()
        truncate(owner, tables, sql.SQL("RESTART IDENTITY"))
        for sequence in owner.execute(
            "SELECT sequencename FROM pg_sequences WHERE sequencename ~ '^numbers_'"
        ).fetchall():
            owner.execute(sql.SQL("DROP SEQUENCE {}").format(sql.Identifier("intake", *sequence)))


def truncate(owner: psycopg.Connection, tables: Iterable[tuple[str, str]], more: sql.SQL = NOTHING) -> None:
    """Empty tables, all at once."""
    names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
    owner.execute(sql.SQL("TRUNCATE {} {}").format(names, more))


def lose_unlogged(owner: psycopg.Connection) -> None:
    """What crash recovery does to UNLOGGED tables, without the crash: test_crash.py has the real one."""
    tables = owner.execute(
        "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"
    ).fetchall()
    truncate(owner, tables)


@asynccontextmanager
async def connections(uri: str, count: int) -> AsyncIterator[list[psycopg.AsyncConnection]]:
    """Many connections, all of them open before the first is used."""
    made = await asyncio.gather(*(psycopg.AsyncConnection.connect(uri, autocommit=True) for _ in range(count)))
    try:
        yield list(made)
    finally:
        await asyncio.gather(*(connection.close() for connection in made))


async def ask(connection: psycopg.AsyncConnection, user: str, request: str | None = None) -> Answer:
    """One claim over an async connection."""
    cursor = connection.cursor(row_factory=class_row(Answer))
    await cursor.execute(CLAIM, (POOL, user, request, None))
    return (await cursor.fetchall())[0]


async def crowd(
    uri: str,
    count: int,
    calls: Iterable[tuple[str, str | None]],
    done: Callable[[Asked], Awaitable[None]] | None = None,
) -> list[Asked]:
    """Make all calls over `count` connections at once, each connection taking the next call as soon as it is free."""
    pending = iter(calls)
    history: list[Asked] = []

    async def buyer(connection: psycopg.AsyncConnection) -> None:
        for user, request in pending:
            try:
                answer = await ask(connection, user, request)
            except psycopg.OperationalError:
                history.append(Asked(user, request, None))
                return
            history.append(Asked(user, request, answer))
            if done:
                await done(history[-1])

    async with connections(uri, count) as buyers:
        await asyncio.gather(*(buyer(connection) for connection in buyers))
    return history


def outcomes(history: Iterable[Asked]) -> Counter[str]:
    """How often each outcome was answered."""
    return Counter(asked.answer.outcome if asked.answer else "lost" for asked in history)


def claims(history: Iterable[Asked]) -> list[Answer]:
    """The claims that were acknowledged as new."""
    return [asked.answer for asked in history if asked.answer and asked.answer.outcome == "claimed"]


def wait_until_blocked(intake: Intake, *pending: Future[Any]) -> None:
    """Until the server says that as many sessions wait for a lock, or one of them needed not to."""
    while not any(future.done() for future in pending) and intake.value(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ) < len(pending):
        pass
