"""Bad input to every function: a typed outcome, or an SQLSTATE of our own that says what to do. Nothing is taken."""

import psycopg
import pytest
from psycopg import sql

from tests.sql.intake import POOL, Intake

UNKNOWN, BAD, MISSING, DIFFERENT, OTHER = "IE001", "IE002", "IE005", "IE006", "IE009"
LONG = "repeat('x', 201)"
ANY_ID = "'00000000-0000-7000-8000-000000000001'::uuid"
# No object, or above the 4096 bytes that are the default.
NO_PAYLOADS = ("'null'", "'1'", "'\"x\"'", "'[{}]'", "jsonb_build_object('x', repeat('x', 4096))")

# Replay and discard need an actor and a reason.
NAMELESS = [
    ("'{1}', '', 'why'", BAD),
    ("'{1}', NULL, 'why'", BAD),
    ("'{1}', 'ops', ''", BAD),
    ("'{1}', 'ops', NULL", BAD),
]

# By function: the arguments behind the pool's name, and the SQLSTATE they get.
REFUSED: dict[str, list[tuple[str, str]]] = {
    "claim_resource": [
        ("NULL", BAD),
        ("''", BAD),
        (LONG, BAD),
        ("'ann', ''", BAD),
        (f"'ann', {LONG}", BAD),
        *[(f"'ann', 'new', {payload}", BAD) for payload in NO_PAYLOADS],
        ("'u0', 'r0', '{}'", OTHER),
    ],
    "claim_resources": [
        ("NULL, 1", BAD),
        ("'', 1", BAD),
        (f"{LONG}, 1", BAD),
        ("'ann', NULL", BAD),
        ("'ann', 0", BAD),
        ("'ann', -1", BAD),
        ("'ann', 101", BAD),
        ("'ann', 2147483647", BAD),
        ("'ann', 1, ''", BAD),
        (f"'ann', 1, {LONG}", BAD),
        *[(f"'ann', 2, 'new', {payload}", BAD) for payload in NO_PAYLOADS],
        ("'u0', 2, 'r0'", OTHER),
        ("'u0', 1, 'r0', '{}'", OTHER),
    ],
    "claim_seats": [
        ("NULL, '{seat 9}'", BAD),
        ("'', '{seat 9}'", BAD),
        (f"{LONG}, '{{seat 9}}'", BAD),
        ("'ann', '{seat 9}', ''", BAD),
        (f"'ann', '{{seat 9}}', {LONG}", BAD),
        ("'ann', NULL", BAD),
        ("'ann', '{}'", BAD),
        ("'ann', '{{seat 8,seat 9}}'", BAD),
        ("'ann', array_fill('seat 9'::text, ARRAY[101])", BAD),
        ("'ann', '{seat 9,seat 8,seat 9}'", BAD),
        ("'ann', ARRAY['seat 9', (SELECT resource_id::text FROM intake.slots WHERE label = 'seat 9')]", BAD),
        ("'ann', '{no such seat}'", MISSING),
        ("'ann', '{seat 9,no such seat}'", MISSING),
        ("'ann', '{seat 9,NULL}'", MISSING),
        ("'ann', '{seat 9,\"\"}'", MISSING),
        ("'ann', '{9}'", MISSING),
        (f"'ann', ARRAY[{ANY_ID}]::text[]", MISSING),
        ("'ann', '{theirs}'", MISSING),
        *[(f"'ann', '{{seat 9,seat 8}}', 'new', {payload}", BAD) for payload in NO_PAYLOADS],
        ("'u0', '{seat 1}', 'r0'", OTHER),
        ("'u0', '{seat 8,seat 9}', 'r0'", OTHER),
    ],
    "claim_batch": [
        ("NULL", BAD),
        ("'{}'", BAD),
        ("array_fill('ann'::text, ARRAY[1001])", BAD),
        ("'{ann,NULL}'", BAD),
        ("'{ann,\"\"}'", BAD),
        (f"ARRAY['ann', {LONG}]", BAD),
        ("'{ann,bob}', '{r1}'", BAD),
        ("'{ann,bob}', '{}'", BAD),
        ("'{ann,bob}', '{r1,r2,r3}'", BAD),
        ("'{ann,bob}', '{r1,\"\"}'", BAD),
        (f"'{{ann,bob}}', ARRAY['r1', {LONG}]", BAD),
        ("'{ann,bob}', NULL, '{1}'", BAD),
        ("'{ann,bob}', NULL, '{1,0}'", BAD),
        ("'{ann,bob}', NULL, '{NULL,101}'", BAD),
        ("'{ann,bob}', NULL, '{{1},{1}}'", BAD),
        (
            "array_fill('u'::text, ARRAY[999]), NULL, array_fill(NULL::int, ARRAY[968]) || array_fill(98, ARRAY[31])",
            BAD,
        ),
        ("array_fill('ann'::text, ARRAY[41]), NULL, array_fill(98, ARRAY[41])", BAD),
        ("'{ann,bob}', NULL, NULL, '{NULL}'", BAD),
        ("'{ann,bob}', NULL, NULL, '[0:1]={NULL,NULL}'", BAD),
        ("'{ann,bob}', NULL, NULL, NULL, '{NULL}'", BAD),
        *[(f"'{{ann,bob}}', NULL, NULL, ARRAY['{{}}', {payload}::jsonb]", BAD) for payload in NO_PAYLOADS],
    ],
    "confirm_claim": [
        *[(f"{ANY_ID}, 'ann', {payload}", BAD) for payload in NO_PAYLOADS],
    ],
    "extend_hold": [(f"{ANY_ID}, 'ann'", BAD)],
    "release_claim": [
        ("NULL, 'why'", BAD),
        (f"{ANY_ID}, NULL", BAD),
        (f"{ANY_ID}, ''", BAD),
    ],
    "claim_status": [],
    "read_batch": [("NULL, 1", BAD), ("'', 1", BAD), ("'w', NULL", BAD), ("'w', 0", BAD), ("'w', 10001", BAD)],
    "read_releases": [("NULL, 1", BAD), ("'', 1", BAD), ("'w', NULL", BAD), ("'w', 0", BAD), ("'w', 10001", BAD)],
    "read_quarantined": [("NULL", BAD), ("''", BAD)],
    "mark_validated": [("NULL, NULL", BAD), ("'{1,2}', '{1}'", BAD), ("'{1}', NULL", BAD)],
    "mark_committing": [("NULL, NULL", BAD), ("'{1,2}', '{1}'", BAD), ("'{1}', NULL", BAD)],
    "extend": [("NULL, NULL", BAD), ("'{1,2}', '{1}'", BAD), ("'{1}', NULL", BAD)],
    "acknowledge": [
        ("'{1,2}', '{1}', '{committed,committed}'", BAD),
        ("'{1}', '{1}', '{}'", BAD),
        ("'{1}', '{1}', NULL", BAD),
        ("'{1}', '{1}', '{lost}'", BAD),
        ("'{1}', '{1}', '{released}'", BAD),
        ("'{1}', '{1}', '{NULL}'", BAD),
    ],
    "give_back": [
        ("'{1,2}', '{1}', '{0,0}', '{NULL,NULL}'", BAD),
        ("'{1}', '{1}', '{}', '{NULL}'", BAD),
        ("'{1}', '{1}', '{0}', '{}'", BAD),
        ("'{1}', '{1}', NULL, NULL", BAD),
    ],
    "dead_letter": [
        ("'{1,2}', '{1}', '{why,why}'", BAD),
        ("'{1}', '{1}', '{}'", BAD),
        ("'{1}', '{1}', NULL", BAD),
    ],
    "dead_letters": [],
    "replay": NAMELESS,
    "discard": NAMELESS,
    "configuration": [],
    "report_worker": [
        ("NULL, 1, 1, '{}'", BAD),
        ("'', 1, 1, '{}'", BAD),
        (f"{LONG}, 1, 1, '{{}}'", BAD),
        ("'w', NULL, 1, '{}'", BAD),
        ("'w', 1, NULL, '{}'", BAD),
    ],
    "lease_tokens": [("NULL", BAD), ("0", BAD), ("10001", BAD)],
    "return_tokens": [("NULL, 1", BAD), (f"{ANY_ID}, NULL", BAD), (f"{ANY_ID}, -1", BAD)],
    "record_metrics": [],
    "housekeep": [],
    "engine_status": [],
    "proof": [],
    "reconcile": [],
    "audit_log": [],
    "settled_claims": [],
    "claims_at": [],
    # The owner's, beside configure, whose refusals are in test_seed.py.
    "seed": [],
    "seal": [("NULL", BAD), ("''", BAD)],
    "stock": [
        ("NULL, ARRAY[uuidv7()]", BAD),
        ("0, ARRAY[uuidv7()]", BAD),
        ("12, ARRAY[uuidv7()]", BAD),
        ("11, NULL", BAD),
        ("11, '{}'", BAD),
        ("11, '{NULL}'", BAD),
        ("11, ARRAY[uuidv7()], '{}'", BAD),
        ("11, ARRAY[uuidv7()], '{a,b}'", BAD),
        ("11, ARRAY[uuidv7()], '{\"\"}'", BAD),
        (f"11, ARRAY[uuidv7()], ARRAY[{LONG}]", BAD),
        ("11, ARRAY[uuidv7()], '{seat 1}'", BAD),
        (f"11, ARRAY[{ANY_ID}, {ANY_ID}]", BAD),
        ("11, ARRAY(SELECT resource_id FROM intake.slots WHERE label = 'seat 2')", BAD),
        ("1, ARRAY[uuidv7()], '{seat 1}'", DIFFERENT),
        ("1, ARRAY(SELECT resource_id FROM intake.slots WHERE label = 'seat 1'), '{Seat 1}'", DIFFERENT),
    ],
}
# What a call needs behind the pool's name to be a good one, so that only the pool is wrong.
GOOD: dict[str, str] = {
    "claim_resource": "'ann'",
    "claim_resources": "'ann', 1",
    "claim_seats": "'ann', '{seat 9}'",
    "confirm_claim": f"{ANY_ID}, 'ann'",
    "extend_hold": f"{ANY_ID}, 'ann'",
    "claim_batch": "'{ann}'",
    "release_claim": f"{ANY_ID}, 'why'",
    "claim_status": ANY_ID,
    "read_batch": "'w', 1",
    "read_releases": "'w', 1",
    "read_quarantined": "'w'",
    "mark_validated": "'{1}', '{1}'",
    "mark_committing": "'{1}', '{1}'",
    "extend": "'{1}', '{1}'",
    "acknowledge": "'{1}', '{1}', '{committed}'",
    "give_back": "'{1}', '{1}', '{0}', '{NULL}'",
    "dead_letter": "'{1}', '{1}', '{why}'",
    "replay": "'{1}', 'ops', 'why'",
    "discard": "'{1}', 'ops', 'why'",
    "report_worker": "'w', 1, 1, '{}'",
    "lease_tokens": "1",
    "return_tokens": f"{ANY_ID}, 1",
    "settled_claims": "NULL, 10",
    "claims_at": f"ARRAY[{ANY_ID}]",
    "seal": "'why'",
    "stock": "1, ARRAY[uuidv7()]",
}


