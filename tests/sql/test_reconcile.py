"""reconcile and proof find what is planted; status counts."""

import pytest
from psycopg.types.json import Jsonb

from tests.postgres import PostgresServer
from tests.sql.intake import POOL, Intake
from tests.sql.mixed import mixed

DUPLICATE_MESSAGE = (
    "INSERT INTO pgmq.q_intake_queue (vt, message) SELECT vt, message {} FROM pgmq.q_intake_queue LIMIT 1"
)
AT_4 = "UPDATE pgmq.q_intake_queue SET message = jsonb_set(message, {}) WHERE msg_id = 4"


@pytest.fixture
def sale(intake: Intake) -> Intake:
    """Ten slots: one committed, one voided, one dead, three queued."""
    intake.open(10)
    for n in range(6):
        intake.claim(f"u{n}", f"r{n}")
    messages = intake.read(3)
    intake.change("acknowledge", messages[:2], ["committed", "voided"])
    intake.change("dead_letter", messages[2:], ["why"])
    assert intake.reconcile() == []
    return intake


@pytest.mark.parametrize(
    ("invariant", "damage"),
    [
        (
            "I1",
            DUPLICATE_MESSAGE.format(
                """|| '{"claim_id": "00000000-0000-7000-8000-000000000000", "request_id": "x"}'"""
            ),
        ),
        ("I1", AT_4.format("""'{seats,0,slot_no}', '11'""")),
        ("I2", DUPLICATE_MESSAGE.format("")),
        ("I2", "DELETE FROM pgmq.q_intake_queue WHERE msg_id = 4"),
        ("I2", "DELETE FROM pgmq.a_intake_queue WHERE msg_id = 1"),
        ("I2", "DELETE FROM pgmq.q_intake_dlq"),
        ("I2", "DELETE FROM intake.claimed_slots WHERE slot_no = 4"),
        ("I2", "UPDATE intake.claimed_slots SET user_id = 'thief' WHERE slot_no = 4"),
        (
            "I3",
            "INSERT INTO pgmq.a_intake_dlq (msg_id, vt, message)"
            """ SELECT 99, vt, message || '{"outcome": "voided"}' FROM pgmq.a_intake_queue WHERE msg_id = 1""",
        ),
        ("I6", "UPDATE intake.claimed_slots SET status = 'R' WHERE slot_no = 1"),
        ("I6", "UPDATE intake.claimed_slots SET status = 'C' WHERE slot_no = 4"),
        ("I6", "INSERT INTO intake.free_numbers VALUES (1, 4)"),
        ("I6", "DELETE FROM intake.slots WHERE slot_no = 7"),
        ("I6", "UPDATE intake.number_progress SET frontier = 2; DELETE FROM intake.free_numbers"),
        (
            "I7",
            DUPLICATE_MESSAGE.format(
                """|| '{"claim_id": "00000000-0000-7000-8000-000000000000", "seats": [{"slot_no": 9}]}'"""
            ),
        ),
    ],
)
def test_reconcile_finds_what_is_planted(sale: Intake, invariant: str, damage: str) -> None:
    sale.connection.execute(damage.encode())
    found = sale.reconcile()
    assert invariant in {name for name, _ in found}, found
    assert all(detail for _, detail in found)


@pytest.fixture
def several(intake: Intake) -> Intake:
    """Forty slots with claims of one to four slots in every state, and withheld slots."""
    mixed(intake)
    return intake


OF = "SELECT message ->> 'claim_id' FROM intake.intents WHERE message ->> 'user_id' = '{}'"
SECOND = "claim_id::text = (" + OF + ") AND part_no = 2"


