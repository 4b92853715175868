"""Provisioning, growth and rebuild: one function, any number of times."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from tests.sql.intake import POOL, Intake, lose_unlogged, wait_until_blocked


def test_seeding_twice_adds_nothing(intake: Intake) -> None:
    intake.configure(100)
    assert (intake.seed(), intake.seed()) == (100, 0)
    assert intake.value("SELECT count(DISTINCT resource_id) FROM intake.slots") == 100


def test_concurrent_seeds_do_the_work_once(intake: Intake, uri: str) -> None:
    intake.configure(2000)

    def seed(_: int) -> int:
        with Intake(uri) as one:
            return one.seed()

    with ThreadPoolExecutor() as threads:
        assert sorted(threads.map(seed, range(8))) == [0] * 7 + [2000]
    assert intake.value("SELECT epoch FROM intake.pools") == 1


def test_configure_seed_and_seal_at_once_never_deadlock(intake: Intake, uri: str) -> None:
    intake.configure(10)

    def configure() -> None:
        with Intake(uri) as one:
            for n in range(40):
                one.configure(10, batchSize=n + 1, **window_of_the_pool)

    def rebuild() -> None:
        with Intake(uri) as one:
            for _ in range(40):
                one.connection.execute("DELETE FROM intake.pools")
                one.seed()

    def seal() -> None:
        with Intake(uri) as one:
            for _ in range(40):
                one.value("SELECT intake.seal(%s, 'test')", POOL)

    found = intake.value("SELECT intake.configuration(%s)", POOL)
    window_of_the_pool = {"opensAt": found["opensAt"], "closesAt": found["closesAt"]}
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(work) for work in (configure, configure, rebuild, seal)]:
            done.result()
    assert intake.claim("ann").outcome == "closed"


def test_an_interrupted_seeding_leaves_nothing_and_the_next_does_it_all(intake: Intake) -> None:
    intake.configure(1000)
    with intake.connection.transaction(force_rollback=True):
        assert intake.seed() == 1000
    assert intake.claim("ann").outcome == "not_ready"
    assert intake.seed() == 1000


def test_i6_a_rebuild_restores_every_claimed_slot_and_every_resource_id(intake: Intake) -> None:
    intake.open(20, claimsPerUser=2)
    for n in range(10):
        intake.claim(f"u{n}", f"r{n}")
    messages = intake.read()
    intake.change("acknowledge", messages[:4], ["committed", "voided", "committed", "voided"])
    intake.change("dead_letter", messages[4:6], ["why", "why"])
    (letter,) = intake.column("SELECT min(msg_id) FROM intake.dead_letters(%s)", POOL)
    intake.rows("SELECT intake.discard(%s, %s, 'ops', 'voided')", POOL, [letter])
    everything = (
        "SELECT resource_id, slot_no, status, locked_by, locked_at, claim_id FROM intake.allocations ORDER BY slot_no"
    )
    before, proof = intake.rows(everything), intake.rows("SELECT * FROM intake.proof(%s)", POOL)
    lose_unlogged(intake.connection)
    assert intake.rows("SELECT * FROM intake.proof(%s)", POOL) != proof, "this must not look like a proof"
    intake.housekeep()
    assert len(intake.column("SELECT slot_no FROM intake.free_numbers")) == 3, "the voided slots are for sale again"
    assert intake.rows(everything) == before
    assert intake.rows("SELECT * FROM intake.proof(%s)", POOL) == proof
    assert intake.claim("u1", "r1").outcome == "replayed", "its claim was voided before the crash"
    assert intake.claim("u0", "r0").outcome == "replayed"
    assert intake.reconcile() == []


def test_a_rebuild_keeps_the_limit(intake: Intake) -> None:
    intake.open(20, claimsPerUser=2)
    assert [intake.claim("ann", f"r{n}").outcome for n in range(2)] == ["claimed"] * 2
    lose_unlogged(intake.connection)
    intake.seed()
    assert intake.claim("ann", "r2").outcome == "limit_reached"


def test_housekeeping_does_not_provision_what_the_operator_has_not(intake: Intake) -> None:
    intake.configure(10)
    intake.housekeep()
    assert intake.claim("ann").outcome == "not_ready"


def test_i1_of_two_intents_for_one_slot_the_first_keeps_it_and_the_other_is_reported(intake: Intake) -> None:
    first = intake.open(10).claim("ann", "r")
    intake.connection.execute(
        "INSERT INTO pgmq.q_intake_queue (vt, message)"
        " SELECT vt, message || jsonb_build_object('claim_id', uuidv7(), 'user_id', 'bob') FROM pgmq.q_intake_queue"
    )
    lose_unlogged(intake.connection)
    intake.seed()
    assert intake.claim("ann", "r") == replace(first, outcome="replayed")
    assert {invariant for invariant, _ in intake.reconcile()} == {"I1", "I2"}
    assert intake.claim("cid").outcome == "claimed"


async def test_an_acknowledgement_during_a_rebuild_is_not_lost(intake: Intake, uri: str) -> None:
    intake.open(10)
    for n in range(2):
        intake.claim(f"u{n}", f"r{n}")
    messages = intake.read()
    lose_unlogged(intake.connection)
    # Another pool has claimed slots already: the keys stay, and no DDL locks the table.
    with Intake(uri, "other") as other:
        other.open(10).claim("ann")

    def acknowledge() -> list[int]:
        with Intake(uri) as bridge:
            return bridge.change("acknowledge", messages, ["voided", "committed"])

    with Intake(uri) as operator:
        with operator.connection.transaction():
            operator.seed()
            acknowledging = asyncio.create_task(asyncio.to_thread(acknowledge))
            while not acknowledging.done() and not intake.value(  # noqa: ASYNC110 - the server's state is the event
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database())"
            ):
                await asyncio.sleep(0)
        assert len(await acknowledging) == 2
    assert intake.inventory() == (9, 0, 1)
    assert intake.reconcile() == []


def test_a_million_slots_are_seeded_as_one_set(intake: Intake) -> None:
    """A few times what the bare rows take, on whatever machine; slot by slot it would be a hundred times."""
    intake.configure(1_000_000)
    started = time.monotonic()
    with intake.connection.transaction(force_rollback=True):
        intake.connection.execute(
            "CREATE UNLOGGED TABLE bare (pool_no int, slot_no bigint, PRIMARY KEY (pool_no, slot_no))"
        )
        intake.connection.execute("INSERT INTO bare SELECT 1, n FROM generate_series(1, 1000000) n")
    bare = time.monotonic() - started
    assert intake.seed() == 1_000_000
    assert time.monotonic() - started - bare < 20 * bare
    assert intake.claim("ann").outcome == "claimed"
    assert intake.inventory() == (999_999, 1, 0)


def test_configure_bumps_the_generation_only_by_a_change(intake: Intake) -> None:
    fixed = {"opensAt": "2026-01-01T00:00:00Z", "closesAt": "2027-01-01T00:00:00Z"}
    assert [intake.configure(10, **fixed) for _ in range(2)] == [1, 1]
    assert intake.configure(10, **fixed, batchSize=7) == 2
    assert intake.configure(10, **fixed) == 3, "what is left out goes back to its default"
    found = intake.value("SELECT intake.configuration(%s)", POOL)
    assert found == {
        "inventorySize": 10,
        "batchSize": 100,
        "opensAt": "2026-01-01T00:00:00+00:00",
        "closesAt": "2027-01-01T00:00:00+00:00",
        "visibilityTimeoutSeconds": 45,
        "maxRetries": 10,
        "paused": False,
        "claimsPerUser": None,
        "claimTimeoutSeconds": None,
        "maxPayloadBytes": 4096,
        "holdSeconds": None,
        "extendSeconds": None,
        "maxPerSecond": None,
        "latencyBudgetMilliseconds": 1000,
        "validation": None,
        "commitTarget": None,
        "ownResources": False,
        "generation": 3,
        "sealed": False,
        "windowState": "open",
    }


def test_a_sealed_pool_may_be_throttled_without_repeating_its_window(intake: Intake) -> None:
    intake.open(10)
    intake.value("SELECT intake.seal(%s, 'drain')", POOL)
    intake.value("SELECT intake.configure(%s, %s)", POOL, '{"batchSize": 5}')
    found = intake.value("SELECT intake.configuration(%s)", POOL)
    assert (found["inventorySize"], found["batchSize"], found["sealed"]) == (10, 5, True)


@pytest.mark.parametrize(
    ("config", "sqlstate"),
    [
        ("[]", "IE002"),
        ("null", "IE002"),
        ("{}", "IE002"),
        ('{"inventorySize": 10, "opensAt": "soon", "closesAt": "2027-01-01"}', "IE002"),
        ('{"inventorySize": "x", "opensAt": "2026-01-01", "closesAt": "2027-01-01"}', "IE002"),
        ('{"inventorySize": 10, "opensAt": "2027-01-01", "closesAt": "2026-01-01"}', "IE002"),
        ('{"inventorySize": 10000001, "opensAt": "2026-01-01", "closesAt": "2027-01-01"}', "IE002"),
        ('{"inventorySize": 10, "batchsize": 1, "opensAt": "2026-01-01", "closesAt": "2027-01-01"}', "IE002"),
        ('{"inventorySize": 9, "opensAt": "2026-01-01", "closesAt": "2027-01-01"}', "IE004"),
    ],
)
def test_configure_refuses(intake: Intake, config: str, sqlstate: str) -> None:
    intake.configure(10)
    with pytest.raises(psycopg.Error) as caught:
        intake.value("SELECT intake.configure(%s, %s)", POOL, config)
    assert caught.value.sqlstate == sqlstate
    assert caught.value.diag.message_hint
    assert intake.value("SELECT generation FROM intake.engine_config") == 1


@pytest.mark.parametrize("changed", ["seal", "configure"])
def test_a_rebuild_by_housekeeping_never_deadlocks_with_the_operator(intake: Intake, uri: str, changed: str) -> None:
    """A session that waits for the rebuild of another blocks no other session."""
    intake.open(10)
    lose_unlogged(intake.connection)

    def housekeep() -> int:
        with Intake(uri) as bridge:
            return bridge.housekeep()

    def change() -> None:
        with Intake(uri) as operator:
            if changed == "seal":
                operator.value("SELECT intake.seal(%s, 'window closed')", POOL)
            else:
                operator.configure(10, claimsPerUser=1)

    with ThreadPoolExecutor() as threads, Intake(uri) as first:
        with first.connection.transaction():
            # The lock that stock() and another seed() take.
            first.value("SELECT pg_advisory_xact_lock(hashtext('intake.seed'), pool_no) FROM intake.engine_config")
            keeping = threads.submit(housekeep)
            wait_until_blocked(intake, keeping)
            changing = threads.submit(change)
            wait_until_blocked(intake, keeping, changing)
        changing.result()
        keeping.result()
    assert intake.claim("ann").outcome == ("closed" if changed == "seal" else "claimed")