@pytest.fixture
def sale(intake: Intake) -> Intake:
    """Ten named seats, three claims of which one is leased and one is dead; beside it, another pool with a claim."""
    intake.configure(10, ownResources=True)
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, 10) n")
    intake.stock(1, [(resource, label) for resource, label in rows])
    intake.seed()
    for n in range(3):
        intake.claim(f"u{n}", f"r{n}")
    intake.change("dead_letter", intake.read(2)[1:], ["why"])
    with Intake(intake.uri, "other") as other:
        other.configure(1, ownResources=True)
        other.stock(1, [(rows[0][0], "theirs")])
        other.seed()
        other.claim("ann", "r1")
    return intake


def everything(intake: Intake) -> dict[str, object]:
    """The rows of every table, and how many numbers were drawn."""
    relations = intake.rows(
        "SELECT n.nspname, c.relname, c.relkind = 'S' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('intake', 'pgmq') AND (c.relkind = 'r' OR c.relname ~ '^numbers_[0-9]+$')"
    )
    table = sql.SQL("SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM {} t")
    sequence = sql.SQL("SELECT last_value, is_called FROM {}")
    return {
        f"{schema}.{name}": intake.connection.execute(
            (sequence if is_sequence else table).format(sql.Identifier(schema, name))
        ).fetchone()
        for schema, name, is_sequence in relations
    }


