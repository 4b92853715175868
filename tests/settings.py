"""Settings that a server, a database or a role may have for every session. No answer of ours may depend on them."""

from typing import Final

import psycopg
from psycopg import sql

HOSTILE: Final = {
    "DateStyle": "German, DMY",
    "DateStyle SQL": "SQL, DMY",
    "DateStyle Postgres": "Postgres, MDY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Australia/Lord_Howe",
    # A zone without a name.
    "TimeZone by hand": "<+0030>-00:30",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "standard_conforming_strings": "off",
    "client_min_messages": "error",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "lc_monetary": "C",
    "quote_all_identifiers": "on",
    "jit": "on",
    "search_path": "pg_temp, public, pg_catalog",
}


def impose(owner: psycopg.Connection, database: str, name: str) -> None:
    """Set one of them for every new session in a database."""
    owner.execute(
        sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(database),
            sql.Identifier(name.split(maxsplit=1)[0].lower()),
            # Not as a literal, which would be the name of one schema.
            sql.SQL(HOSTILE[name]) if name == "search_path" else sql.Literal(HOSTILE[name]),
        )
    )


def lift(owner: psycopg.Connection, database: str) -> None:
    """Reset all of them."""
    owner.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(database)))
