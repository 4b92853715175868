"""Settings that a server or a role has for its sessions change nothing of what bridges do."""

from typing import Any, Final

import psycopg
import pytest
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_shared.connections import connect
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sale import Sale, Templates

from tests.pooler import Pooler
from tests.postgres import PostgresServer, install_ledger
from tests.settings import HOSTILE, impose, lift


def database(uri: str) -> str:
    """The name of a database."""
    return str(conninfo_to_dict(uri)["dbname"])


async def sell(sale: Sale) -> list[dict[str, Any]]:
    """Two are sold, a third is released after it was read; what the ledger has then."""
    claims = await sale.claim(3)
    await sale.rows("SELECT * FROM intake.read_batch(%s, 'w', 1)", sale.pool)
    await sale.release(claims[0])
    async with sale.worker():
        await sale.until_drained()
        assert await sale.dead() == {}
    return sorted((await sale.sales()).values(), key=lambda row: str(row["claim_id"]))


@pytest.mark.parametrize("setting", HOSTILE)
async def test_no_setting_changes_what_is_sold(templates: Templates, server: PostgresServer, setting: str) -> None:
    async with templates.sale() as sale:
        with psycopg.connect(server.uri(), autocommit=True) as owner:
            names = [database(uri) for uri in (sale.intake_uri, sale.ledger_uri)]
            try:
                for name in names:
                    impose(owner, name, setting)
                sales = await sell(sale)
            finally:
                for name in names:
                    lift(owner, name)
        assert [row["state"] for row in sales].count("committed") == 2
        moments = await sale.rows(
            "SELECT (message ->> 'claimed_at')::timestamptz AS at FROM intake.intents ORDER BY message ->> 'claim_id'"
        )
        assert [row["claimed_at"] for row in sales] == [row["at"] for row in moments]
        await sale.check()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_bridges_that_meet_in_a_stricter_ledger_sell_each_claim_once(
    sale: Sale, server: PostgresServer, level: str
) -> None:
    """A serialization failure is repeated, and counts against no claim."""
    ledger = sql.Identifier(database(sale.ledger_uri))
    await sale.configure(batchSize=7)
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        try:
            change = sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
            owner.execute(change.format(ledger, sql.Literal(level)))
            await sale.claim(200)
            async with sale.worker("one"), sale.worker("two"), sale.worker("three"):
                await sale.until_drained()
        finally:
            lift(owner, database(sale.ledger_uri))
    assert await sale.dead() == {}
    await sale.check()


@pytest.mark.parametrize("setting", HOSTILE)
async def test_no_setting_hides_a_function(sale: Sale, server: PostgresServer, setting: str) -> None:
    async def source() -> str:
        return sale.ledger_uri.replace("postgres@", "ledger_writer@")

    with psycopg.connect(server.uri(), autocommit=True) as owner:
        try:
            impose(owner, database(sale.ledger_uri), setting)
            ledger = PostgresLedger("finalize_transaction", source, "test")
            await ledger.check()
            assert len(ledger.offers) == 4
            await ledger.close()
        finally:
            lift(owner, database(sale.ledger_uri))


async def test_a_pooler_takes_the_connection_to_the_ledger_and_gets_it_back_as_it_was(sale: Sale) -> None:
    """It refuses parameters that it does not know, and lends one session to many."""
    parts = conninfo_to_dict(sale.ledger_uri)
    async with Pooler(str(parts["host"])) as pooler:
        uri = f"postgresql://ledger_writer@127.0.0.1:{pooler.port}/{parts['dbname']}"
        await sale.claim(3)
        async with sale.worker(INTAKE_LEDGER_URI=uri):
            await sale.until_drained()
        await sale.check()
        assert pooler.connections == 1
        assert [each for each in pooler.statements if "finalize_transactions" in each]
        assert [each for each in pooler.statements if each.upper().startswith(("SET ", "PREPARE", "LISTEN"))] == []


async def test_options_of_the_uri_are_kept(sale: Sale) -> None:
    uri = make_conninfo(sale.ledger_uri, options="-c search_path=shop -c datestyle=German")
    async with await connect(uri) as connection:
        shown = await (
            await connection.execute("SELECT current_setting('search_path'), now()::text ~ '^..\\.'")
        ).fetchone()
    assert shown == ("shop", True)


AMBIGUOUS: Final = {
    "a further argument with a DEFAULT": (
        "void_claim",
        "CREATE FUNCTION void_claim(claim jsonb, why text DEFAULT '') RETURNS text LANGUAGE sql RETURN 'voided'",
    ),
    "of the function itself": (
        "finalize_transaction",
        "CREATE FUNCTION finalize_transaction(claim jsonb, dry boolean DEFAULT true) RETURNS text LANGUAGE sql"
        " RETURN 'committed'",
    ),
    "of the set form": (
        "finalize_transactions",
        "CREATE FUNCTION finalize_transactions(claims jsonb, dry boolean DEFAULT true) RETURNS TABLE (claim_id uuid,"
        " outcome text) LANGUAGE sql BEGIN ATOMIC SELECT NULL::uuid, ''; END",
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_an_ambiguous_function_is_reported_and_nothing_is_sold_until_there_is_one(
    templates: Templates, server: PostgresServer, case: str
) -> None:
    name, second = AMBIGUOUS[case]
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        await sale.ledger.execute(second.encode())
        await sale.ledger.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO ledger_writer")
        await sale.claim(2)
        async with sale.worker():
            await sale.until_health("ledger", "down", f"ambiguous: 2 functions {name}")
            assert await sale.sales() == {}
            kind = "text" if name == "void_claim" else "boolean"
            await sale.ledger.execute(f"DROP FUNCTION {name}(jsonb, {kind})".encode())
            await sale.until_drained()
        await sale.check()


async def test_a_function_of_the_name_that_no_jsonb_can_call_is_no_ambiguity(templates: Templates) -> None:
    """Old databases have functions of their own; and a name in a schema that is not searched is none."""
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        for statement in (
            "CREATE FUNCTION void_claim(claim_no int) RETURNS void LANGUAGE sql AS ''",
            "CREATE SCHEMA old",
            "CREATE FUNCTION old.void_claim(claim jsonb) RETURNS text LANGUAGE sql RETURN 'conflict'",
            "CREATE FUNCTION finalize_transaction(a jsonb, b int) RETURNS text LANGUAGE sql RETURN 'conflict'",
        ):
            await sale.ledger.execute(statement.encode())
        await sale.claim(2)
        async with sale.worker():
            await sale.until_drained()
        await sale.check()


async def test_the_only_void_claim_may_have_a_further_argument_with_a_default(templates: Templates) -> None:
    """It can be called, so it is offered; it used to be taken for none."""
    async with templates.sale_with_ledger() as sale:
        install_ledger(sale.ledger_uri)
        for statement in (
            "ALTER FUNCTION void_claim RENAME TO voided",
            "CREATE FUNCTION void_claim(claim jsonb, why text DEFAULT 'none') RETURNS text LANGUAGE sql"
            " SECURITY DEFINER RETURN voided(claim)",
        ):
            await sale.ledger.execute(statement.encode())
        (claim,) = await sale.claim()
        await sale.rows("SELECT * FROM intake.read_batch(%s, 'w', 1)", sale.pool)
        await sale.release(claim)
        async with sale.worker():
            await sale.until_drained()
        assert [row["state"] for row in (await sale.sales()).values()] == ["voided"]
