"""Which function of a ledger is meant: none, one, or several, of which nobody could say whose word it is."""

from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from intake_operator.ledger import ledgers
from intake_operator.ledger.compare import read_sales
from intake_operator.ledger.ledgers import AmbiguousError, Ledgers
from intake_operator.model.observed import Event, LedgerState
from intake_operator.model.proof import Account
from intake_operator.pools import Pools
from intake_operator.reasons import PoolReason, Problem
from psycopg import AsyncConnection

from tests.postgres import PostgresServer, install_ledger

POOL = "taylor-la-night-1"
PROOF = (
    "CREATE FUNCTION ledger_proof(pool_id text, OUT committed bigint, OUT voided bigint, OUT slots bigint,"
    " OUT digest bigint)"
)
AMBIGUOUS = {
    "finalize_transaction": "(jsonb, dry boolean DEFAULT true) RETURNS text LANGUAGE sql RETURN 'committed'",
    "finalize_transactions": "(jsonb, dry boolean DEFAULT true) RETURNS text LANGUAGE sql RETURN 'committed'",
    "void_claim": "(jsonb, why text DEFAULT '') RETURNS text LANGUAGE sql RETURN 'voided'",
    "ledger_proof": "(a text, b text) RETURNS int LANGUAGE sql RETURN 1",
    "ledger_claims": "(pool_id text, after uuid, most bigint) RETURNS int LANGUAGE sql RETURN 1",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_ledger(running.create_database("as_installed"))
        yield running


@pytest.fixture
def uri(server: PostgresServer) -> Iterator[str]:
    """A reference ledger."""
    yield server.create_database("books", "as_installed")
    server.drop_database("books")


@pytest.fixture
async def books(uri: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(uri, autocommit=True) as owner:
        yield owner


async def look(uri: str, function: str = "finalize_transaction") -> LedgerState:
    return await Ledgers(lambda: 0.0).check("uid", uri, "tickets", function)


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_two_that_could_be_meant_are_said_before_anything_is_sold(
    books: AsyncConnection, uri: str, name: str
) -> None:
    await books.execute(f"CREATE FUNCTION {name}{AMBIGUOUS[name]}".encode())
    seen = await look(uri)
    assert seen.problem is Problem.LEDGER_FUNCTION_AMBIGUOUS
    assert "ambiguous" in seen.message
    assert f"{name}(" in seen.message, "both are shown"


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_one_that_is_hidden_or_cannot_be_called_so_is_no_second_one(
    books: AsyncConnection, uri: str, name: str
) -> None:
    await books.execute("CREATE SCHEMA old")
    await books.execute(f"CREATE FUNCTION old.{name}{AMBIGUOUS[name]}".encode())
    if not name.startswith("ledger_"):
        await books.execute(f"CREATE FUNCTION {name}(claim_no int) RETURNS text LANGUAGE sql RETURN ''".encode())
    assert await look(uri) == LedgerState()


async def test_each_schema_has_its_own(books: AsyncConnection, uri: str) -> None:
    await books.execute("CREATE SCHEMA shop")
    for name in ("finalize_transaction", "void_claim"):
        await books.execute(f"CREATE FUNCTION shop.{name}(jsonb) RETURNS text LANGUAGE sql RETURN 'voided'".encode())
    assert await look(uri, "shop.finalize_transaction") == LedgerState()
    await books.execute("CREATE FUNCTION shop.void_claim(a jsonb, b int DEFAULT 1) RETURNS text LANGUAGE sql RETURN ''")
    assert (await look(uri, "shop.finalize_transaction")).problem is Problem.LEDGER_FUNCTION_AMBIGUOUS
    assert await look(uri) == LedgerState()


async def test_operator_and_bridge_take_the_same_for_a_commit_function(books: AsyncConnection, uri: str) -> None:
    """The set form alone is enough; one that takes something else than a jsonb is none."""
    await books.execute("DROP FUNCTION finalize_transaction")
    assert await look(uri) == LedgerState()
    await books.execute("DROP FUNCTION finalize_transactions")
    await books.execute("CREATE FUNCTION finalize_transaction(text) RETURNS text LANGUAGE sql RETURN 'committed'")
    seen = await look(uri)
    assert seen.problem is Problem.LEDGER_FUNCTION_MISSING
    assert "finalize_transaction(jsonb)" in seen.message


async def test_ambiguous_claims_are_read_by_nobody(books: AsyncConnection, uri: str) -> None:
    await books.execute(f"CREATE FUNCTION ledger_claims{AMBIGUOUS['ledger_claims']}".encode())
    with pytest.raises(AmbiguousError, match="2 functions named ledger_claims"):
        await ledgers.offers(books, "ledger_claims")


async def test_an_ambiguous_void_claim_gives_up_nothing(books: AsyncConnection) -> None:
    await books.execute(f"CREATE FUNCTION void_claim{AMBIGUOUS['void_claim']}".encode())
    with pytest.raises(AmbiguousError, match="2 functions void_claim"):
        await ledgers.voider(books, "finalize_transaction")


async def test_the_only_void_claim_may_have_a_further_argument_with_a_default(books: AsyncConnection) -> None:
    await books.execute("DROP FUNCTION void_claim")
    await books.execute(f"CREATE FUNCTION void_claim{AMBIGUOUS['void_claim']}".encode())
    voider = await ledgers.voider(books, "finalize_transaction")
    assert voider is not None
    assert await ledgers.void(books, voider, {"claim_id": "x"}) == "voided"


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (PROOF.replace("OUT digest bigint)", "OUT digest bigint) RETURNS SETOF record") + " LANGUAGE sql AS"
         " $$ SELECT 1::bigint, 0::bigint, 1::bigint, 5::bigint WHERE false $$", "0 rows"),
        (PROOF.replace("OUT digest bigint)", "OUT digest bigint) RETURNS SETOF record") + " LANGUAGE sql AS"
         " $$ SELECT 1::bigint, 0::bigint, 1::bigint, 5::bigint FROM generate_series(1, 2) $$", "2 rows"),
        (PROOF + " LANGUAGE sql AS $$ SELECT 1::bigint, 0::bigint, 1::bigint, NULL::bigint $$", "a NULL"),
    ],
)  # fmt: skip
async def test_a_proof_that_says_nothing_is_an_error_and_not_the_lack_of_one(
    books: AsyncConnection, uri: str, event: Callable[..., Event], form: str, told: str
) -> None:
    """A ledger that offers no proof is believed: one that groups by pool, and finds no row, is not."""
    await books.execute("DROP FUNCTION ledger_proof")
    await books.execute(form.encode())
    with pytest.raises(psycopg.Error, match=f"one row of four numbers.*{told}"):
        await ledgers.account(uri, POOL)

    class Objects:
        async def get(self, *_: str) -> None:
            return None

        async def list_everywhere(self, *_: object) -> list[dict[str, object]]:
            return []

    checked = await Pools(Objects(), lambda: 0.0).check(event(), uri)
    assert (checked.reason, told in checked.message) == (PoolReason.WAITING, True)