@pytest.mark.parametrize(
    ("invariant", "told", "damage"),
    [
        ("I2", "has no claimed slot", "DELETE FROM intake.claimed_slots WHERE " + SECOND.format("dead")),
        ("I2", "has no claimed slot", "DELETE FROM intake.claimed_slots WHERE " + SECOND.format("voided")),
        (
            "I2",
            "is in neither",
            "UPDATE pgmq.q_intake_dlq SET message = jsonb_set(message, '{seats}', (message -> 'seats') - 1)",
        ),
        (
            "I2",
            "part 1 of 4, is in neither",
            "UPDATE pgmq.q_intake_dlq SET message = jsonb_set(message, '{seats}', (message -> 'seats') - 3)",
        ),
        (
            "I2",
            "part 3 of 4, is in neither",
            "UPDATE intake.claimed_slots SET part_no = 3 WHERE " + SECOND.format("held"),
        ),
        (
            "I2",
            "part 2 of 4, is in neither",
            "UPDATE intake.claimed_slots SET msg_id = 99 WHERE " + SECOND.format("dead"),
        ),
        ("I2", "(dead) has no slots", "UPDATE pgmq.q_intake_dlq SET message = message - 'seats'"),
        ("I2", "(dead) has no slots", """UPDATE pgmq.q_intake_dlq SET message = message || '{"seats": []}'"""),
        ("I2", "(dead) has no slots", """UPDATE pgmq.q_intake_dlq SET message = message || '{"seats": null}'"""),
        (
            "I2",
            "is in 2 places: ",
            "INSERT INTO pgmq.q_intake_queue (vt, message) SELECT vt, message FROM pgmq.q_intake_dlq",
        ),
        ("I2", "is in neither holds", "DELETE FROM intake.holds WHERE ended IS NULL"),
        ("I6", "is RESERVED, its claim", "UPDATE intake.claimed_slots SET status = 'R' WHERE " + SECOND.format("held")),
        ("I6", "is HELD, its claim", "UPDATE intake.claimed_slots SET status = 'H' WHERE " + SECOND.format("dead")),
        ("I6", "is CONSUMED, its claim", "UPDATE intake.claimed_slots SET status = 'C' WHERE " + SECOND.format("held")),
        (
            "I6",
            "slot 39 is withheld, and nothing keeps it off sale",
            "DELETE FROM intake.claimed_slots WHERE slot_no = 39",
        ),
        (
            "I6",
            "slot 39 is WITHHELD, and intake.withheld does not have it",
            "DELETE FROM intake.withheld WHERE slot_no = 39",
        ),
        ("I6", "withholding has it", "INSERT INTO intake.free_numbers VALUES (1, 39)"),
        (
            "I1",
            "has the claims",
            "UPDATE intake.holds SET message = jsonb_set(message, '{seats,3,slot_no}', message #> '{seats,2,slot_no}')"
            " WHERE ended IS NULL",
        ),
    ],
)
def test_reconcile_finds_what_is_wrong_with_a_part_of_a_claim(
    several: Intake, invariant: str, told: str, damage: str
) -> None:
    several.connection.execute(damage.encode())
    found = several.reconcile()
    assert [name for name, detail in found if told in detail] in ([invariant], [invariant] * 2, [invariant] * 4), found
    if "withh" in told or "status" in damage:
        assert len(found) == 1, found


def test_reconcile_reports_nothing_while_claims_run(sale: Intake, uri: str) -> None:
    with Intake(uri) as buyer, buyer.connection.transaction():
        buyer.claim("ann")
        assert sale.reconcile() == []
    assert sale.reconcile() == []


