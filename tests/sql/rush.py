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
from psycopg.types.json import Jsonb

from tests.sql.intake import BATCH, CLAIM, POOL, SEATS, SEVERAL, Answer, Intake, as_jsonb, connections

DEADLOCK = Answer("deadlock", None, None, None)
DIFFERENT = Answer("different", None, None, None)
AGAIN = {"busy", "deadlock"}
SOLD = {"held", "queued", "dead", "committed"}


@dataclass(frozen=True)
class Wanted:
    """What a buyer asks for."""

    user: str
    request: str | None = None
    quantity: int = 1
    seats: tuple[str, ...] = ()
    payload: str | None = None


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
        return await ask_in_batch(connection, call)
    (wanted,) = call
    cursor = connection.cursor(row_factory=class_row(Answer))
    who, rest = (POOL, wanted.user), (wanted.request, payload_of(wanted))
    try:
        if wanted.seats:
            await cursor.execute(SEATS, (*who, list(wanted.seats), *rest))
        elif wanted.quantity > 1:
            await cursor.execute(SEVERAL, (*who, wanted.quantity, *rest))
        else:
            await cursor.execute(CLAIM, (*who, *rest))
    except psycopg.Error as error:
        if error.sqlstate != "IE009":
            raise
        return [Got(wanted, (DIFFERENT,))]
    return [Got(wanted, tuple(await cursor.fetchall()))]


async def ask_in_batch(connection: psycopg.AsyncConnection, call: Call) -> list[Got]:
    """One call of claim_batch()."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(
        BATCH,
        (
            POOL,
            [wanted.user for wanted in call],
            [wanted.request for wanted in call],
            [wanted.quantity for wanted in call],
            [payload_of(wanted) for wanted in call],
        ),
    )
    rows = defaultdict[int, list[Answer]](list)
    for n, *answer in sorted(await cursor.fetchall(), key=lambda row: (row[0], row[4] or 0)):
        rows[n].append(Answer(*answer))
    assert rows.keys() == set(range(1, len(call) + 1)), "an answer for each"
    return [Got(wanted, tuple(rows[n])) for n, wanted in enumerate(call, 1)]


def payload_of(wanted: Wanted) -> Jsonb | None:
    """What the request sends along."""
    return as_jsonb(wanted.payload and {"order": wanted.payload})


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
    """The slots that were acknowledged as claimed now."""
    return [answer for got in history if got.outcome == "claimed" for answer in got.answers]


def check_history(intake: Intake, history: Sequence[Got]) -> dict[UUID, str]:
    """I1, I2, I6, I7 and I13: every answer ever given, against what DB1 has. Returns where each claim is."""
    violations = intake.reconcile()
    assert not violations, violations
    places: dict[UUID, str] = {}
    facts: dict[UUID, Fact] = {}
    made: dict[tuple[str, str], UUID] = {}
    for place, message in intake.rows("SELECT place, message FROM intake.intents"):
        claim_id, user, request = UUID(message["claim_id"]), message["user_id"], message["request_id"]
        assert claim_id not in places, f"I2: claim {claim_id} is in two places"
        seats = {seat["slot_no"]: UUID(seat["resource_id"]) for seat in message["seats"]}
        assert len(seats) == len(message["seats"]), f"I1: claim {claim_id} has a slot twice"
        places[claim_id], facts[claim_id] = place, Fact(user, request, seats, message["payload"])
        if request:
            assert (user, request) not in made, f"I7: request {request} of {user} made two claims"
            made[user, request] = claim_id
    for got in history:
        if got.answers and got.answers[0].claim_id:
            check_answer(got, facts)
            assert not got.wanted.request or got.answers[0].claim_id == made[got.wanted.user, got.wanted.request]
    new = [got.answers[0].claim_id for got in history if got.outcome == "claimed"]
    assert len(new) == len(set(new)), "I7: one claim, acknowledged as new twice"
    sold = [slot_no for claim_id, place in places.items() if place in SOLD for slot_no in facts[claim_id].seats]
    assert len(sold) == len(set(sold)), "I1: one slot, two claims"
    size = intake.value("SELECT inventory_size FROM intake.engine_config WHERE pool_id = %s", POOL)
    counts = intake.status()["inventory"]
    assert counts["available"] + len(sold) == size, f"I6: {counts}"
    assert counts["held"] + counts["reserved"] + counts["consumed"] == len(sold), f"I6: {counts}"
    return places


@dataclass(frozen=True)
class Fact:
    """A claim as DB1 has it."""

    user: str
    request: str | None
    seats: dict[int, UUID]
    payload: dict[str, str] | None


def check_answer(got: Got, facts: dict[UUID, Fact]) -> None:
    """An answer with a claim: all slots of one claim, which is what was asked for."""
    (claim_id,) = {answer.claim_id for answer in got.answers}
    assert claim_id in facts, f"I2: {claim_id} was acknowledged and is lost"
    fact, wanted = facts[claim_id], got.wanted
    assert (fact.user, fact.request) == (wanted.user, wanted.request), "another claim"
    assert len(got.answers) == len(fact.seats) == (len(wanted.seats) or wanted.quantity), f"{got}: part of a claim"
    assert {answer.slot_no: answer.resource_id for answer in got.answers} == fact.seats, "another claim"
    assert fact.payload == (wanted.payload and {"order": wanted.payload}), f"I13: {wanted} made {fact}"


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
        answers = []
        for message in messages:
            keys = ("claim_id", "user_id", "request_id", "claimed_at", "seats", "payload", "validation")
            claim = {key: message[key] for key in keys} | {"pool_id": POOL}
            row = self.ledger.execute(f"SELECT {function}(%s)".encode(), [json.dumps(claim, default=str)]).fetchone()
            assert row is not None
            answer = row[0] if isinstance(row[0], dict) else {"outcome": row[0], "receipt": None}
            assert answer["outcome"] != "conflict", "I1: the ledger was asked to sell a slot twice"
            answers.append(answer)
        words = ["committed" if answer["outcome"] == "duplicate" else answer["outcome"] for answer in answers]
        receipts = [as_jsonb(answer["receipt"]) for answer in answers]
        return len(self.intake.change("acknowledge", messages, words, receipts)) if messages else 0

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
