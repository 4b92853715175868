"""What a server, a database or a role may have set for every session, and what none of our answers may depend on."""

from typing import Final

import psycopg
from psycopg import sql

HOSTILE: Final = {
    "DateStyle": "German, DMY",
    "DateStyle SQL": "SQL, DMY",
    "DateStyle Postgres": "Postgres, MDY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Australia/Lord_Howe",
    # No zone that anybody knows.
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
    """Set one of them for every new session in a database, as a role's owner or a server's administrator does."""
    owner.execute(
        sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(database),
            sql.Identifier(name.split(maxsplit=1)[0].lower()),
            # A list is a list: one literal would be one schema.
            sql.SQL(HOSTILE[name]) if name == "search_path" else sql.Literal(HOSTILE[name]),
        )
    )


def lift(owner: psycopg.Connection, database: str) -> None:
    """All of them as they were."""
    owner.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(database)))
