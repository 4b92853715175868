"""The functions that a ledger offers, found as the bridge finds them."""

from typing import Final

import psycopg
from intake_shared.ledger_functions import FORMS, LOOK_UP, LedgerFunction
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from intake_operator.ledger.connection import call_timeout

# Functions that are read from: of these the name alone has to be unique, whatever they take.
NAMED: Final = """
    SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p
    WHERE p.proname = %(name)s AND p.prokind = 'f' AND pg_catalog.pg_function_is_visible(p.oid) ORDER BY 1
"""


class AmbiguousFunctionError(psycopg.ProgrammingError):
    """A call could mean more than one function of the ledger, so the answer of none of them can be trusted."""


def unusable(one: LedgerFunction | None, many: LedgerFunction | None) -> str:
    """Why bridges cannot commit with these forms, for one claim and for many, as a sentence; empty if they can."""
    if one and (one.set_based or one.returns not in FORMS):
        returns = "a set" if one.set_based else one.returns
        return f"{one.signature} returns {returns}, and must return {', '.join(FORMS[:-1])} or {FORMS[-1]}"
    if many and many.set_based and many.receipt not in {None, "jsonb"}:
        return f"the column receipt of {many.signature} is {many.receipt}, and must be jsonb"
    return ""


async def find_function(connection: AsyncConnection, name: str) -> LedgerFunction | None:
    """The function (`name` or `schema.name`) that a call with one jsonb means; None where there is none.

    Raises AmbiguousFunctionError.
    """
    schema, _, bare_name = name.rpartition(".")
    async with call_timeout(), connection.cursor(row_factory=class_row(LedgerFunction)) as cursor:
        found = await (await cursor.execute(LOOK_UP, {"name": bare_name, "schema": schema})).fetchall()
    if len(found) > 1:
        signatures = ", ".join(each.signature for each in found)
        raise AmbiguousFunctionError(
            f"ambiguous: {len(found)} functions {bare_name} can be called with one jsonb, and there must be one: "
            f"{signatures}"
        )
    return found[0] if found else None


async def void_function(connection: AsyncConnection, commit_function: str) -> sql.Identifier | None:
    """`void_claim` in the schema of the commit function; None where it is missing or does not return text.

    Raises AmbiguousFunctionError.
    """
    *schema, _ = commit_function.split(".")
    found = await find_function(connection, ".".join([*schema, "void_claim"]))
    usable = found is not None and not found.set_based and found.returns == "text"
    return sql.Identifier(*schema, "void_claim") if usable else None


async def offers(connection: AsyncConnection, name: str) -> bool:
    """Whether the ledger has a function to read from. Raises AmbiguousFunctionError for more than one."""
    async with call_timeout():
        found = [form for (form,) in await (await connection.execute(NAMED, {"name": name})).fetchall()]
    if len(found) > 1:
        raise AmbiguousFunctionError(
            f"ambiguous: the ledger has {len(found)} functions named {name}, and must have one: {', '.join(found)}"
        )
    return bool(found)
