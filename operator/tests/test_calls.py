"""What operator and bridges call in DB1: the list is whole, and a DB1 of the former version has all of it."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import psycopg
import pytest
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import Migration, load, look, migrate, version
from intake_operator.decide import versions
from intake_operator.ledger import claims
from intake_operator.model.sql_version import SqlVersion
from psycopg import AsyncConnection

from tests import former
from tests.postgres import INTAKE_SQL, PostgresServer

PRESENT = load(INTAKE_SQL)
UID, POOL = "11111111-2222", "taylor-la-night-1"
ROOT = former.ROOT
CALLS = (ROOT / "operator/src/intake_operator/database/calls.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the former version."""
    return former.unpack(tmp_path_factory.mktemp("former") / former.TAG)


@pytest.fixture(scope="module")
def earlier(folder: Path) -> tuple[Migration, ...]:
    """Its SQL."""
    return load(folder / "sql" / "intake")


@pytest.fixture
async def connection(db1: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(db1, autocommit=True) as opened:
        yield opened


def called(folder: str) -> set[str]:
    """The functions of `intake` that a program's source names as called, and the tables that it reads."""
    found = set[str]()
    for path in (ROOT / folder).rglob("*.py"):
        found |= set(re.findall(r"\bintake\.(\w+)\(|FROM intake\.(\w+)", path.read_text(encoding="utf-8")))
    return {function or table for function, table in found}


def listed(*callers: str) -> set[str]:
    """The names in the list."""
    return {name for caller, name in re.findall(r"\('(\w+)', '(\w+)'", CALLS) if caller in callers}


def test_the_list_has_what_the_programs_call_and_nothing_else() -> None:
    assert listed("operator", "admin") == called("operator/src")
    assert listed("bridge") == called("bridge/src")


def test_only_the_admin_api_may_find_less() -> None:
    others = set[str]()
    for path in (ROOT / "operator/src/intake_operator").rglob("*.py"):
        if path.name not in {"dead_letters.py", "withheld.py"}:
            others |= set(re.findall(r"\bintake\.(\w+)\(", path.read_text(encoding="utf-8")))
    assert listed("admin") & others == set()


async def test_neither_the_present_version_nor_the_former_one_lacks_anything(
    connection: AsyncConnection, db1: str, server: PostgresServer, earlier: Sequence[Migration]
) -> None:
    await migrate(connection, PRESENT)
    assert await (await connection.execute(CALLS.encode())).fetchall() == []
    uri = server.create_database("former")
    async with await AsyncConnection.connect(uri, autocommit=True) as before:
        await migrate(before, earlier)
        found = await look(before, PRESENT)
    server.drop_database("former")
    assert found is not None
    assert (found.lacks, found.bridges_lack) == ((), ())
    assert (found.name, found.own) == (version(earlier), version(PRESENT))


@pytest.mark.parametrize(
    ("change", "lacks", "bridges_lack"),
    [
        ("DROP FUNCTION intake.seal", ("intake.seal(text, text)",), ()),
        ("DROP FUNCTION intake.extend", (), ("intake.extend(text, bigint[], integer[])",)),
        ("ALTER FUNCTION intake.seed RENAME TO sow", ("intake.seed(text)",), ()),
        ("ALTER TYPE intake.compared_claim RENAME ATTRIBUTE key TO place", ("intake.claims_at(text, uuid[])",), ()),
        ("ALTER TABLE intake.inventory RENAME COLUMN slot_no TO number", ("intake.inventory",), ()),
    ],
)
async def test_what_is_not_there_is_named(
    connection: AsyncConnection, change: str, lacks: tuple[str, ...], bridges_lack: tuple[str, ...]
) -> None:
    await migrate(connection, (*PRESENT, Migration("9999_later.sql", change)))
    found = await look(connection, PRESENT)
    assert found is not None
    assert found.changed == ("9999_later.sql",)
    assert (found.lacks[:1], found.bridges_lack[:1]) == (lacks, bridges_lack)


# What a later version may change: one more argument with a default, one more column, one more field.
LATER = {
    "CREATE FUNCTION intake.seal(pool_id text, reason text)": (
        "CREATE FUNCTION intake.seal(pool_id text, reason text, more boolean DEFAULT false)"
    ),
    "RETURNS TABLE (role_name name, fingerprint text)": "RETURNS TABLE (role_name name, more text, fingerprint text)",
    "    SELECT l.role_name, l.fingerprint FROM": "    SELECT l.role_name, 'more', l.fingerprint FROM",
    "'queue', jsonb_build_object('depth',": "'later', 1, 'queue', jsonb_build_object('later', 2, 'depth',",
}


@pytest.fixture(scope="module")
def later() -> tuple[Migration, ...]:
    """The SQL of a later version."""
    texts = {migration.name: migration.sql for migration in PRESENT}
    for before, after in LATER.items():
        (name,) = (name for name, text in texts.items() if before in text)
        texts[name] = texts[name].replace(before, after)
    return tuple(Migration(name, text) for name, text in texts.items())


async def test_more_arguments_with_defaults_and_more_columns_lack_nothing(
    connection: AsyncConnection, later: Sequence[Migration]
) -> None:
    await migrate(connection, later)
    found = await look(connection, PRESENT)
    assert found is not None
    assert (found.lacks, found.bridges_lack) == ((), ())


def config(**changes: Any) -> dict[str, Any]:
    """The live configuration of an open pool of ten slots."""
    now = datetime.now(UTC)
    window = {"opensAt": (now - timedelta(hours=1)).isoformat(), "closesAt": (now + timedelta(hours=1)).isoformat()}
    return {"inventorySize": 10, "batchSize": 5, **window} | changes


@pytest.fixture
def databases() -> Iterator[Callable[[Sequence[Migration]], Databases]]:
    """Operators of any version."""
    return lambda migrations: Databases(migrations)  # noqa: PLW0108 - a fixture that makes several


@pytest.mark.parametrize("made_by", ["earlier", "later"])
async def test_a_db1_of_another_version_is_driven_to_its_end(
    db1: str, made_by: str, request: pytest.FixtureRequest, databases: Callable[[Sequence[Migration]], Databases]
) -> None:
    other: Sequence[Migration] = request.getfixturevalue(made_by)
    host = unquote(urlparse(db1).query.removeprefix("host="))
    before, now = databases(other), databases(PRESENT)
    await before.observe(UID, POOL, host, "")
    await before.migrate(UID)
    await before.configure(UID, POOL, config())
    await before.seed(UID, POOL)
    with psycopg.connect(db1, autocommit=True) as claimer:
        claimer.execute("SELECT FROM intake.claim_resources(%s, 'ann', 3, 'r1')", (POOL,))
    await before.close_all()

    seen = await now.observe(UID, POOL, host, "")
    assert (seen.error, seen.migrated, seen.ready, seen.depth) == ("", True, True, 1)
    assert seen.version is not None
    assert (seen.version.name, seen.version.own) == (version(other), version(PRESENT))
    # A setting of a later version is left out: DB1 would refuse all others with it.
    wanted = versions.known_settings(config(batchSize=7, later=True), seen.version)
    await now.configure(UID, POOL, wanted)
    await now.limit_claimers(UID, 20)
    with psycopg.connect(db1, autocommit=True) as owner:
        assert owner.execute("SELECT intake.configuration(%s) ->> 'batchSize'", (POOL,)).fetchone() == ("7",)
    assert await now.seed(UID, POOL) == 0
    await now.seal(UID, POOL, "the window closed")
    account = await now.account(UID, POOL)
    assert (account.claims, account.queued, account.violations) == (1, 1, ())
    async with await AsyncConnection.connect(db1, autocommit=True) as opened:
        assert [page async for page in claims.settled_claims(opened, POOL)] == []
    assert await now.audit(UID, POOL)
    await now.close_all()


async def test_a_db1_that_lacks_something_is_left_alone(
    db1: str, databases: Callable[[Sequence[Migration]], Databases]
) -> None:
    host = unquote(urlparse(db1).query.removeprefix("host="))
    async with await AsyncConnection.connect(db1, autocommit=True) as opened:
        await migrate(opened, (*PRESENT, Migration("9999_later.sql", "DROP FUNCTION intake.engine_status")))
    operator = databases(PRESENT)
    seen = await operator.observe(UID, POOL, host, "")
    assert (seen.reachable, seen.migrated, seen.status) == (True, False, None)
    assert isinstance(seen.version, SqlVersion)
    assert seen.version.lacks == ("intake.engine_status(text)",)
    assert seen.identity
    await operator.close_all()


PARSE = """
import sys, yaml
from pathlib import Path
from intake_operator.model import spec
assert spec.__file__.startswith(sys.argv[2]), spec.__file__
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    for event in yaml.safe_load_all(path.read_text()):
        spec.IntakeEventSpec.model_validate(event["spec"])
    print(path.name)
"""


def test_the_former_operator_ignores_fields_that_this_version_has_added(folder: Path) -> None:
    fixtures = ROOT / "tests" / "e2e" / "crd" / "valid"
    path = os.pathsep.join(str(folder / project / "src") for project in ("operator", "shared"))
    command = [sys.executable, "-c", PARSE, str(fixtures), str(folder)]
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(fixtures.glob("*.yaml")))


def test_the_former_version_is_another_one(earlier: Sequence[Migration]) -> None:
    assert version(earlier) != version(PRESENT), "nothing is tried by these tests"


def test_a_clone_without_the_former_version_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(former, "COMMIT", "0" * 40)
    with pytest.raises(RuntimeError, match="git fetch --unshallow"):
        former.unpack(tmp_path / "none")
