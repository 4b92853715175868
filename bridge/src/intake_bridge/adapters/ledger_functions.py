"""The functions of a ledger in PostgreSQL: which there are, in which form, and how a batch is sent to them."""

from dataclasses import dataclass
from typing import Any, Final

from intake_shared.ledger_functions import FORMS, LOOK_UP, LedgerFunction
from psycopg import AsyncConnection, sql

from intake_bridge.domain.answers import MAX_RECEIPT_BYTES
from intake_bridge.domain.health import Offer
from intake_bridge.ports import DependencyDownError

# Asked with a function, because a pooler need not pass on the parameters that the server reports.
_ENCODING: Final = "SELECT pg_catalog.getdatabaseencoding()"

# Each gives (claim_id, word, receipt). Of a receipt no more comes than shows that it is too large.
_SET: Final = sql.SQL("SELECT claim_id::pg_catalog.text, outcome, NULL FROM {function}(%s)")
_SET_WITH_RECEIPTS: Final = sql.SQL(
    "SELECT claim_id::pg_catalog.text, outcome, pg_catalog.left(receipt::pg_catalog.text, {most}) FROM {function}(%s)"
)
# A function that returns void gives NULL or an empty string, depending on its language.
_SCALAR: Final = sql.SQL(
    "SELECT each ->> 'claim_id', coalesce({function}(each)::pg_catalog.text, ''), NULL"
    " FROM pg_catalog.jsonb_array_elements(%s) AS each"
)
# OFFSET 0: otherwise a function that is declared stable could be called for each column.
_SCALAR_WITH_RECEIPTS: Final = sql.SQL(
    "SELECT claim_id, answer ->> 'outcome', pg_catalog.left((answer -> 'receipt')::pg_catalog.text, {most})"
    " FROM (SELECT each ->> 'claim_id' AS claim_id, {function}(each) AS answer"
    " FROM pg_catalog.jsonb_array_elements(%s) AS each OFFSET 0) AS answers"
)


@dataclass(frozen=True, slots=True)
class Signature:
    """How the ledger can be called. Looked up at each connect."""

    function: sql.Identifier
    set_based: bool
    returns_void: bool
    gives_receipts: bool
    void_function: sql.Identifier | None
    encoding: str

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What it can do beyond the least that the contract asks for."""
        found = {
            Offer.BATCH: self.set_based,
            Offer.OUTCOMES: not self.returns_void,
            Offer.VOID: self.void_function is not None,
            Offer.RECEIPTS: self.gives_receipts,
        }
        return tuple(offer for offer, is_there in found.items() if is_there)

    @property
    def commit(self) -> sql.Composed:
        """The statement that commits an array of claims."""
        if self.set_based:
            form = _SET_WITH_RECEIPTS if self.gives_receipts else _SET
        else:
            form = _SCALAR_WITH_RECEIPTS if self.gives_receipts else _SCALAR
        return form.format(function=self.function, most=sql.Literal(MAX_RECEIPT_BYTES + 1))

    @property
    def void(self) -> sql.Composed | None:
        """The statement that voids an array of claims; None where the ledger cannot."""
        return None if self.void_function is None else _SCALAR.format(function=self.void_function)


async def find_functions(connection: AsyncConnection[Any], function: str) -> Signature:
    """The best form that the ledger has. Raises psycopg.Error, or DependencyDownError where none can be called."""
    *schema, name = function.split(".")
    scalar, plural, void_function = (sql.Identifier(*schema, each) for each in (name, f"{name}s", "void_claim"))
    one = await _look_up(connection, schema, name)
    signature = f"{function}(claim jsonb)"
    if one and not one.allowed:
        raise DependencyDownError(f"no permission to execute {signature}")
    if one and (one.set_based or one.returns not in FORMS):
        raise DependencyDownError(f"{signature} must return {', '.join(FORMS[:-1])} or {FORMS[-1]}: {_returned(one)}")
    many = await _look_up(connection, schema, f"{name}s")
    set_based = bool(many and many.set_based and many.allowed)
    if not one and not set_based:
        raise DependencyDownError(f"function {signature} does not exist or is not on the search_path")
    if set_based and many and many.receipt not in {None, "jsonb"}:
        raise DependencyDownError(f"the column receipt of {many.signature} is {many.receipt}, and must be jsonb")
    void = await _look_up(connection, schema, "void_claim")
    if void and not void.allowed:
        raise DependencyDownError("no permission to execute void_claim(claim jsonb)")
    encoding = await (await connection.execute(_ENCODING)).fetchone()
    used = many if set_based else one
    return Signature(
        function=plural if set_based else scalar,
        set_based=set_based,
        returns_void=not set_based and used is not None and used.returns == "void",
        gives_receipts=used is not None and (used.receipt is not None if set_based else used.returns == "jsonb"),
        void_function=void_function if void and not void.set_based and void.returns == "text" else None,
        encoding=str(encoding[0]) if encoding else "",
    )


def _returned(found: LedgerFunction) -> str:
    return f"it returns {'a set of ' if found.set_based else ''}{found.returns}"


async def _look_up(connection: AsyncConnection[Any], schema: list[str], name: str) -> LedgerFunction | None:
    cursor = await connection.execute(LOOK_UP, {"name": name, "schema": "".join(schema)})
    found = [LedgerFunction(*row) for row in await cursor.fetchall()]
    if len(found) > 1:
        raise DependencyDownError(
            f"ambiguous: {len(found)} functions {name} can be called with one jsonb, and there must be one: "
            + ", ".join(each.signature for each in found)
        )
    return found[0] if found else None
