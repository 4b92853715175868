"""Ledgers in databases of every encoding: what can be written is sold, what cannot is one dead letter that says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psycopg
import pytest
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.ports import DependencyDownError
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sale import Sale, Templates, validation
from webhook_server import WebhookServer

from tests.encodings import ALL, NAMES, REFUSED, Case
from tests.postgres import PostgresServer, install_ledger

# Whatever the encoding, and whatever JSON escapes.
PLAIN: Final = ["plain", "a|b", 'quote"\\slash', "tab\tand bell\a"]


@asynccontextmanager
async def scene_in(templates: Templates, server: PostgresServer, encoding: str) -> AsyncIterator[Sale]:
    """A sale whose reference ledger is in a database of this encoding."""
    server.drop_database("books")
    uri = server.create_encoded("books", encoding)
    # Whoever does not say so speaks the database's own encoding, and psycopg knows not all of them.
    ours = f"{uri}&client_encoding=utf8"
    install_ledger(ours)
    async with (
        templates.sale() as sale,
        await AsyncConnection.connect(ours, autocommit=True, row_factory=dict_row) as ledger,
    ):
        sale.ledger_uri, sale.ledger = uri, ledger
        yield sale
    server.drop_database("books")


async def claim_as(sale: Sale, *users: str) -> None:
    """A claim for each, with a request of the same letters."""
    for user in users:
        await sale.rows("SELECT intake.claim_resource(%s, %s, %s)", sale.pool, user, f"r {user}")


def test_every_encoding_that_a_server_can_have_is_tried(server: PostgresServer) -> None:
    """A newer PostgreSQL has a newer list, and then this fails."""
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        found = owner.execute("SELECT pg_encoding_to_char(n) FROM generate_series(0, 60) n ORDER BY 1")
        names = {str(name) for (name,) in found if name}
        for name in sorted(names - set(NAMES) - REFUSED):
            with pytest.raises(psycopg.errors.UndefinedObject, match="not a valid encoding name"):
                owner.execute(sql.SQL("CREATE DATABASE no ENCODING {} TEMPLATE template0").format(sql.Literal(name)))
    assert set(NAMES) | REFUSED <= names


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.encoding)
async def test_what_can_be_written_is_sold_and_what_cannot_is_one_dead_letter(
    templates: Templates, server: PostgresServer, case: Case
) -> None:
    async with scene_in(templates, server, case.encoding) as sale:
        known = [*PLAIN, *case.holds]
        # Bad ones at both ends and in the middle: one call for all of them fails, and so does each half.
        await claim_as(sale, *case.lacks[:1], *known, *case.lacks[1:])
        async with sale.worker():
            await sale.until_drained()
        dead = {row["user_id"]: row for row in (await sale.dead()).values()}
        assert set(dead) == set(case.lacks)
        for row in dead.values():
            assert f"encoding {case.encoding}" in row["reason"]
            assert "UTF8" in row["reason"]
            assert row["failures"] == 0, "it is not tried again"
        sales = await sale.sales()
        assert {row["user_id"]: row["request_id"] for row in sales.values()} == {user: f"r {user}" for user in known}
        (ours,) = await sale.rows("SELECT committed, voided, slots, digest FROM intake.proof(%s)", sale.pool)
        theirs = await (
            await sale.ledger.execute("SELECT committed, voided, slots, digest FROM ledger_proof(%s)", (sale.pool,))
        ).fetchone()
        assert ours == theirs
        assert ours["committed"] == len(known)


@pytest.mark.parametrize("where", ["payload", "label", "attributes", "validation"])
async def test_a_character_of_anything_that_a_claim_carries_makes_a_dead_letter_that_names_the_encoding(
    templates: Templates, server: PostgresServer, webhook: WebhookServer, where: str
) -> None:
    async with scene_in(templates, server, "LATIN1") as sale:
        payload = {"name": "Zoë 🎫"} if where == "payload" else {"name": "Zoë"}
        (claim,) = await sale.claim(payload=payload)
        if where == "validation":
            webhook.behaviour = lambda _: {"decision": "approved", "data": {"🎫": "Zoë"}}
            await sale.configure(validation=validation(webhook.single))
        else:
            # As DB1 has a seat of an inventory with labels and columns.
            hearts = "♥" * (where == "attributes")
            names = {"label": "Reihe 1 ♥" if where == "label" else None, "attributes": {"row": hearts}}
            await sale.intake.execute(
                "UPDATE pgmq.q_intake_queue"
                " SET message = jsonb_set(message, '{seats,0}', message #> '{seats,0}' || %s)",
                (Jsonb(names if where != "payload" else {}),),
            )
        async with sale.worker():
            await sale.until_drained()
        (dead,) = (await sale.dead()).values()
        assert dead["claim_id"] == claim.claim_id
        assert "has the encoding LATIN1, which lacks a character of this claim" in dead["reason"]
        assert dead["failures"] == 0
        assert await sale.sales() == {}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_TW"])
async def test_a_claim_that_is_given_up_is_voided_under_its_name(
    templates: Templates, server: PostgresServer, encoding: str
) -> None:
    case = next(each for each in ALL if each.encoding == encoding)
    async with scene_in(templates, server, encoding) as sale:
        await claim_as(sale, *case.holds, *case.lacks)
        # Read once, so that only the ledger can end them.
        await sale.rows("SELECT * FROM intake.read_batch(%s, 'w', 100)", sale.pool)
        await sale.rows(
            "SELECT intake.release_claim(%s, (message ->> 'claim_id')::uuid, 'ill') FROM pgmq.q_intake_queue",
            sale.pool,
        )
        async with sale.worker():
            await sale.until_drained()
        assert {row["user_id"] for row in (await sale.dead()).values()} == set(case.lacks)
        assert {(row["user_id"], row["state"]) for row in (await sale.sales()).values()} == {
            (user, "voided") for user in case.holds
        }


@pytest.mark.parametrize("encoding", sorted(REFUSED))
async def test_a_ledger_in_an_encoding_without_conversion_to_utf8_is_reported(
    server: PostgresServer, encoding: str
) -> None:
    server.drop_database("books")
    uri = server.create_encoded("books", encoding)

    async def source() -> str:
        return uri

    with pytest.raises(DependencyDownError, match=f"between UTF8 and {encoding} is not supported"):
        await PostgresLedger("finalize_transaction", source, "test").check()


async def test_where_no_user_can_be_written_each_claim_is_a_dead_letter_that_says_so(
    templates: Templates, server: PostgresServer
) -> None:
    """It is each claim's own name, however many there are: nothing in the ledger can be mended for them to succeed."""
    async with scene_in(templates, server, "LATIN1") as sale:
        users = [f"שרה {n}" for n in range(8)]
        await claim_as(sale, *users)
        async with sale.worker():
            await sale.until_drained()
            # It reports only once it has been asked to: the queue may be empty before that.
            await sale.until_health("ledger", "ok")
        dead = await sale.dead()
        assert {row["user_id"] for row in dead.values()} == set(users)
        assert all("encoding LATIN1" in row["reason"] for row in dead.values())