def test_the_proof_adds_up_and_agrees_with_the_ledger(sale: Intake, server: PostgresServer, ledger_uri: str) -> None:
    (proof,) = sale.dicts("SELECT * FROM intake.proof(%s)", POOL)
    digest = proof.pop("digest")
    counted = {"claims": 6, "committed": 1, "voided": 1, "queued": 3, "dead": 1, "slots": 1}
    assert proof == counted | {"released": 0, "expired": 0, "held": 0}
    payloads = "SELECT jsonb_agg(message) FROM intake.intents WHERE place = '{}'"
    with Intake(ledger_uri) as ledger:
        for claim in sale.value(payloads.format("committed")):
            assert ledger.value("SELECT finalize_transaction(%s) ->> 'outcome'", Jsonb(claim)) == "committed"
        for claim in sale.value(payloads.format("voided")):
            assert ledger.value("SELECT void_claim(%s)", Jsonb(claim)) == "voided"
        account = {"committed": 1, "voided": 1, "slots": 1, "digest": digest}
        assert ledger.dicts("SELECT * FROM ledger_proof(%s)", POOL) == [account]
        assert ledger.dicts("SELECT * FROM ledger_proof('other')") == [dict.fromkeys(account, 0)]


def test_a_vanished_message_breaks_the_sum_of_the_proof(sale: Intake) -> None:
    sale.connection.execute("DELETE FROM pgmq.q_intake_queue WHERE msg_id = 4")
    (proof,) = sale.dicts("SELECT * FROM intake.proof(%s)", POOL)
    assert proof["claims"] == 6
    assert proof["committed"] + proof["voided"] + proof["queued"] + proof["dead"] == 5


def test_engine_status_counts(sale: Intake) -> None:
    sale.read(1)
    sale.value("SELECT intake.report_worker(%s, 'w1', 1, 100, %s)", POOL, '{"ledger": {"state": "ok"}}')
    sale.value("SELECT intake.report_worker(%s, 'w2', 1, 100, '{}')", POOL)
    sale.connection.execute("UPDATE intake.workers SET seen_at = seen_at - interval '11 s' WHERE worker = 'w2'")
    status = sale.status()
    assert status["queue"].pop("oldestSeconds") > 0
    assert status.pop("now")
    assert status == {
        "windowState": "open",
        "sealed": False,
        "ready": True,
        "generation": 1,
        "inventory": {"size": 10, "available": 5, "held": 0, "withheld": 0, "reserved": 4, "consumed": 1},
        "queue": {"depth": 3, "inFlight": 1, "deadLetters": 1},
        "claims": 6,
        "held": 0,
        "committed": 1,
        "voided": 1,
        "released": 0,
        "expired": 0,
        "holds": {"claims": 0, "lastEndsAt": None},
        "claimsPerSecond": 0,
        "commitsPerSecond": 0,
        "peakDepth": None,
        "restored": None,
        "workers": [{"worker": "w1", "generation": 1, "batchSize": 100, "health": {"ledger": {"state": "ok"}}}],
    }


@pytest.mark.parametrize(
    ("damage", "depth"),
    [
        ("DELETE FROM pgmq.q_intake_queue", 0),
        ("UPDATE intake.claimed_slots SET status = 'C'", 1),
        ("TRUNCATE intake.pools", 3),
    ],
)
def test_depth_is_zero_when_the_queue_is_empty_and_only_then(sale: Intake, damage: str, depth: int) -> None:
    sale.connection.execute(damage.encode())
    assert sale.status()["queue"]["depth"] == depth


def test_rates_come_from_the_metrics(sale: Intake) -> None:
    sale.value("SELECT intake.record_metrics(%s)", POOL)
    for n in range(8):
        sale.claim(f"v{n}")
    sale.connection.execute("UPDATE intake.engine_metrics SET at = clock_timestamp() - interval '4 s'")
    status = sale.status()
    # Five were free. The rate looks back 15 s: on any machine it was one or the other.
    assert 5 / 15 <= status["claimsPerSecond"] <= 5 / 4
    assert status["commitsPerSecond"] == 0


def recorded(sale: Intake, *rows: tuple[str, int]) -> None:
    """Rows of engine_metrics: how long ago, and how many were queued."""
    for ago, depth in rows:
        sale.connection.execute(
            "INSERT INTO intake.engine_metrics"
            " SELECT %s, clock_timestamp() - %s::interval, 0, 0, 0, 0, 0, %s, 0, 0, 0, 0, 0",
            (sale.pool, ago, depth),
        )