def test_every_function_is_tested(intake: Intake) -> None:
    called = intake.column(
        "SELECT DISTINCT p.proname FROM pg_proc p, aclexplode(p.proacl) a"
        " WHERE p.pronamespace = 'intake'::regnamespace AND a.grantee <> p.proowner"
    )
    assert set(called) | {"seed", "seal", "stock"} == REFUSED.keys()


def refused(intake: Intake, call: str, sqlstate: str) -> None:
    before = everything(intake)
    with pytest.raises(psycopg.Error) as caught:
        intake.connection.execute(f"SELECT * FROM intake.{call}".encode())
    assert caught.value.sqlstate == sqlstate, call
    assert caught.value.diag.message_hint, "what to do?"
    assert everything(intake) == before


@pytest.mark.parametrize("function", REFUSED)
def test_bad_input_takes_nothing_and_says_what_to_do(sale: Intake, function: str) -> None:
    for arguments, sqlstate in REFUSED[function]:
        refused(sale, f"{function}('{POOL}', {arguments})", sqlstate)


@pytest.mark.parametrize("function", REFUSED)
def test_an_unknown_pool_is_said_to_be_unknown(sale: Intake, function: str) -> None:
    good = f", {GOOD[function]}" if function in GOOD else ""
    refused(sale, f"{function}('nowhere'{good})", UNKNOWN)
    refused(sale, f"{function}(NULL::text{good})", UNKNOWN)


