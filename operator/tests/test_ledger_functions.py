"""Which function of a ledger a call means: none, one, or several, which is an error."""

from collections.abc import AsyncIterator, Callable, Iterator

import given
import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.claims import ledger_claims
from intake_operator.ledger.functions import AmbiguousFunctionError, find_function, offers, unusable, void_function
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.voiding import void
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, LedgerState
from intake_operator.model.proof import Account
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
    return await LedgerChecks(lambda: 0.0).check("uid", Address(uri, "tickets"), function)


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_a_ledger_with_two_functions_of_a_name_is_reported_before_the_sale(
    books: AsyncConnection, uri: str, name: str
) -> None:
    await books.execute(f"CREATE FUNCTION {name}{AMBIGUOUS[name]}".encode())
    seen = await look(uri)
    assert seen.problem is Problem.LEDGER_FUNCTION_AMBIGUOUS
    assert "ambiguous" in seen.message
    assert f"{name}(" in seen.message, "both are shown"


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_a_hidden_function_or_one_with_other_arguments_is_no_second_one(
    books: AsyncConnection, uri: str, name: str
) -> None:
    await books.execute("CREATE SCHEMA old")
    await books.execute(f"CREATE FUNCTION old.{name}{AMBIGUOUS[name]}".encode())
    if not name.startswith("ledger_"):
        await books.execute(f"CREATE FUNCTION {name}(claim_no int) RETURNS text LANGUAGE sql RETURN ''".encode())
    assert await look(uri) == LedgerState()


async def test_each_schema_may_have_a_function_of_the_name(books: AsyncConnection, uri: str) -> None:
    await books.execute("CREATE SCHEMA shop")
    for name in ("finalize_transaction", "void_claim"):
        await books.execute(f"CREATE FUNCTION shop.{name}(jsonb) RETURNS text LANGUAGE sql RETURN 'voided'".encode())
    assert await look(uri, "shop.finalize_transaction") == LedgerState()
    await books.execute("CREATE FUNCTION shop.void_claim(a jsonb, b int DEFAULT 1) RETURNS text LANGUAGE sql RETURN ''")
    assert (await look(uri, "shop.finalize_transaction")).problem is Problem.LEDGER_FUNCTION_AMBIGUOUS
    assert await look(uri) == LedgerState()


async def test_operator_and_bridge_take_the_same_for_a_commit_function(books: AsyncConnection, uri: str) -> None:
    """The set-based form alone is enough. A function that takes anything but a jsonb does not count."""
    await books.execute("DROP FUNCTION finalize_transaction")
    assert await look(uri) == LedgerState()
    await books.execute("DROP FUNCTION finalize_transactions")
    await books.execute("CREATE FUNCTION finalize_transaction(text) RETURNS text LANGUAGE sql RETURN 'committed'")
    seen = await look(uri)
    assert seen.problem is Problem.LEDGER_FUNCTION_MISSING
    assert "finalize_transaction(jsonb)" in seen.message


TABLE = "RETURNS TABLE (claim_id uuid, outcome text{})"
EMPTY = "LANGUAGE sql AS $$ SELECT NULL::uuid, ''::text{} WHERE false $$"


@pytest.mark.parametrize(
    ("form", "receipt"),
    [
        (f"f(jsonb) {TABLE.format('')} {EMPTY.format('')}", None),
        (f"f(jsonb) {TABLE.format(', receipt jsonb')} {EMPTY.format(', NULL::jsonb')}", "jsonb"),
        ("f(jsonb, OUT claim_id uuid, OUT outcome text, OUT receipt jsonb) RETURNS SETOF record LANGUAGE sql AS"
         " $$ SELECT NULL::uuid, ''::text, NULL::jsonb WHERE false $$", "jsonb"),
        ("f(jsonb) RETURNS SETOF answer LANGUAGE sql AS $$ SELECT a.* FROM answer a $$", "jsonb"),
        (f"f(jsonb) {TABLE.format(', receipt text')} {EMPTY.format(', NULL::text')}", "text"),
    ],
)  # fmt: skip
async def test_the_receipt_of_a_set_is_its_column(books: AsyncConnection, form: str, receipt: str | None) -> None:
    await books.execute("CREATE TABLE answer (claim_id uuid, outcome text, receipt jsonb)")
    await books.execute(f"CREATE FUNCTION {form}".encode())
    found = await find_function(books, "f")
    assert found is not None
    assert (found.set_based, found.receipt, bool(unusable(None, found))) == (True, receipt, receipt == "text")


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        ("void", ""),
        ("text", ""),
        ("jsonb", ""),
        ("json", "finalize_transaction(jsonb) returns json, and must return void, text or jsonb"),
        ("SETOF text", "finalize_transaction(jsonb) returns a set, and must return void, text or jsonb"),
        ("integer", "finalize_transaction(jsonb) returns integer, and must return void, text or jsonb"),
    ],
)
async def test_a_form_that_bridges_cannot_call_is_reported_before_the_sale(
    books: AsyncConnection, uri: str, returns: str, told: str
) -> None:
    await books.execute("DROP FUNCTION finalize_transaction")
    body = "" if returns == "void" else f"SELECT NULL::{returns.removeprefix('SETOF ')}"
    await books.execute(
        f"CREATE FUNCTION finalize_transaction(jsonb) RETURNS {returns} LANGUAGE sql AS '{body}'".encode()
    )
    seen = await look(uri)
    assert seen.problem is (Problem.LEDGER_FUNCTION_MISSING if told else None)
    assert told in seen.message


