"""The functions of a ledger in PostgreSQL that a call with one jsonb could mean: which there are, and in which form.

docs/ledger.md says the same to the ledger's owner. Bridges call what they find; the operator says what is missing.
"""

from dataclasses import dataclass
from typing import Final

# As PostgreSQL resolves the name where no schema is given. The columns of a set are the function's own (RETURNS TABLE,
# OUT) or those of a row type.
LOOK_UP: Final = """
SELECT p.oid::pg_catalog.regprocedure::text AS signature, p.proretset AS set_based,
       -- What the session may quote is compared by its oid.
       CASE p.prorettype WHEN 'pg_catalog.text'::pg_catalog.regtype THEN 'text'
           WHEN 'pg_catalog.jsonb'::pg_catalog.regtype THEN 'jsonb'
           WHEN 'pg_catalog.void'::pg_catalog.regtype THEN 'void'
           ELSE pg_catalog.format_type(p.prorettype, NULL) END AS returns,
       CASE r.type WHEN 'pg_catalog.jsonb'::pg_catalog.regtype THEN 'jsonb'
           ELSE pg_catalog.format_type(r.type, NULL) END AS receipt,
       pg_catalog.has_function_privilege(p.oid, 'EXECUTE') AS allowed
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


@dataclass(frozen=True, slots=True)
class LedgerFunction:
    """A row of LOOK_UP."""

    signature: str
    set_based: bool
    returns: str
    receipt: str | None
    """The type of the column `receipt` of a set; None where there is none."""
    allowed: bool
    """Whether this session's role may call it."""