def test_a_foreign_claim_is_unknown(sale: Intake) -> None:
    """Another pool's claim, one that never was, and one that is no claim id of ours."""
    (theirs,) = sale.column(
        "SELECT (message ->> 'claim_id')::uuid FROM intake.intents WHERE message ->> 'pool_id' = 'other'"
    )
    before = everything(sale)
    for claim_id in (theirs, sale.value("SELECT uuidv7()"), sale.value("SELECT gen_random_uuid()")):
        assert sale.release(claim_id) == "unknown"
        assert {key: value for key, value in sale.claim_status(claim_id).items() if value} == {"state": "unknown"}
        assert sale.confirm(claim_id, "ann") == "unknown"
    assert sale.request_status("u0", "no such request") == []
    assert sale.request_status("nobody", "r0") == []
    assert everything(sale) == before


def test_a_quantity_above_the_limit_takes_nothing(sale: Intake) -> None:
    sale.configure(10, ownResources=True, claimsPerUser=2)
    before = everything(sale)
    assert [answer.outcome for answer in sale.claim_several("ann", 3, "r1")] == ["limit_reached"]
    assert [answer.outcome for answer in sale.claim_several("u1", 2, "more")] == ["limit_reached"]
    assert everything(sale) == before


def test_i2_nothing_is_claimed_or_released_where_a_commit_does_not_outlive_a_crash(sale: Intake) -> None:
    (claim_id,) = sale.column("SELECT (message ->> 'claim_id')::uuid FROM intake.intents LIMIT 1")
    before = everything(sale)
    sale.connection.execute("SET synchronous_commit = off")
    for function in ("claim_resource", "claim_resources", "claim_seats", "claim_batch"):
        refused(sale, f"{function}('{POOL}', {GOOD[function]})", BAD)
    refused(sale, f"release_claim('{POOL}', '{claim_id}', 'ill')", BAD)
    assert everything(sale) == before
    sale.connection.execute("SET synchronous_commit = local")
    assert sale.claim("somebody new").outcome == "claimed"


def test_every_kind_of_claim_refuses_an_isolation_level_that_cannot_see_the_present(sale: Intake) -> None:
    sale.connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    for function in ("claim_resource", "claim_resources", "claim_seats", "claim_batch"):
        call = f"SELECT * FROM intake.{function}('{POOL}', {GOOD[function]})"
        with pytest.raises(psycopg.Error, match="READ COMMITTED"), sale.connection.transaction():
            sale.connection.execute(call.encode())
