"""Voids a claim in the ledger: afterwards it can never be committed there."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psycopg
from intake_shared.claims import Claim
from intake_shared.redaction import one_line
from intake_shared.sqlstates import NO_SUCH_CHARACTER, Subject, subject
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from intake_operator.ledger.connection import call_timeout

# Whether a text comes back as it was: a few characters of the Japanese and Chinese encodings become others, or bytes
# that the server itself refuses to read.
UNCHANGED: Final = (
    "SELECT pg_catalog.convert_to(%s::pg_catalog.text, 'UTF8') OPERATOR(pg_catalog.=) %s::pg_catalog.bytea"
)
# Characters of an error's text.
LONGEST: Final = 500
# A shorter value could be a part of any word.
SHORTEST_VALUE: Final = 3


async def void(connection: AsyncConnection, function: sql.Identifier, claim: Mapping[str, object]) -> str:
    """What the ledger's `void_claim` answers for a claim, as JSON: voided, committed or conflict.

    Where the ledger's encoding lacks a character of payload or validation, it gets the claim without them: a claim that
    can never be committed must not be kept by what its buyer has written.
    Raises psycopg.Error, or TimeoutError after CALL_TIMEOUT.
    """
    # Without escapes: databases in other encodings than UTF8 know few of them, or none.
    text, bare = (
        json.dumps(each, ensure_ascii=False) for each in (claim, {**claim, "payload": None, "validation": None})
    )
    async with call_timeout():
        try:
            await _check_encoding(connection, text)
        except psycopg.errors.UntranslatableCharacter:
            await _check_encoding(connection, text := bare)
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
            f"the ledger's database has the encoding {found[0]}, which lacks a character of this claim (user, request "
            "or seat): it can be neither committed nor voided there. Move the ledger to a database in UTF8"
        )


def error_of(error: psycopg.Error, claim: Claim) -> str:
    """What a ledger's error says, for those who may not see payloads: nothing that came with the claim."""
    text = one_line(error, 1_000_000)
    contents = [each for each in (claim.payload, claim.validation) if each is not None]
    values = (value for content in contents for value in _values(content))
    # An error of class 22 quotes the value that it cannot read, or a part of it.
    quotes = (error.diag.sqlstate or "").startswith("22")
    if contents and (quotes or any(value in text for value in values)):
        return f"SQLSTATE {error.sqlstate} (the text is not shown: it may quote what came with the claim)"
    return text[:LONGEST]


def _values(content: Any) -> Iterator[str]:  # noqa: ANN401 - whatever JSON has
    if isinstance(content, Mapping):
        # The name of a field may be an e-mail address.
        content = [*content.keys(), *content.values()]
    if isinstance(content, list):
        for each in content:
            yield from _values(each)
    elif len(value := str(content)) >= SHORTEST_VALUE:
        # As the text has it alone, and as a part of JSON.
        yield " ".join(value.split())
        yield json.dumps(value, ensure_ascii=False)[1:-1]


def is_claim_error(error: psycopg.Error) -> bool:
    """Whether the ledger refused this claim alone. After any other error the next claim would fail, too."""
    return subject(error.sqlstate) is Subject.CLAIM