def test_the_status_has_the_deepest_queue_of_five_minutes(sale: Intake) -> None:
    assert sale.status()["peakDepth"] is None, "no metrics were written"
    recorded(sale, ("301 s", 900), ("295 s", 700), ("100 s", 400), ("5 s", 10))
    with Intake(sale.uri, "other") as other:
        other.open(1)
        recorded(other, ("5 s", 5000))
    assert sale.status()["peakDepth"] == 700
    sale.connection.execute("DELETE FROM intake.engine_metrics WHERE depth = 700")
    assert sale.status()["peakDepth"] == 400


def test_housekeeping_keeps_the_metrics_of_an_hour(sale: Intake) -> None:
    recorded(sale, ("61 minutes", 1), ("59 minutes", 2), ("0 s", 3))
    sale.housekeep()
    assert sale.column("SELECT depth FROM intake.engine_metrics ORDER BY 1") == [2, 3]


def test_an_event_of_weeks_has_no_more_rows_than_one_of_an_hour(sale: Intake) -> None:
    """Rows of five weeks without housekeeping are deleted a thousand at a time, the oldest first."""
    sale.connection.execute(
        "INSERT INTO intake.engine_metrics SELECT %s, clock_timestamp() - n * interval '20 minutes',"
        " 0, 0, 0, 0, 0, n, 0, 0, 0, 0, 0 FROM generate_series(1, 2500) n",
        (POOL,),
    )
    left = []
    for _ in range(4):
        sale.housekeep()
        left.append(sale.rows("SELECT count(*), max(depth) FROM intake.engine_metrics")[0])
    assert left == [(1500, 1500), (500, 500), (2, 2), (2, 2)]
    for _ in range(3):
        sale.connection.execute("UPDATE intake.engine_metrics SET at = at - interval '20 minutes'")
        sale.value("SELECT intake.record_metrics(%s)", POOL)
        sale.housekeep()
    assert sale.value("SELECT count(*) FROM intake.engine_metrics") == 3


def test_housekeeping_forgets_workers_that_are_long_gone(sale: Intake) -> None:
    sale.value("SELECT intake.report_worker(%s, 'w1', 1, 100, '{}')", POOL)
    sale.connection.execute("UPDATE intake.workers SET seen_at = seen_at - interval '2 hours'")
    sale.housekeep()
    assert sale.column("SELECT worker FROM intake.workers") == []


def test_claims_are_placed_for_the_comparison_with_the_ledger(sale: Intake) -> None:
    ended = sale.dicts("SELECT * FROM intake.settled_claims(%s, NULL, 10)", POOL)
    assert [(claim["key"] < 0, claim["slot_nos"], claim["state"], claim["resource_ids"]) for claim in ended] == [
        (True, [2], "voided", None),
        (False, [1], "committed", None),
    ]
    assert sale.dicts("SELECT * FROM intake.settled_claims(%s, %s, 10)", POOL, ended[0]["key"]) == ended[1:]
    every = sale.column("SELECT (message ->> 'claim_id')::uuid FROM intake.intents")
    placed = sale.dicts("SELECT * FROM intake.claims_at(%s, %s)", POOL, [*every, sale.value("SELECT uuidv7()")])
    assert sorted((claim["slot_nos"], claim["user_id"], claim["state"]) for claim in placed) == [
        ([1], "u0", "committed"),
        ([2], "u1", "voided"),
        ([3], "u2", "dead"),
        ([4], "u3", "queued"),
        ([5], "u4", "queued"),
        ([6], "u5", "queued"),
    ]
    resources = dict(sale.rows("SELECT slot_no, resource_id FROM intake.slots"))
    assert all(claim["resource_ids"] == [resources[slot] for slot in claim["slot_nos"]] for claim in placed)
