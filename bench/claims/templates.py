"""The databases that runs start from, made once each: every run gets a copy."""

from collections.abc import Callable
from importlib.resources import files
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bench.claims.variants import standin_sql
from bench.common.pool import POOL, Checkout, claim_until, make_pool

_TRIES: Final = 1000

type Maker = Callable[[str, int, Checkout], None]
"""Makes a template: (URI of an empty database, slots, whose SQL)."""


def _bare(uri: str, _slots: int, _checkout: Checkout) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute(files("pgmq").joinpath("sql/pgmq.sql").read_text(encoding="utf-8").encode())
        connection.execute("SELECT pgmq.create('bare')")


def _ours(uri: str, slots: int, checkout: Checkout) -> None:
    make_pool(uri, slots, checkout)


def _ours_sold(uri: str, slots: int, checkout: Checkout) -> None:
    make_pool(uri, slots, checkout)
    claim_until(uri, slots)
    _claim_until_sold_out(uri)
    # What autovacuum does within a minute.
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")


def _ours_held(uri: str, slots: int, checkout: Checkout) -> None:
    """Every slot is a hold, and public.held has them in an order that no confirmation has to search for."""
    make_pool(uri, slots, checkout, holdSeconds=3600)
    claim_until(uri, slots, "intake.holds")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE public.held (n bigint PRIMARY KEY, pool text, claim_id uuid, user_id text);"
            "INSERT INTO public.held"
            " SELECT row_number() OVER (), message ->> 'pool_id', claim_id, message ->> 'user_id' FROM intake.holds;"
            "CREATE SEQUENCE public.next_held;"
            "GRANT USAGE ON SCHEMA public TO claimer; GRANT SELECT ON public.held TO claimer;"
            "GRANT USAGE ON SEQUENCE public.next_held TO claimer;"
            "GRANT EXECUTE ON FUNCTION pg_catalog.nextval(regclass) TO claimer"
        )
        connection.execute("VACUUM (ANALYZE)")


def _claim_until_sold_out(uri: str) -> None:
    """The pool searches the numbers in pieces before it answers `sold_out`."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for _ in range(_TRIES):
            found = connection.execute("SELECT outcome FROM intake.claim_resource(%s, 'late')", (POOL,)).fetchone()
            if found == ("sold_out",):
                return
    raise RuntimeError("the pool does not sell out")


def _standin(name: str, after: LiteralString = "SELECT") -> Maker:
    key = {"skip_locked": "allocation_id", "sequence": "position"}[name]

    def make(uri: str, slots: int, checkout: Checkout) -> None:
        _bare(uri, slots, checkout)
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(standin_sql(name).encode())
            connection.execute(
                sql.SQL("INSERT INTO public.allocations ({}) SELECT generate_series(1, {})").format(
                    sql.Identifier(key), sql.Literal(slots)
                )
            )
            connection.execute(after)
            connection.execute("VACUUM (ANALYZE)")

    return make


MAKERS: Final[dict[str, Maker]] = {
    "bare": _bare,
    "ours": _ours,
    "ours_sold": _ours_sold,
    "ours_held": _ours_held,
    "skip_locked": _standin("skip_locked"),
    "sequence": _standin("sequence"),
    # Sold in one statement and vacuumed, which is kinder than a sale.
    "skip_locked_sold": _standin("skip_locked", "UPDATE public.allocations SET status = 'RESERVED'"),
    "sequence_sold": _standin(
        "sequence", "SELECT setval('public.position', (SELECT max(position) FROM public.allocations))"
    ),
}
