"""The user's own rows, from a ConfigMap or a table on a real PostgreSQL into a real DB1."""

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import UUID

import given
import psycopg
import pytest
from intake_operator.addresses import Address
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import load
from intake_operator.inventory.inventories import WHILE_BAD, WHILE_GOOD, WHILE_REFUSED, Inventories
from intake_operator.inventory.table import Table
from intake_operator.long_reads import LongReads
from intake_operator.model import spec
from intake_operator.model.observed import Event, InventoryState, Manifest
from intake_operator.reasons import Problem
from intake_operator.workqueue import Key

from tests.postgres import INTAKE_SQL, PostgresServer

type Make[T] = Callable[..., T]

CONFIG_MAP = spec.Inventory.model_validate({"configMapRef": {"name": "seats"}})
TABLE = spec.Inventory.model_validate({"table": {"secretRef": {"name": "hall"}}})
LINES = [f"{UUID(int=n)},A-{n}" for n in range(1, 6)]


@pytest.fixture
def hall(server: PostgresServer) -> Iterator[psycopg.Connection]:
    """The user's own database, and the table of seats in it, empty."""
    uri = server.create_database("hall")
    with psycopg.connect(uri, autocommit=True) as owner:
        owner.execute("CREATE TABLE seats (resource_id uuid, label text)")
        owner.execute("CREATE ROLE reader LOGIN")
        owner.execute("GRANT SELECT ON seats TO reader")
        yield owner
        owner.execute("DROP OWNED BY reader")
        owner.execute("DROP ROLE reader")
    server.drop_database("hall")


@dataclass
class Objects:
    """The namespace: what is there is what a test puts there."""

    there: dict[tuple[str, str], Manifest] = field(default_factory=dict)

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        assert namespace == "tickets"
        return self.there.get((kind, name))

    def lines(self, *lines: str) -> None:
        """The ConfigMap."""
        self.there["ConfigMap", "seats"] = {"data": {"seats.csv": "\n".join(lines)}}

    def uri(self, uri: str) -> None:
        """The Secret."""
        self.there["Secret", "hall"] = {"data": {"uri": base64.b64encode(uri.encode()).decode()}}


@dataclass
class Scene:
    """One event with its DB1 and the operator's look at both; `now` is only moved by the test."""

    event: Event
    databases: Databases
    objects: Objects
    host: str
    now: float = 0.0
    inventories: Inventories = field(init=False)
    reads: LongReads = field(init=False)
    woken: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reads = LongReads(self.woken.append)
        self.inventories = Inventories(self.objects, self.databases, lambda: self.now, self.reads)

    async def configure(self, size: int) -> None:
        """As a pass does it, before it stocks."""
        at = datetime.now(UTC)
        window = {"opensAt": (at - timedelta(1)).isoformat(), "closesAt": (at + timedelta(1)).isoformat()}
        config = {"inventorySize": size, "batchSize": 1, "ownResources": True, **window}
        await self.databases.configure(self.event.uid, self.event.pool, config)

    async def check(self, wanted: spec.Inventory, size: int) -> InventoryState:
        """The check of the pass that the end of a long read wakes; of this pass, if none was needed."""
        if not (found := await self.look(wanted, size)).checking:
            return found
        await given.ended(self.reads)
        return await self.look(wanted, size)

    async def look(self, wanted: spec.Inventory, size: int) -> InventoryState:
        """The check of one pass."""
        return await self.inventories.check(self.event, wanted, size, await self.stocked())

    async def passes(self, wanted: spec.Inventory, size: int) -> InventoryState:
        """Check, stock if that is due, and check once more."""
        if (await self.check(wanted, size)).due:
            self.inventories.stock(self.event, wanted, size)
            await given.ended(self.reads)
        return await self.check(wanted, size)

    async def stocked(self) -> int:
        """What an observation says of DB1."""
        return (await self.databases.observe(self.event.uid, self.event.pool, self.host, "")).stocked

    async def seed(self) -> list[tuple[Any, ...]]:
        """Put on sale what is stocked; slot, resource and label of all that is."""
        await self.databases.seed(self.event.uid, self.event.pool)
        async with await psycopg.AsyncConnection.connect(host=self.host, dbname="intake", user="postgres") as db1:
            found = await db1.execute("SELECT slot_no, resource_id, label FROM intake.allocations ORDER BY slot_no")
            return await found.fetchall()

    async def attributes(self) -> list[Any]:
        """The attributes of all slots that are stocked."""
        async with await psycopg.AsyncConnection.connect(host=self.host, dbname="intake", user="postgres") as db1:
            found = await db1.execute("SELECT attributes FROM intake.inventory ORDER BY slot_no")
            return [attributes for (attributes,) in await found.fetchall()]


