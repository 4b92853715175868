"""A message is there when its transaction commits, with the number and time of when it was written: perhaps late."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
from mutants import LATE, MUTANTS
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from sale import POOL, Claim, Sale, Templates, open_sale

from tests.postgres import PostgresServer, install_intake

NUMBERS = itertools.count(1)


def _variants() -> list[object]:
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(None, id="as-written")] + [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == LATE
    ]


@pytest.fixture
async def read(
    request: pytest.FixtureRequest, server: PostgresServer, templates: Templates, sale: Sale
) -> AsyncIterator[Sale]:
    """The sale, or one with the mutant's reader."""
    if request.param is None:
        yield sale
        return
    uri = server.create_database(f"intake_of_a_bad_reader_{next(NUMBERS)}")
    install_intake(uri, MUTANTS[request.param].patch)
    async with open_sale(uri, sale.ledger_uri, 1000) as broken:
        yield broken


class Slow:
    """A buyer whose transaction stays open."""

    def __init__(self, sale: Sale, connection: AsyncConnection[dict[str, object]]) -> None:
        self._scene = sale
        self._connection = connection
        self.claim_id: UUID | None = None

    async def claim(self, user: str) -> None:
        """Claim, and do not commit."""
        cursor = await self._connection.execute("SELECT * FROM intake.claim_resource(%s, %s)", (POOL, user))
        (row,) = await cursor.fetchall()
        assert row["outcome"] == "claimed"
        self._scene.claims.append(Claim(row["claim_id"], user, (row["slot_no"],)))  # type: ignore[arg-type]
        self.claim_id = row["claim_id"]  # type: ignore[assignment]

    async def commit(self) -> None:
        """At last."""
        await self._connection.commit()


@pytest.mark.parametrize("read", _variants(), indirect=True)
async def test_a_message_committed_long_after_later_ones_were_sold_is_sold_with_the_next_batch(read: Sale) -> None:
    """No time is waited for: who reads a claim that was made after the commit reads the late one, too."""
    sale = read
    async with AsyncExitStack() as stack, sale.worker():
        slow = []
        for number in range(3):
            connection = await AsyncConnection.connect(sale.intake_uri, row_factory=dict_row)
            stack.push_async_callback(connection.close)
            slow.append(Slow(sale, connection))
            await slow[-1].claim(f"slow-{number}")
            await sale.claim(20)
            await sale.until_drained()
        # Neither in the order of their numbers nor at once; between them others are sold.
        for each in (slow[1], slow[0], slow[2]):
            assert each.claim_id not in await sale.sales()
            await each.commit()
            (sentinel,) = await sale.claim()

            async def sold(claim_id: UUID = sentinel.claim_id) -> bool:
                return claim_id in await sale.sales()

            await sale.until(sold, "a claim that was made after the late commit is sold")
            assert each.claim_id in await sale.sales()
        await sale.until_drained()
        await sale.check()
