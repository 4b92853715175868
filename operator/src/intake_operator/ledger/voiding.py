"""Voids a claim in the ledger: afterwards it can never be committed there."""

import json
from collections.abc import Mapping
from typing import Final

import psycopg
from intake_shared.sqlstates import NO_SUCH_CHARACTER, Subject, subject
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from intake_operator.ledger.connection import call_timeout

# Whether a text comes back as it was: a few characters of the Japanese and Chinese encodings become others, or bytes
# that the server itself refuses to read.
UNCHANGED: Final = (
    "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
)


async def void(connection: AsyncConnection, function: sql.Identifier, payload: Mapping[str, object]) -> str:
    """What the ledger's `void_claim` answers for a claim: voided, committed or conflict.

    Raises psycopg.Error, or TimeoutError after CALL_TIMEOUT.
    """
    # Without escapes: databases in other encodings than UTF8 know few of them, or none.
    text = json.dumps(payload, ensure_ascii=False)
    async with call_timeout():
        await _check_encoding(connection, text)
        found = await connection.execute(sql.SQL("SELECT {}(%s)").format(function), (Jsonb(text, dumps=str),))
        row = await found.fetchone()
    return str(row[0]) if row else ""


async def _check_encoding(connection: AsyncConnection, text: str) -> None:
    """Raises psycopg.DataError where the ledger's encoding lacks a character of a text, or changes one.

    The bridge checks the same before it commits: another name would be voided than the one that was claimed.
    """
    if text.isascii():
        return
    try:
        row = await (await connection.execute(UNCHANGED, (text, text.encode()))).fetchone()
    except psycopg.DataError as error:
        if error.sqlstate not in NO_SUCH_CHARACTER:
            raise
        row = None
    if row is None or not row[0]:
        found = await (await connection.execute("SELECT pg_catalog.getdatabaseencoding()")).fetchone()
        assert found is not None
        raise psycopg.errors.UntranslatableCharacter(
            f"the ledger's database has the encoding {found[0]}, which lacks a character of this claim (user or "
            "request): it can be neither committed nor voided there. Move the ledger to a database in UTF8"
        )


def is_claim_error(error: psycopg.Error) -> bool:
    """Whether the ledger refused this claim alone. After any other error the next claim would fail, too."""
    return subject(error.sqlstate) is Subject.CLAIM
