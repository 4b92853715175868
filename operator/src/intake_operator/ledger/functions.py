"""The functions that a ledger offers, found as the bridge finds them."""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from intake_operator.ledger.connection import call_timeout

# The functions that a call with one jsonb could mean, exactly as the bridge looks for them. The columns of a set are
# the function's own (RETURNS TABLE, OUT) or those of a row type.
CALLABLE: Final = """
    SELECT p.oid::pg_catalog.regprocedure::text AS signature, p.proretset AS set_based,
        -- What the session may quote is compared by its oid.
        CASE p.prorettype WHEN 'pg_catalog.text'::pg_catalog.regtype THEN 'text'
            WHEN 'pg_catalog.jsonb'::pg_catalog.regtype THEN 'jsonb'
            WHEN 'pg_catalog.void'::pg_catalog.regtype THEN 'void'
            ELSE pg_catalog.format_type(p.prorettype, NULL) END AS returns,
        CASE r.type WHEN 'pg_catalog.jsonb'::pg_catalog.regtype THEN 'jsonb'
            ELSE pg_catalog.format_type(r.type, NULL) END AS receipt
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL (SELECT coalesce(
        (SELECT o.type
        FROM ROWS FROM (pg_catalog.unnest(p.proargnames), pg_catalog.unnest(p.proargmodes),
            pg_catalog.unnest(p.proallargtypes)) AS o (name, mode, type)
        WHERE o.name = 'receipt' AND o.mode IN ('t', 'o', 'b')),
        (SELECT a.atttypid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
        WHERE t.oid = p.prorettype AND a.attname = 'receipt' AND a.attnum > 0 AND NOT a.attisdropped)
        ) AS type) r
    WHERE p.proname = %(name)s AND p.prokind = 'f'
        AND (n.nspname = %(schema)s OR (%(schema)s = '' AND pg_catalog.pg_function_is_visible(p.oid)))
        AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
        AND p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype
    ORDER BY 1
"""
# What a function that commits one claim may return: nothing, an outcome, or an outcome with a receipt.
FORMS: Final = ("void", "text", "jsonb")
# Functions that are read from: of these the name alone has to be unique, whatever they take.
NAMED: Final = """
    SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p
    WHERE p.proname = %(name)s AND p.prokind = 'f' AND pg_catalog.pg_function_is_visible(p.oid) ORDER BY 1
"""


class AmbiguousFunctionError(psycopg.ProgrammingError):
    """A call could mean more than one function of the ledger, so the answer of none of them can be trusted."""


@dataclass(frozen=True)
class Function:
    """A function that can be called with one jsonb."""

    signature: str
    set_based: bool
    returns: str
    receipt: str | None
    """The type of the column `receipt` of a set; None where there is none."""


def unusable(one: Function | None, many: Function | None) -> str:
    """Why bridges cannot commit with these forms, for one claim and for many, as a sentence; empty if they can."""
    if one and (one.set_based or one.returns not in FORMS):
        returns = "a set" if one.set_based else one.returns
        return f"{one.signature} returns {returns}, and must return {', '.join(FORMS[:-1])} or {FORMS[-1]}"
    if many and many.set_based and many.receipt not in {None, "jsonb"}:
        return f"the column receipt of {many.signature} is {many.receipt}, and must be jsonb"
    return ""


async def find_function(connection: AsyncConnection, name: str) -> Function | None:
    """The function (`name` or `schema.name`) that a call with one jsonb means; None where there is none.

    Raises AmbiguousFunctionError.
    """
    schema, _, bare_name = name.rpartition(".")
    async with call_timeout(), connection.cursor(row_factory=class_row(Function)) as cursor:
        found = await (await cursor.execute(CALLABLE, {"name": bare_name, "schema": schema})).fetchall()
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