async def test_a_proof_may_count_in_any_type_of_number(books: AsyncConnection, uri: str) -> None:
    await books.execute("DROP FUNCTION ledger_proof")
    await books.execute(
        "CREATE FUNCTION ledger_proof(p text, OUT committed int, OUT voided smallint, OUT slots numeric,"
        " OUT digest numeric) LANGUAGE sql AS $$ SELECT 1, 0::smallint, 1.0, -5::numeric $$"
    )
    assert await ledgers.account(uri, POOL) == Account(1, 0, 1, -5)


async def test_claims_may_come_in_types_of_the_ledger_s_own(books: AsyncConnection) -> None:
    await books.execute("DROP FUNCTION ledger_claims")
    await books.execute("CREATE TYPE fate AS ENUM ('committed', 'voided')")
    await books.execute("CREATE DOMAIN buyer AS varchar(80)")
    await books.execute(
        "CREATE FUNCTION ledger_claims(pool varchar, after uuid, most bigint) RETURNS TABLE (claim_id uuid, state fate,"
        " user_id buyer, request_id char(3), claimed_at timestamptz, slot_nos int[], resource_ids uuid[]) LANGUAGE sql"
        " AS $$ SELECT '01900000-0000-7000-8000-000000000001'::uuid, 'committed'::fate, 'ann', 'r-1',"
        " '2026-12-01T18:00Z'::timestamptz, '{1}'::int[], '{NULL}'::uuid[] WHERE after IS NULL $$"
    )
    (page,) = [page async for page in read_sales(books, POOL, lambda: 0.0)]
    (sale,) = page
    assert (sale.state, sale.user_id, sale.request_id, sale.slot_nos) == ("committed", "ann", "r-1", (1,))
    assert sale.claimed_at is not None
    assert sale.claimed_at.isoformat() == "2026-12-01T18:00:00+00:00"
