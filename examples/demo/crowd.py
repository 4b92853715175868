"""A crowd of buyers who press Buy, and a record of every answer that they were given.

It does what a shop's web back end does: connect as the role `claimer` with the URI out of the Secret `<event>-app`,
and call `intake.claim_resources` for one or several seats, with what the validator needs to charge for them. Every
buyer has a request id, and sends the same one again when an answer stays away. Some press twice; some lose their
connection before the answer and press again.

Standard output is the record: a JSON line for each press, and a last line with the sums, by which a reader knows that
the record is whole. It ends by itself: the number of buyers and the time are bounded.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from intake_shared.confirmed import ConfirmedConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

CLAIM = "SELECT outcome, claim_id, resource_id, slot_no FROM intake.claim_resources(%s, %s, %s, %s, %s)"
CLAIM_ON_THE_WIRE = b"SELECT outcome FROM intake.claim_resources($1, $2, $3, $4, $5)"

# Answers that mean "press again"; every other one is final.
AGAIN = frozenset({"not_open", "not_ready", "paused", "busy", "error"})
GRANTED = frozenset({"claimed", "replayed"})

PAUSE_SECONDS = 0.25
MAX_BUYERS = 20_000  # their record stays below the 10 MiB at which the kubelet turns a container's log over


@dataclass(frozen=True)
class Buyer:
    """One user who wants one ticket or several, in any slots."""

    user_id: str
    request_id: str
    arrives: float  # seconds after the sale has opened for the crowd
    presses_twice: bool
    loses_connection: bool
    seats: int = 1

    def payload(self) -> dict[str, str]:
        """What the shop sends along for validator and ledger. The same at every press."""
        return {"payment_token": f"token-{self.request_id}", "email": f"{self.user_id}@example.com"}


class Crowd:
    """All buyers, the connections they share, and the record."""

    def __init__(self, uri: str, pool_id: str, connections: int, deadline: float) -> None:
        self._uri = uri
        self._pool_id = pool_id
        self._deadline = deadline
        self._counts: Counter[str] = Counter()
        self._contradictions = 0
        self._unanswered = 0
        # A lost database is met by pressing again, so nobody waits long for a connection.
        self._connections: AsyncConnectionPool[ConfirmedConnection] = AsyncConnectionPool(
            uri,
            connection_class=ConfirmedConnection,
            min_size=min(4, connections),
            max_size=connections,
            open=False,
            timeout=2,
            kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 5},
        )

    async def run(self, buyers: list[Buyer]) -> dict[str, Any]:
        """The first buyer waits for the sale to open; the others follow, each at their own moment."""
        first, *others = buyers
        async with self._connections:
            await self._buy(first)
            opened = time.monotonic()
            async with asyncio.TaskGroup() as everybody:
                for buyer in others:
                    await asyncio.sleep(max(0.0, opened + buyer.arrives - time.monotonic()))
                    everybody.create_task(self._buy(buyer))
        return {
            "lines": self._counts.total(),
            "contradictions": self._contradictions,
            "unanswered": self._unanswered,
            "outcomes": dict(self._counts),
        }

    async def _buy(self, buyer: Buyer) -> None:
        if buyer.loses_connection:
            await self._press_and_hang_up(buyer)
        answer = await self._press_until_final(buyer)
        if buyer.presses_twice and answer["outcome"] in GRANTED:
            again = await self._press_until_final(buyer)
            # No answer contradicts none: a lost connection, a busy or a rebuilding DB1 say nothing of the claim.
            replayed = (again["outcome"], again["claim_id"]) == ("replayed", answer["claim_id"])
            if not replayed and again["outcome"] not in AGAIN:
                self._contradictions += 1

    async def _press_until_final(self, buyer: Buyer) -> dict[str, Any]:
        while True:
            answer = await self._press(buyer)
            if answer["outcome"] not in AGAIN:
                return answer
            if time.monotonic() > self._deadline:
                self._unanswered += 1
                return answer
            await asyncio.sleep(PAUSE_SECONDS)

    async def _press(self, buyer: Buyer) -> dict[str, Any]:
        invoked = time.time()
        try:
            async with self._connections.connection() as connection:
                cursor = await connection.execute(
                    CLAIM, (self._pool_id, buyer.user_id, buyer.seats, buyer.request_id, Jsonb(buyer.payload()))
                )
                rows = await cursor.fetchall()
            # A row for each seat, all of one claim; or one row that says why there is none.
            answer = {"outcome": rows[0]["outcome"], "claim_id": rows[0]["claim_id"]}
            if answer["claim_id"] is not None:
                answer["seats"] = [{name: row[name] for name in ("slot_no", "resource_id")} for row in rows]
        except psycopg.Error as error:
            answer = {"outcome": "error", "error": f"{type(error).__name__} {error.sqlstate or ''}".strip()}
        return self._record(buyer, invoked, answer)

    async def _press_and_hang_up(self, buyer: Buyer) -> None:
        """Send the request and drop the connection before its answer: whether it counted, only a second press tells."""
        invoked = time.time()
        try:
            async with self._own_connection() as connection:
                payload = json.dumps(buyer.payload())
                arguments = (self._pool_id, buyer.user_id, str(buyer.seats), buyer.request_id, payload)
                connection.pgconn.send_query_params(CLAIM_ON_THE_WIRE, [value.encode() for value in arguments])
                connection.pgconn.flush()
        except psycopg.Error as error:
            self._record(buyer, invoked, {"outcome": "error", "error": type(error).__name__})
            return
        self._record(buyer, invoked, {"outcome": "unknown"})

    @asynccontextmanager
    async def _own_connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await psycopg.AsyncConnection.connect(self._uri, autocommit=True, connect_timeout=5)
        try:
            yield connection
        finally:
            connection.pgconn.finish()

    def _record(self, buyer: Buyer, invoked: float, answer: dict[str, Any]) -> dict[str, Any]:
        line = {
            "request_id": buyer.request_id,
            "user_id": buyer.user_id,
            "claim_id": None,
            "seats": [],
            **answer,
            "t_invoke": round(invoked, 6),
            "t_return": round(time.time(), 6),
        }
        self._counts[line["outcome"]] += 1
        print(json.dumps(line, default=str))
        return line


def gather(arguments: argparse.Namespace) -> list[Buyer]:
    """The buyers of a run; the same seed gives the same crowd, apart from its request ids."""
    dice = random.Random(arguments.seed)
    return [
        Buyer(
            user_id=f"{arguments.prefix}-{number:06d}",
            request_id=str(uuid.uuid4()),
            arrives=number / arguments.rate if arguments.rate else 0.0,
            presses_twice=dice.random() * 100 < arguments.twice_percent,
            loses_connection=dice.random() * 100 < arguments.hang_up_percent,
            seats=dice.randint(1, arguments.most_seats),
        )
        for number in range(arguments.buyers)
    ]


async def run(arguments: argparse.Namespace) -> None:
    """Run the crowd and print the last line."""
    uri = arguments.uri_file.read_text().strip()
    deadline = time.monotonic() + arguments.patience_seconds
    crowd = Crowd(uri, arguments.pool, arguments.connections, deadline)
    summary = await crowd.run(gather(arguments))
    print(json.dumps({"summary": summary}), flush=True)


def main() -> None:
    """Read the arguments; at least one buyer, at most MAX_BUYERS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri-file", type=Path, default=Path("/run/secrets/intake/uri"))
    parser.add_argument("--pool", required=True)
    parser.add_argument("--buyers", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="buyers a second; 0 = all at once")
    parser.add_argument("--most-seats", type=int, default=1, help="each buyer wants 1 to this many seats")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--twice-percent", type=float, default=5.0)
    parser.add_argument("--hang-up-percent", type=float, default=2.0)
    parser.add_argument("--patience-seconds", type=float, default=120.0, help="no press is repeated after this")
    parser.add_argument("--prefix", default="buyer")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not 1 <= arguments.buyers <= MAX_BUYERS:
        sys.exit(f"--buyers is 1 to {MAX_BUYERS}")
    # What goes wrong with a connection is an answer in the record; a pod's log would mix both.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