@pytest.fixture
async def scene(event: Make[Event], db1: str) -> AsyncIterator[Scene]:
    """A migrated DB1 for five slots of the user's own, none of them stocked."""
    databases = Databases(load(INTAKE_SQL))
    made = Scene(event(), databases, Objects(), unquote(urlparse(db1).query.removeprefix("host=")))
    await made.stocked()
    await databases.migrate(made.event.uid)
    await made.configure(5)
    yield made
    await databases.close_all()


def reader(server: PostgresServer) -> str:
    """The URI of a role that may only read the user's table."""
    return server.uri("hall", "reader")


def fill(hall: psycopg.Connection, *lines: str, table: str = "seats") -> None:
    """The user's rows, into the table."""
    with hall.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy:
        copy.write("\n".join(lines))


class TestConfigMap:
    async def test_slots_have_the_ids_and_labels_of_the_lines_in_their_order(self, scene: Scene) -> None:
        scene.objects.lines("resource_id,label", *reversed(LINES))
        assert (await scene.check(CONFIG_MAP, 5)).due
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()
        assert await scene.seed() == [(6 - n, UUID(int=n), f"A-{n}") for n in range(5, 0, -1)]

    async def test_more_rows_are_taken_when_the_inventory_grows(self, scene: Scene) -> None:
        scene.objects.lines(*LINES[:4])
        await scene.passes(CONFIG_MAP, 2)
        assert await scene.stocked() == 2
        assert await scene.passes(CONFIG_MAP, 4) == InventoryState()
        short = await scene.passes(CONFIG_MAP, 5)
        assert short.problem is Problem.INVENTORY_TOO_SMALL
        assert "it has 4 rows, spec.inventorySize wants 5" in short.message
        scene.objects.lines(*LINES)
        scene.now += WHILE_BAD.total_seconds()
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()
        assert await scene.stocked() == 5

    async def test_what_is_missing_is_named_and_may_come_later(self, scene: Scene) -> None:
        missing = await scene.passes(CONFIG_MAP, 5)
        assert missing.problem is Problem.INVENTORY_MISSING
        assert "ConfigMap seats, key seats.csv: there is no such ConfigMap" in missing.message
        scene.objects.there["ConfigMap", "seats"] = {"data": {"other.csv": ""}}
        assert await scene.passes(CONFIG_MAP, 5) == missing, "it is looked at seldom"
        scene.now += WHILE_BAD.total_seconds()
        assert "has no such key" in (await scene.passes(CONFIG_MAP, 5)).message
        scene.objects.lines(*LINES)
        scene.now += WHILE_BAD.total_seconds()
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()

    async def test_one_bad_line_and_none_is_taken(self, scene: Scene) -> None:
        scene.objects.lines(*LINES[:4], "A-5")
        bad = await scene.passes(CONFIG_MAP, 5)
        assert (bad.problem, bad.due) == (Problem.INVENTORY_INVALID, False)
        assert "line 5: 'A-5' is not a UUID" in bad.message
        scene.objects.there["ConfigMap", "seats"] = {
            "binaryData": {"seats.csv": base64.b64encode(LINES[0].encode("utf-16")).decode()}
        }
        scene.now += WHILE_BAD.total_seconds()
        assert "not text in UTF-8" in (await scene.passes(CONFIG_MAP, 5)).message
        assert await scene.stocked() == 0

    async def test_a_row_that_is_on_sale_cannot_change_and_may_be_put_back(self, scene: Scene) -> None:
        scene.objects.lines(*LINES)
        await scene.passes(CONFIG_MAP, 5)
        scene.objects.lines(*LINES[:2], f"{UUID(int=3)},C-3", *LINES[3:])
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState(), "nothing is missing, so the next look has time"
        scene.now += WHILE_GOOD.total_seconds()
        changed = await scene.passes(CONFIG_MAP, 5)
        assert changed.problem is Problem.INVENTORY_CHANGED
        assert "slot 3" in changed.message
        scene.now += WHILE_REFUSED.total_seconds()
        again = await scene.check(CONFIG_MAP, 5)
        assert (again.problem, again.due) == (changed.problem, True), "it is told as long as it lasts"
        await scene.passes(CONFIG_MAP, 5)
        scene.objects.lines(*LINES)
        scene.now += WHILE_REFUSED.total_seconds()
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()
        assert (await scene.seed())[2] == (3, UUID(int=3), "A-3")

    async def test_other_columns_are_kept_with_the_slot_and_cannot_change(self, scene: Scene) -> None:
        header, *rows = ["resource_id,label,price", *(f"{UUID(int=n)},A-{n},{n}9.50" for n in range(1, 6))]
        scene.objects.lines(header, *rows)
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()
        assert await scene.attributes() == [{"price": f"{n}9.50"} for n in range(1, 6)]
        scene.objects.lines(header, *rows[:4], f"{UUID(int=5)},A-5,99.50")
        scene.now += WHILE_GOOD.total_seconds()
        changed = await scene.passes(CONFIG_MAP, 5)
        assert changed.problem is Problem.INVENTORY_CHANGED
        assert "slot 5 of pool taylor-la-night-1 is stocked with other attributes: price" in changed.message
        scene.objects.lines(*LINES)
        scene.now += WHILE_REFUSED.total_seconds()
        assert "slot 1" in (await scene.passes(CONFIG_MAP, 5)).message, "it had a price"

    async def test_it_may_be_deleted_once_db1_has_its_rows(self, scene: Scene) -> None:
        scene.objects.lines(*LINES)
        await scene.passes(CONFIG_MAP, 5)
        scene.objects.there.clear()
        scene.now += WHILE_GOOD.total_seconds()
        assert await scene.passes(CONFIG_MAP, 5) == InventoryState()


