"""The model of `intake.engine_status` against what the SQL really answers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlparse

import psycopg
import pytest
from given import make_spec, make_status
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.model.engine_status import EngineStatus
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ValidationError

from tests.postgres import INTAKE_SQL, PostgresServer

UID, POOL = "11111111-2222", "taylor-la-night-1"
# What DB1 answers for people with psql, and the operator does not read.
UNREAD = {"now", "generation", "workers.generation"}
HEALTH = {
    "validator": {"state": "down", "error": "HTTP 500"},
    "ledger": {"state": "ok", "offers": ["batch", "outcomes"]},
}


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A server with an empty database under the name that the operator uses."""
    with PostgresServer() as server:
        yield unquote(urlparse(server.create_database("intake")).query.removeprefix("host="))


def paths(value: object, name: str = "") -> Iterator[str]:
    """The name of every field of a JSON value, with a dot between an object and its field; health is left whole."""
    match value:
        case list():
            for each in value:
                yield from paths(each, name)
        case dict() if not name.endswith("health"):
            for key, each in value.items():
                yield from paths(each, f"{name}.{key}" if name else key)
        case _:
            yield name


async def test_the_model_has_every_field_that_db1_answers_and_no_other(host: str) -> None:
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    databases = Databases(load(INTAKE_SQL))
    await databases.observe(UID, POOL, host, "")
    await databases.migrate(UID)
    await databases.configure(UID, POOL, {"inventorySize": 10, "batchSize": 5} | window)
    unseeded = (await databases.observe(UID, POOL, host, "")).status
    assert unseeded is not None
    assert (unseeded.ready, unseeded.inventory.seeded, unseeded.restored, unseeded.workers) == (False, 0, None, ())
    await databases.seed(UID, POOL)
    with psycopg.connect(host=host, dbname="intake", user="postgres", autocommit=True) as db1:
        db1.execute("SELECT intake.claim_resource(%s, 'ann')", (POOL,))
        db1.execute("SELECT intake.report_worker(%s, 'w', 1, 5, %s)", (POOL, Jsonb(HEALTH)))
        db1.execute(
            "INSERT INTO intake.restores (pool_id, at, committed, voided) VALUES (%s, now(), 1, 0)",
            (POOL,),
        )
        (answer,) = db1.execute("SELECT intake.engine_status(%s)", (POOL,)).fetchone() or ()
    seen = (await databases.observe(UID, POOL, host, "")).status
    await databases.close_all()
    assert seen is not None
    dumped = seen.model_dump(mode="json", by_alias=True)
    assert set(paths(answer)) == set(paths(dumped)) | UNREAD
    for name in ("windowState", "sealed", "ready", "inventory", "claims", "committed", "peakDepth", "restored"):
        assert dumped[name] == answer[name], name
    assert (seen.window_state, seen.queue.depth, seen.inventory.seeded) == ("open", 1, 10)
    assert seen.workers[0].health.model_dump(exclude_none=True, mode="json") == HEALTH


async def test_a_hold_counts_as_a_claim_and_its_slots_as_held_until_it_is_confirmed(host: str) -> None:
    pool, now = "held", datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    checkout = {"holdSeconds": 600, "extendSeconds": 300}
    spec = make_spec(pool=pool, inventorySize=10, batchSize=5, window=window, claimsPerUser=3, checkout=checkout)
    databases = Databases(load(INTAKE_SQL))
    await databases.observe(UID, pool, host, "")
    await databases.migrate(UID)
    await databases.configure(UID, pool, spec.engine_config())
    await databases.seed(UID, pool)
    with psycopg.connect(host=host, dbname="intake", user="postgres", autocommit=True) as db1:
        claim = "SELECT DISTINCT outcome, claim_id, expires_at FROM intake.claim_resources(%s, 'ann', 3, 'r1')"
        outcome, claim_id, ends = db1.execute(claim, (pool,)).fetchone() or ()
        held = await databases.observe(UID, pool, host, "")
        await databases.seal(UID, pool, "test")
        sealed = await databases.observe(UID, pool, host, "")
        answer = db1.execute("SELECT intake.confirm_claim(%s, %s, 'ann')", (pool, claim_id)).fetchone()
        confirmed = await databases.observe(UID, pool, host, "")
    await databases.close_all()
    assert (outcome, answer) == ("held", ("confirmed",))
    for state in (held, sealed):
        assert state.status is not None
        assert (state.held, state.last_hold_ends, state.depth) == (1, ends, 0)
        assert (state.status.claims, state.status.held) == (1, 1)
        assert (state.status.inventory.held, state.status.inventory.seeded) == (3, 10)
    assert confirmed.status is not None
    assert (confirmed.held, confirmed.last_hold_ends, confirmed.depth) == (0, None, 1)
    assert (confirmed.status.inventory.held, confirmed.status.inventory.reserved) == (0, 3)


def fields(model: type[BaseModel], *before: str) -> Iterator[tuple[str, ...]]:
    """The place of every field that must be there."""
    for field in model.model_fields.values():
        assert field.alias is not None
        yield (*before, field.alias)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, *before, field.alias)


@pytest.mark.parametrize("missing", list(fields(EngineStatus)), ids=".".join)
def test_a_field_that_is_missing_is_named(missing: tuple[str, ...]) -> None:
    answer = make_status().model_dump(by_alias=True)
    *outer, last = missing
    inner = answer
    for name in outer:
        inner = inner[name]
    del inner[last]
    with pytest.raises(ValidationError) as refused:
        EngineStatus.model_validate(answer)
    assert [error["loc"] for error in refused.value.errors()] == [missing]


def test_a_field_that_is_not_known_is_ignored() -> None:
    answer = make_status().model_dump(by_alias=True)
    assert EngineStatus.model_validate(answer | {"tomorrow": 1}) == make_status()


@pytest.mark.parametrize(
    ("health", "read"),
    [
        ({"ledger": {"state": "degraded"}, "validator": {"state": "ok"}}, {"validator": {"state": "ok"}}),
        ({"ledger": {"state": "ok", "offers": "all"}}, {}),
        ({"ledger": None}, {}),
        (None, {}),
        ("ok", {}),
    ],
    ids=["a state of tomorrow", "offers as text", "a null", "null", "text"],
)
def test_a_heartbeat_that_cannot_be_read_hides_nothing_else(health: object, read: object) -> None:
    answer = make_status().model_dump(by_alias=True) | {"workers": [{"worker": "w", "batchSize": 5, "health": health}]}
    (worker,) = EngineStatus.model_validate(answer).workers
    assert worker.batch_size == 5
    assert worker.health.model_dump(exclude_none=True) == read


async def test_a_db1_with_another_engine_status_is_an_observation(host: str) -> None:
    databases = Databases(load(INTAKE_SQL))
    await databases.observe(UID, "other", host, "")
    await databases.migrate(UID)
    with psycopg.connect(host=host, dbname="intake", user="postgres", autocommit=True) as db1:
        (source,) = db1.execute("SELECT pg_get_functiondef('intake.engine_status'::regproc)").fetchone() or ("",)
        db1.execute(
            "CREATE OR REPLACE FUNCTION intake.engine_status(pool_id text) RETURNS jsonb LANGUAGE sql AS $$"
            'SELECT \'{"windowState": "open", "sealed": false}\'::jsonb $$'
        )
        seen = await databases.observe(UID, "other", host, "")
        db1.execute(source)
    await databases.close_all()
    assert not seen.reachable
    assert seen.error == "DB1's engine_status is not the one of this operator: ready: Field required"
