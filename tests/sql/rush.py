"""A rush: claims of every kind over hundreds of connections, and bridges that work behind it with a real ledger."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, tuple_row

from tests.sql.intake import BATCH, CLAIM, POOL, SEAT, SEVERAL, Answer, Intake, connections

DEADLOCK = Answer("deadlock", None, None, None)
AGAIN = {"busy", "deadlock"}


@dataclass(frozen=True)
class Wanted:
    """What a buyer asks for."""

    user: str
    request: str | None = None
    quantity: int = 1
    seat: str | None = None


@dataclass(frozen=True)
class Got:
    """What came of it; no answers = the connection died before they came."""

    wanted: Wanted
    answers: tuple[Answer, ...] = ()

    @property
    def outcome(self) -> str:
        """The one outcome of all the answers."""
        return self.answers[0].outcome if self.answers else "lost"


type Call = tuple[Wanted, ...]
"""One call of one function: a batch, if there is more than one wanted."""


def singly(wanted_calls: Iterable[Wanted]) -> list[Call]:
    """A call for each."""
    return [(wanted,) for wanted in wanted_calls]


async def ask_for(connection: psycopg.AsyncConnection, call: Call) -> list[Got]:
    """Make the call; its transaction has committed when this returns."""
    if len(call) > 1:
        rows = connection.cursor(row_factory=tuple_row)
        await rows.execute(BATCH, (POOL, [wanted.user for wanted in call], [wanted.request for wanted in call]))
        found = sorted(await rows.fetchall())
        assert [row[0] for row in found] == list(range(1, len(call) + 1)), "one row for each"
        return [Got(wanted, (Answer(*row[1:]),)) for wanted, row in zip(call, found, strict=True)]
    (wanted,) = call
    cursor = connection.cursor(row_factory=class_row(Answer))
    if wanted.seat is not None:
        await cursor.execute(SEAT, (POOL, wanted.user, wanted.seat, wanted.request))
    elif wanted.quantity > 1:
        await cursor.execute(SEVERAL, (POOL, wanted.user, wanted.quantity, wanted.request))
    else:
        await cursor.execute(CLAIM, (POOL, wanted.user, wanted.request))
    return [Got(wanted, tuple(await cursor.fetchall()))]


async def rush(
    uri: str, count: int, calls: Sequence[Call], done: Callable[[list[Got]], Awaitable[None]] | None = None
) -> list[Got]:
    """Make all calls over `count` connections at once, each connection taking the next call as soon as it is free."""
    pending = iter(calls)
    history: list[Got] = []

    async def buyer(connection: psycopg.AsyncConnection) -> None:
        for call in pending:
            try:
                got = await ask_for(connection, call)
            except psycopg.errors.DeadlockDetected:
                got = [Got(wanted, (DEADLOCK,)) for wanted in call]
            except psycopg.OperationalError:
                history.extend(Got(wanted) for wanted in call)
                return
            history.extend(got)
            if done:
                await done(got)

    async with connections(uri, min(count, len(calls))) as buyers:
        await asyncio.gather(*(buyer(connection) for connection in buyers))
    return history


async def retry_until_answered(uri: str, count: int, calls: Sequence[Call]) -> list[Got]:
    """The same, and calls that are answered `busy` are repeated until none is.

    Calls that the server refuses for a deadlock are repeated too: with the last numbers a batch inserts some keys out
    of order. It has claimed nothing, and a retry is safe.
    """
    history: list[Got] = []
    while calls:
        got = await rush(uri, count, calls)
        calls = singly(g.wanted for g in got if g.outcome in AGAIN)
        history += [g for g in got if g.outcome not in AGAIN]
    return history


def outcomes_of(history: Iterable[Got]) -> Counter[str]:
    """How often each outcome was answered."""
    return Counter(got.outcome for got in history)


def claimed(history: Iterable[Got]) -> list[Answer]:
    """The claims that were acknowledged as new."""
    return [answer for got in history if got.outcome == "claimed" for answer in got.answers]


def check_history(intake: Intake, history: Sequence[Got]) -> dict[UUID, str]:
    """I1, I2, I6 and I7: everything that was ever answered, against what DB1 has. Returns where each claim is."""
    violations = intake.reconcile()
    assert not violations, violations
    places: dict[UUID, str] = {}
    facts: dict[UUID, tuple[str, int, UUID]] = {}
    made: dict[tuple[str, str], set[UUID]] = defaultdict(set)
    for claim_id, place, user, request, slot_no, resource in intake.rows(
        "SELECT (message ->> 'claim_id')::uuid, place, message ->> 'user_id', message ->> 'request_id',"
        " (message ->> 'slot_no')::int, (message ->> 'resource_id')::uuid FROM intake.intents"
    ):
        assert claim_id not in places, f"I2: claim {claim_id} is in two places"
        places[claim_id], facts[claim_id] = place, (user, slot_no, resource)
        if request:
            made[user, request].add(claim_id)
    answers_of: dict[tuple[str, str], set[frozenset[UUID | None]]] = defaultdict(set)
    for got in history:
        ids = frozenset(answer.claim_id for answer in got.answers if answer.claim_id)
        for answer in got.answers:
            if answer.claim_id:
                assert answer.claim_id in places, f"I2: {answer.claim_id} was acknowledged and is lost"
                assert facts[answer.claim_id] == (got.wanted.user, answer.slot_no, answer.resource_id), "another claim"
        if got.wanted.request:
            key = got.wanted.user, got.wanted.request
            assert len(made[key]) in {0, got.wanted.quantity}, f"{got.wanted} made {len(made[key])} claims"
            if ids:
                answers_of[key].add(ids)
    assert all(len(answers) == 1 for answers in answers_of.values()), "I7: two answers to one request"
    new = [answer.claim_id for answer in claimed(history)]
    assert len(new) == len(set(new)), "I7: one claim, acknowledged as new twice"
    held = [facts[claim_id][1] for claim_id, place in places.items() if place in {"queued", "dead", "committed"}]
    assert len(held) == len(set(held)), "I1: one slot, two claims"
    size = intake.value("SELECT inventory_size FROM intake.engine_config WHERE pool_id = %s", POOL)
    available, reserved, consumed = intake.inventory()
    assert (available + reserved + consumed, reserved + consumed) == (size, len(held)), f"I6: {intake.inventory()}"
    return places


class Bridge:
    """One worker over DB1 and the reference ledger."""

    def __init__(self, intake_uri: str, ledger_uri: str) -> None:
        self.intake = Intake(intake_uri)
        self.ledger = psycopg.connect(ledger_uri, autocommit=True)

    def close(self) -> None:
        """Hang up."""
        self.intake.connection.close()
        self.ledger.close()

    def finish(self, messages: list[dict[str, Any]], function: str) -> int:
        """Ask the ledger for each message, and acknowledge what it says."""
        words = []
        for message in messages:
            keys = ("claim_id", "user_id", "slot_no", "resource_id", "request_id", "claimed_at")
            payload = {key: message[key] for key in keys} | {"pool_id": POOL}
            row = self.ledger.execute(f"SELECT {function}(%s)".encode(), [json.dumps(payload, default=str)]).fetchone()
            assert row is not None
            assert row[0] != "conflict", "I1: the ledger was asked to sell a slot twice"
            words.append("committed" if row[0] == "duplicate" else row[0])
        return len(self.intake.change("acknowledge", messages, words)) if messages else 0

    def round(self, limit: int = 20) -> int:
        """Most claims are committed, some voided, a few die, a few are given back; releases are voided."""
        messages = self.intake.read(limit)
        self.intake.change("mark_validated", messages)
        ended = self.finish(messages[:13], "finalize_transaction") + self.finish(messages[13:17], "void_claim")
        self.intake.change("dead_letter", messages[17:18], ["poison"] * len(messages[17:18]))
        back = len(messages[18:19])
        self.intake.change("give_back", messages[18:19], [0.0] * back, ["again"] * back)
        return ended + self.finish(self.intake.read_releases(limit), "void_claim")

    def drain(self) -> None:
        """Until nothing is left on the queue or among the dead letters."""
        self.intake.expire_leases()
        while self.finish(self.intake.read(500), "finalize_transaction") + self.finish(
            self.intake.read_releases(500), "void_claim"
        ):
            letters = self.intake.column("SELECT msg_id FROM intake.dead_letters(%s, 1000)", POOL)
            self.intake.rows("SELECT intake.replay(%s, %s, 'ops', 'drain')", POOL, letters)