class TestTable:
    async def test_slots_are_numbered_by_label_then_id_and_may_have_no_label(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        fill(hall, f"{UUID(int=9)},", f"{UUID(int=8)},", f"{UUID(int=7)},b", f"{UUID(int=6)},ä", f"{UUID(int=5)},B")
        scene.objects.uri(reader(server))
        assert await scene.passes(TABLE, 5) == InventoryState()
        found = [(label, n.int) for _, n, label in await scene.seed()]
        assert found == [("B", 5), ("b", 7), ("ä", 6), (None, 8), (None, 9)]

    async def test_more_rows_than_fit_into_one_call_and_more_later(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        fill(hall, *(f"{UUID(int=n)},{n:06}" for n in range(1, 12_346)))
        scene.objects.uri(reader(server))
        assert await scene.passes(TABLE, 12_345) == InventoryState()
        assert await scene.stocked() == 12_345
        fill(hall, f"{UUID(int=20_000)},020000")
        assert await scene.passes(TABLE, 12_346) == InventoryState()
        await scene.configure(12_346)
        slots = await scene.seed()
        assert [slots[0], slots[-2], slots[-1]] == [
            (1, UUID(int=1), "000001"),
            (12_345, UUID(int=12_345), "012345"),
            (12_346, UUID(int=20_000), "020000"),
        ]

    async def test_other_columns_are_kept_as_the_json_of_their_types(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        hall.execute(
            "ALTER TABLE seats ADD price numeric(6,2) DEFAULT 89.50, ADD seats_free boolean DEFAULT true, ADD seat int"
            " DEFAULT 7, ADD own text DEFAULT 'x', ADD opens timestamptz DEFAULT '2026-12-01 18:00+01',"
            " ADD nothing text"
        )
        fill(hall, *LINES, table="seats (resource_id, label)")
        scene.objects.uri(reader(server))
        assert await scene.passes(TABLE, 5) == InventoryState()
        found = await scene.attributes()
        opens = "2026-12-01T17:00:00+00:00"
        own = {"price": 89.5, "seats_free": True, "seat": 7, "own": "x", "opens": opens, "nothing": None}
        assert found == [own] * 5
        async with await psycopg.AsyncConnection.connect(host=scene.host, dbname="intake", user="postgres") as db1:
            price = await db1.execute("SELECT DISTINCT attributes ->> 'price' FROM intake.inventory")
            assert await price.fetchall() == [("89.50",)]

    async def test_only_columns_that_may_be_read_are_taken(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        hall.execute("ALTER TABLE seats ADD section text DEFAULT 'Floor', ADD user_id text DEFAULT 'ann'")
        hall.execute("REVOKE SELECT ON seats FROM reader")
        hall.execute("GRANT SELECT (resource_id, label, section) ON seats TO reader")
        fill(hall, *LINES, table="seats (resource_id, label)")
        scene.objects.uri(reader(server))
        assert await scene.passes(TABLE, 5) == InventoryState()
        assert await scene.attributes() == [{"section": "Floor"}] * 5

    @pytest.mark.parametrize(
        ("column", "told"),
        [
            ('"Slot_No" int', "its column 'Slot_No' has the name of a field of a claim; name a view without it"),
            ("payload text", "its column 'payload' has the name of a field of a claim"),
            ('"a\u200b" text', "its column 'a\\u200b' has a name whose character 2 is U+200B"),
            (
                "notes text DEFAULT repeat('x', 1014)",
                "row 1: the columns beside resource_id and label have more than 1024",
            ),
            (
                "notes text DEFAULT repeat('ä', 600)",
                "row 1: the columns beside resource_id and label have more than 1024",
            ),
        ],
    )
    async def test_a_column_that_cannot_be_kept_is_named(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection, column: str, told: str
    ) -> None:
        hall.execute(f"ALTER TABLE seats ADD {column}".encode())
        fill(hall, *LINES, table="seats (resource_id, label)")
        scene.objects.uri(reader(server))
        bad = await scene.passes(TABLE, 5)
        assert bad.problem is Problem.INVENTORY_INVALID
        assert told in bad.message
        assert "xxx" not in bad.message
        assert await scene.stocked() == 0

    async def test_of_a_long_value_no_more_is_fetched_than_shows_that_it_is_too_long(
        self, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        hall.execute("ALTER TABLE seats ADD photo text")
        hall.execute("INSERT INTO seats VALUES (gen_random_uuid(), repeat('A', 1000000), repeat('x', 1000000))")
        async with await psycopg.AsyncConnection.connect(reader(server)) as connection:
            table = Table(Address(reader(server), "tickets"), "seats")
            found = await connection.execute(await table.rows(connection, 1))
            ((_, label, attributes),) = await found.fetchall()
        assert (len(label), len(attributes)) == (801, 1025)

    async def test_it_is_not_read_any_more_once_db1_has_its_rows(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        fill(hall, *LINES)
        scene.objects.uri(reader(server))
        await scene.passes(TABLE, 5)
        hall.execute("DROP TABLE seats")
        scene.now += WHILE_GOOD.total_seconds()
        assert await scene.passes(TABLE, 5) == InventoryState()

    async def test_what_is_missing_is_named_and_may_come_later(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        async def told() -> str:
            scene.now += WHILE_BAD.total_seconds()
            seen = await scene.passes(TABLE, 5)
            assert seen.problem is Problem.INVENTORY_MISSING
            assert "table seats behind Secret hall" in seen.message
            return seen.message

        assert "Secret hall does not exist" in await told()
        scene.objects.there["Secret", "hall"] = {"data": {"url": ""}}
        assert "no key uri" in await told()
        scene.objects.there["Secret", "hall"] = {"data": {"uri": base64.b64encode(b"\xff\xfe").decode()}}
        assert "not text" in await told()
        scene.objects.uri(server.uri("nowhere", "reader"))
        assert '"nowhere" does not exist' in await told()
        scene.objects.uri(reader(server))
        hall.execute("ALTER TABLE seats RENAME TO places")
        assert 'relation "seats" does not exist' in await told()
        hall.execute("ALTER TABLE places RENAME TO seats")
        hall.execute("ALTER TABLE seats RENAME COLUMN label TO name")
        assert 'column "label" does not exist' in await told()
        hall.execute("ALTER TABLE seats RENAME COLUMN name TO label")
        hall.execute("REVOKE SELECT ON seats FROM reader")
        assert "permission denied" in await told()
        hall.execute("GRANT SELECT ON seats TO reader")
        fill(hall, *LINES)
        scene.now += WHILE_BAD.total_seconds()
        assert await scene.passes(TABLE, 5) == InventoryState()

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (",A-5", "row 5: there is no resource_id"),
            (f"{UUID(int=5)},{'A' * 201}", "a label has at most 200 characters"),
            (LINES[0], "duplicate"),
            (f"{UUID(int=5)},A-1", "slots 1 and 2 have the same label, 'A-1'"),
            (f"{UUID(int=1)},A-5", f"slots 1 and 5 have the same resource id, '{UUID(int=1)}'"),
            (f"{UUID(int=5)},A-1\u200b", "row 2: character 4 is U+200B (ZERO WIDTH SPACE) in the label"),
            (f"{UUID(int=5)}, A-5", "row 1: the label begins with U+0020 (SPACE)"),
            (f"{UUID(int=5)},\u00a0", "row 5: character 1 is U+00A0 (NO-BREAK SPACE) in the label"),
            (f"{UUID(int=5)},{{{UUID(int=2)}}}".upper(), "the label of slot 5 is the resource id of slot 2"),
            (f"{UUID(int=5)},{UUID(int=4)}", "the label of slot 1 is the resource id of slot 5"),
        ],
    )
    async def test_one_bad_row_and_none_is_taken(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection, line: str, told: str
    ) -> None:
        fill(hall, *LINES[:4], line)
        scene.objects.uri(reader(server))
        bad = await scene.passes(TABLE, 5)
        assert bad.problem is Problem.INVENTORY_INVALID
        assert told in bad.message
        assert await scene.stocked() == 0
        hall.execute("TRUNCATE seats")
        fill(hall, *LINES)
        scene.now += WHILE_REFUSED.total_seconds()
        assert await scene.passes(TABLE, 5) == InventoryState()

    async def test_ids_may_be_text_and_the_table_in_a_schema_under_a_reserved_word(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        hall.execute('CREATE SCHEMA "select" CREATE TABLE "table" (resource_id text, label char(3))')
        hall.execute('GRANT USAGE ON SCHEMA "select" TO reader')
        hall.execute('GRANT SELECT ON "select"."table" TO reader')
        fill(hall, *LINES[:4], "x,A-5", table='"select"."table"')
        scene.objects.uri(reader(server))
        wanted = spec.Inventory.model_validate({"table": {"secretRef": {"name": "hall"}, "name": "select.table"}})
        bad = await scene.passes(wanted, 5)
        assert bad.problem is Problem.INVENTORY_INVALID
        assert "row 5, with the label 'A-5': 'x' is not a UUID in the column resource_id" in bad.message
        hall.execute('UPDATE "select"."table" SET resource_id = gen_random_uuid() WHERE label = %s', ("A-5",))
        scene.now += WHILE_REFUSED.total_seconds()
        assert await scene.passes(wanted, 5) == InventoryState()

    async def test_a_label_in_other_code_points_is_one_label(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        fill(hall, *LINES[:3], f"{UUID(int=4)},Loge A\u0308", f"{UUID(int=5)},Loge \u00c4")
        scene.objects.uri(reader(server))
        assert "slots 4 and 5 have the same label, 'Loge \u00c4'" in (await scene.passes(TABLE, 5)).message
        hall.execute("DELETE FROM seats WHERE resource_id = %s", (UUID(int=5),))
        fill(hall, f"{UUID(int=5)},Loge B")
        scene.now += WHILE_REFUSED.total_seconds()
        assert await scene.passes(TABLE, 5) == InventoryState()
        assert [label for _, _, label in await scene.seed()][3:] == ["Loge \u00c4", "Loge B"]

    async def test_a_value_that_is_not_a_uuid_is_quoted_up_to_a_length(
        self, scene: Scene, server: PostgresServer, hall: psycopg.Connection
    ) -> None:
        hall.execute("ALTER TABLE seats ALTER resource_id TYPE text")
        fill(hall, *LINES[:4], f"{'x' * 300},")
        scene.objects.uri(reader(server))
        bad = await scene.passes(TABLE, 5)
        assert f"row 5, without a label: '{'x' * 60}…' is not a UUID" in bad.message
        assert "x" * 61 not in bad.message

    @pytest.mark.parametrize("uri", ["postgresql://ledger:hunter2@%zz/db", "host=/nowhere password=hunter2"])
    async def test_a_password_never_shows_in_a_message(self, scene: Scene, uri: str) -> None:
        scene.objects.uri(uri)
        seen = await scene.passes(TABLE, 5)
        assert seen.problem is Problem.INVENTORY_MISSING
        assert "hunter2" not in seen.message
