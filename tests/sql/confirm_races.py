"""Races for holds at the moment when they end: confirmations against the expiry.

    uv run python -m tests.sql.confirm_races 10000

makes a server of its own, races for so many holds, and prints what came of them. test_hold_races.py runs some hundreds.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row, tuple_row

from tests.postgres import PostgresServer, install_intake
from tests.sql.intake import POOL, Intake, Request, connections

HOLDS_A_ROUND = 100
BUYERS = 8


@dataclass(frozen=True)
class Hold:
    """A hold that is about to end."""

    claim_id: UUID
    user: str
    expires_at: datetime


@dataclass
class Result:
    """What was answered, and what is wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    across: Counter[str] = field(default_factory=Counter)
    """The answers of transactions that began before the end of their hold and ended after it."""
    lead: float = 0.02
    """At most so many seconds before the end of its hold a confirmation begins."""
    wrong: list[str] = field(default_factory=list)
    """Confirmed and expired, or neither; and what reconcile() finds. Must stay empty."""

    @property
    def was_a_race(self) -> bool:
        """Whether each side has won, and some transactions were under way when their hold ended."""
        return bool(self.across["confirmed"] and self.answers["expired"])

    def adapt(self, confirmed: int) -> None:
        """Let the next round aim as fast as this machine confirms: otherwise one side wins all of them."""
        self.lead = min(0.2, self.lead * 1.5) if confirmed < HOLDS_A_ROUND / 2 else self.lead / 1.5

    def __str__(self) -> str:
        said, across = (
            ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
            for answers in (self.answers, self.across)
        )
        return f"{said}; of these across the end of the hold: {across}; wrong: {len(self.wrong)}"


async def confirm(
    connection: psycopg.AsyncConnection, holds: list[Hold], lead: float, said: dict[UUID, str], across: set[UUID]
) -> None:
    """Confirm holds until none is left, each in a transaction of some milliseconds; one in ten is rolled back."""
    cursor = connection.cursor(row_factory=tuple_row)
    while holds:
        hold = holds.pop()
        undo = random.random() < 0.1
        # Aim at the end of the hold: the transaction begins shortly before it, and some end after it.
        aim = hold.expires_at - timedelta(seconds=lead * random.random())
        await asyncio.sleep((aim - datetime.now(UTC)).total_seconds())
        begun = datetime.now(UTC)
        async with connection.transaction(force_rollback=undo):
            await cursor.execute("SELECT intake.confirm_claim(%s, %s, %s)", (POOL, hold.claim_id, hold.user))
            answer: str = (await cursor.fetchall())[0][0]
            await cursor.execute("SELECT pg_sleep(random() * 0.01)")
        said[hold.claim_id] = "rolled back" if undo and answer == "confirmed" else answer
        if begun < hold.expires_at < datetime.now(UTC):
            across.add(hold.claim_id)


def end_soon(intake: Intake) -> list[Hold]:
    """Let all holds end in the next moments, the first one last in the list."""
    cursor = intake.connection.cursor(row_factory=class_row(Hold))
    cursor.execute(
        "UPDATE intake.holds SET expires_at = clock_timestamp() + random() * interval '500 ms' WHERE ended IS NULL"
        """ RETURNING claim_id, message ->> 'user_id' AS "user", expires_at"""
    )
    return sorted(cursor.fetchall(), key=lambda hold: hold.expires_at, reverse=True)


async def race_once(uri: str, intake: Intake, result: Result) -> None:
    """One round: every hold is confirmed at about the moment when it ends, while housekeeping runs without a pause."""
    intake.claim_requests([Request(f"u{n}") for n in range(HOLDS_A_ROUND)])
    said: dict[UUID, str] = {}
    across: set[UUID] = set()
    async with connections(uri, BUYERS + 1) as made:

        async def expire() -> None:
            while len(said) < HOLDS_A_ROUND:
                await made[0].execute("SELECT intake.housekeep(%s)", (POOL,))

        holds = end_soon(intake)
        assert len(holds) == HOLDS_A_ROUND
        await asyncio.gather(expire(), *(confirm(each, holds, result.lead, said, across) for each in made[1:]))
    intake.expire_holds()  # those whose confirmation was rolled back
    intake.housekeep()
    places = dict(intake.rows("SELECT (message ->> 'claim_id')::uuid, place FROM intake.intents"))
    for claim_id, answer in said.items():
        if places[claim_id] != ("queued" if answer == "confirmed" else "expired"):
            result.wrong.append(f"{claim_id}: {answer}, and it is {places[claim_id]}")
    result.wrong += [f"{invariant}: {detail}" for invariant, detail in intake.reconcile()]
    result.answers.update(said.values())
    result.adapt(list(said.values()).count("confirmed"))
    result.across.update(said[claim_id] for claim_id in across)


async def race(uri: str, holds: int) -> Result:
    """Race for so many holds, some at a time; for more of them, if that was no race yet."""
    result = Result()
    with Intake(uri) as intake:
        intake.open(2 * HOLDS_A_ROUND, holdSeconds=60)
        while result.answers.total() < holds or not (result.was_a_race or result.wrong):
            await race_once(uri, intake, result)
            intake.acknowledge(intake.read(10_000), "voided")
    return result


def main() -> None:
    """Race on a server of our own."""
    with PostgresServer() as server:
        install_intake(server.create_database("intake"))
        begun = time.perf_counter()
        result = asyncio.run(race(server.uri("intake"), int(sys.argv[1])))
    print(f"{result}; {time.perf_counter() - begun:.0f} s")
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
