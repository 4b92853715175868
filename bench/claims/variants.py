"""The variants: each is a database to start from and a script that every client repeats."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from bench.common.pool import POOL

# Two 18-digit random numbers for each call: a user and a request, unique and without work for the server.
_CALLER: Final = "\\set user random(100000000000000000, 999999999999999999)\n" + (
    "\\set request random(100000000000000000, 999999999999999999)\n"
)
PAYLOAD: Final = '{"payment_token": "' + 479 * "x" + '"}'
_FIELDS: Final = "outcome, claim_id, resource_id, slot_no"


@dataclass(frozen=True)
class Variant:
    """One way to claim, or one thing to compare claims with."""

    name: str
    title: str
    template: str
    """The database that each run gets a fresh copy of; templates.py makes it."""
    script: str
    """For pgbench. `{payload}` is the message of a real claim."""
    user: str = "postgres"
    rows: int = 1
    """Claims, rows, or slots of one claim, in one call: what the rate counts."""
    messages: int | None = None
    """Messages that one call puts on the queue; None: as many as rows."""


def _claims(name: str, title: str, template: str = "ours") -> Variant:
    script = f"{_CALLER}SELECT {_FIELDS} FROM intake.claim_resource('{POOL}', :user, :request);"
    return Variant(name, title, template, script, user="claimer")


def _order(name: str, title: str, call: str, *, template: str = "ours", slots: int = 1) -> Variant:
    return Variant(name, title, template, f"{_CALLER}SELECT * FROM intake.{call};", "claimer", slots, 1)


def _batch(rows: int, before: str = "", title: str = "", template: str = "ours") -> Variant:
    # pgbench cannot make arrays. The server makes them, and that time counts.
    users, requests = (
        f"ARRAY(SELECT :{each}::text || '-' || g FROM generate_series(1, {rows}) g)" for each in ("user", "request")
    )
    script = f"{_CALLER}SELECT n, {_FIELDS} FROM intake.claim_batch('{POOL}', {users}, {requests});"
    name, title = f"{before}batch_{rows}", f"claim_batch, {rows} callers{title}"
    return Variant(name, title, template, script, user="claimer", rows=rows)


def _insert(rows: int) -> Variant:
    script = "INSERT INTO pgmq.q_bare (vt, message) SELECT clock_timestamp(), '{payload}'::jsonb"
    name, title, many = "insert", "bare INSERT of the same queue row", ""
    if rows > 1:
        name, title, many = f"insert_{rows}", f"bare INSERT of {rows} such rows", f" FROM generate_series(1, {rows})"
    return Variant(name, title, "bare", f"{script}{many};", rows=rows)


def _standin(name: str, title: str) -> Variant:
    script = "\\set user random(100000000000000000, 999999999999999999)\nSELECT * FROM public.claim(:user);"
    return Variant(name, title, name, script)


_ALL: Final = (
    Variant("select1", "SELECT 1", "bare", "SELECT 1;"),
    _insert(1),
    _claims("claim", "claim_resource, every feature"),
    Variant("send", "pgmq.send alone", "bare", "SELECT pgmq.send('bare', '{payload}'::jsonb);"),
    _standin("skip_locked", "SKIP LOCKED + pgmq.send"),
    _standin("sequence", "sequence + pgmq.send"),
    _standin("skip_locked_sold", "SKIP LOCKED, sold out"),
    _standin("sequence_sold", "sequence, sold out"),
    *(_batch(rows) for rows in (10, 100, 1000)),
    *(_insert(rows) for rows in (10, 100, 1000)),
    _claims("sold_out", "claim_resource, sold out", "ours_sold"),
    _batch(100, "sold_out_", ", sold out", "ours_sold"),
    _order(
        "claim_payload",
        "claim_resource, payload of 500 bytes",
        f"claim_resource('{POOL}', :user, :request, '{PAYLOAD}')",
    ),
    _order("claim_4", "claim_resources, 4 slots", f"claim_resources('{POOL}', :user, 4, :request)", slots=4),
    Variant(
        "confirm",
        "confirm_claim",
        "ours_held",
        "SELECT intake.confirm_claim(h.pool, h.claim_id, h.user_id) FROM public.held h"
        " WHERE h.n = (SELECT nextval('public.next_held'));",
        "claimer",
    ),
)
VARIANTS: Final = {variant.name: variant for variant in _ALL}


def standin_sql(name: str) -> str:
    """The SQL file of a stand-in."""
    return files("bench.claims").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")


TITLES: Final = {variant.name: variant.title for variant in _ALL} | {
    "redis_always": "Redis, appendfsync always",
    "redis_everysec": "Redis, appendfsync everysec",
}