async def test_an_ambiguous_ledger_claims_is_not_read(books: AsyncConnection, uri: str) -> None:
    await books.execute(f"CREATE FUNCTION ledger_claims{AMBIGUOUS['ledger_claims']}".encode())
    with pytest.raises(AmbiguousFunctionError, match="2 functions named ledger_claims"):
        await offers(books, "ledger_claims")


async def test_an_ambiguous_void_claim_voids_nothing(books: AsyncConnection) -> None:
    await books.execute(f"CREATE FUNCTION void_claim{AMBIGUOUS['void_claim']}".encode())
    with pytest.raises(AmbiguousFunctionError, match="2 functions void_claim"):
        await void_function(books, "finalize_transaction")


async def test_the_only_void_claim_may_have_a_further_argument_with_a_default(books: AsyncConnection) -> None:
    await books.execute("DROP FUNCTION void_claim")
    await books.execute(f"CREATE FUNCTION void_claim{AMBIGUOUS['void_claim']}".encode())
    void_claim = await void_function(books, "finalize_transaction")
    assert void_claim is not None
    assert await void(books, void_claim, {"claim_id": "x"}) == "voided"


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
async def test_a_ledger_proof_without_a_row_or_with_a_null_is_an_error(
    books: AsyncConnection, uri: str, event: Callable[..., Event], form: str, told: str
) -> None:
    """A ledger without ledger_proof is accepted. One whose ledger_proof groups by pool, and has no row, is not."""
    await books.execute("DROP FUNCTION ledger_proof")
    await books.execute(form.encode())
    with pytest.raises(psycopg.Error, match=f"one row of four numbers.*{told}"):
        await read_account(Address(uri, "tickets"), POOL)

    class Objects:
        async def get(self, *_: str) -> None:
            return None

        async def list_everywhere(self, *_: object) -> list[dict[str, object]]:
            return []

    reads = LongReads(lambda _: None)
    pools = Pools(Objects(), Objects(), lambda: 0.0, reads)
    assert "is being asked" in (await pools.check(event(), Address(uri, "tickets"), live=False)).message
    await given.ended(reads)
    checked = await pools.check(event(), Address(uri, "tickets"), live=False)
    assert (checked.reason, told in checked.message) == (PoolReason.WAITING, True)


async def test_a_ledger_proof_may_return_any_type_of_number(books: AsyncConnection, uri: str) -> None:
    await books.execute("DROP FUNCTION ledger_proof")
    await books.execute(
        "CREATE FUNCTION ledger_proof(p text, OUT committed int, OUT voided smallint, OUT slots numeric,"
        " OUT digest numeric) LANGUAGE sql AS $$ SELECT 1, 0::smallint, 1.0, -5::numeric $$"
    )
    assert await read_account(Address(uri, "tickets"), POOL) == Account(1, 0, 1, -5)


async def test_ledger_claims_may_return_types_of_the_ledger_s_own(books: AsyncConnection) -> None:
    await books.execute("DROP FUNCTION ledger_claims")
    await books.execute("CREATE TYPE fate AS ENUM ('committed', 'voided')")
    await books.execute("CREATE DOMAIN buyer AS varchar(80)")
    await books.execute(
        "CREATE FUNCTION ledger_claims(pool varchar, after uuid, most bigint) RETURNS TABLE (claim_id uuid, state fate,"
        " user_id buyer, request_id char(3), claimed_at timestamptz, slot_nos int[], resource_ids uuid[]) LANGUAGE sql"
        " AS $$ SELECT '01900000-0000-7000-8000-000000000001'::uuid, 'committed'::fate, 'ann', 'r-1',"
        " '2026-12-01T18:00Z'::timestamptz, '{1}'::int[], '{NULL}'::uuid[] WHERE after IS NULL $$"
    )
    (page,) = [page async for page in ledger_claims(books, POOL, lambda: 0.0)]
    (sale,) = page
    assert (sale.state, sale.user_id, sale.request_id, sale.slot_nos) == ("committed", "ann", "r-1", (1,))
    assert sale.claimed_at is not None
    assert sale.claimed_at.isoformat() == "2026-12-01T18:00:00+00:00"
