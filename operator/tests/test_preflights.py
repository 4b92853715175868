"""The checks of an event that waits, on a real ledger and a real table; and when they are made."""

import asyncio
import base64
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import given
import psycopg
import pytest
from given import INSTALLATION, Clock
from intake_operator.database.databases import Databases
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.client import ApiError
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.pools import Pools
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.preflight import Check, failed, ok
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.observe import Observer
from intake_operator.preflight.checks import Checks, Hosts, Question
from intake_operator.preflight.preflights import AT_ONCE, Preflights
from intake_operator.reasons import Problem
from test_waiting import WEEKS_AHEAD, waiting

from tests.postgres import PostgresServer, install_ledger

SECRETS = {"core-ledger": "a"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        install_ledger(running.create_database("books"))
        with psycopg.connect(running.create_database("hall"), autocommit=True) as owner:
            owner.execute("CREATE TABLE seats (resource_id uuid, label text)")
            owner.execute("INSERT INTO seats SELECT gen_random_uuid(), 'A-' || n FROM generate_series(1, 20) n")
            many = "md5((n % 5999)::text)::uuid AS resource_id, 'S-' || lpad(n::text, 4, '0') AS label"
            owner.execute(f"CREATE VIEW many AS SELECT {many} FROM generate_series(1, 6000) n".encode())
            owner.execute("CREATE VIEW twice AS SELECT resource_id, 'A-1' AS label FROM seats LIMIT 20")
            owner.execute("CREATE VIEW crooked AS SELECT resource_id, repeat(label, 500) AS label FROM seats")
        yield running


@dataclass
class Objects:
    """A cluster of these objects; what is in `forbidden` may not be read."""

    there: list[Manifest] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def get(self, kind: str, _: str, name: str) -> Manifest | None:
        self._look(kind)
        return next((o for o in self.there if (o["kind"], o["metadata"]["name"]) == (kind, name)), None)

    async def list_everywhere(self, *_: object) -> list[Manifest]:
        return []

    async def list(self, kind: str, *_: str) -> list[Manifest]:
        self._look(kind)
        return [o for o in self.there if o["kind"] == kind]

    def _look(self, kind: str) -> None:
        self.asked.append(kind)
        if kind in self.forbidden:
            raise ApiError(403, "Forbidden", f"cannot list {kind}")

    def secret(self, name: str, **data: str) -> None:
        """A Secret with these values."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.there.append({"kind": "Secret", "metadata": {"name": name, "uid": name}, "data": encoded})


async def resolve(host: str) -> None:
    """The name server: it knows one host."""
    if host != "validator.tickets.svc":
        raise OSError("Name or service not known")


def checks_of(objects: Objects) -> Checks:
    """The checks, with nothing stood in for but the API server and the name server."""
    cluster: Any = objects
    long_reads = LongReads(lambda _: None)
    inventories = Inventories(cluster, Databases(()), lambda: 0.0, long_reads)
    ledgers, pools = LedgerChecks(lambda: 0.0), Pools(cluster, cluster, lambda: 0.0, long_reads)
    return Checks(cluster, ledgers, inventories, pools, INSTALLATION, resolve)


class TestChecks:
    @staticmethod
    def objects(server: PostgresServer) -> Objects:
        """All that a sale needs."""
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        objects = Objects([{"kind": "StorageClass", "metadata": {"name": "local", "annotations": default}}])
        objects.secret("core-ledger", uri=server.uri("books"))
        objects.secret("hall", uri=server.uri("hall"))
        return objects

    @staticmethod
    async def lines(objects: Objects, **spec: Any) -> dict[str, Check]:
        """The answer of each check."""
        event = given.make_event(spec=given.make_spec(**spec))
        assert event.spec is not None
        return {each.name: await each.ask() for each in checks_of(objects).questions(event, event.spec)}

    async def test_an_event_that_lacks_nothing(self, server: PostgresServer) -> None:
        hall = {"table": {"secretRef": {"name": "hall"}}}
        validation = {"webhook": {"url": "http://validator:8080/check"}}
        found = await self.lines(self.objects(server), inventory=hall, inventorySize=20, validation=validation)
        assert {name: str(check) for name, check in found.items()} == {
            **{name: f"{name}: ok" for name in ("secrets", "ledger", "pool", "inventory", "storageClass", "quota")},
            "validator": "validator: ok (validator resolves; a webhook cannot be asked more)",
        }

    async def test_a_missing_secret_is_named_once(self, server: PostgresServer) -> None:
        objects = self.objects(server)
        objects.there = [each for each in objects.there if each["metadata"]["name"] != "core-ledger"]
        found = await self.lines(objects)
        assert found["secrets"].problem is Problem.LEDGER_SECRET_MISSING
        assert "Secret core-ledger does not exist" in found["secrets"].message
        assert [check.name for check in found.values() if check.problem] == ["secrets"]

    async def test_a_ledger_without_its_function(self, server: PostgresServer) -> None:
        target = {"postgres": {"secretRef": {"name": "core-ledger"}, "function": "sell"}}
        found = await self.lines(self.objects(server), commitTarget=target)
        assert found["ledger"].problem is Problem.LEDGER_FUNCTION_MISSING

    async def test_a_ledger_that_is_away_keeps_no_other_check_from_its_answer(self, server: PostgresServer) -> None:
        objects = self.objects(server)
        objects.there = [each for each in objects.there if each["metadata"]["name"] != "core-ledger"]
        objects.secret("core-ledger", uri="postgresql://a:b@127.0.0.1:1/books")
        found = await self.lines(objects)
        assert found["ledger"].problem is Problem.LEDGER_UNREACHABLE
        assert str(found["pool"]).startswith("pool: NotAsked")
        assert "a:b" not in str(found)

    async def test_a_pool_that_was_sold(self, server: PostgresServer) -> None:
        pool = given.make_event().pool
        with psycopg.connect(server.uri("books"), autocommit=True) as books:
            void = "SELECT void_claim(jsonb_build_object('claim_id', gen_random_uuid(), 'pool_id', %s::text,"
            void += " 'user_id', 'ann', 'request_id', 'r', 'reason', 'x', 'seats', '[]'::jsonb))"
            books.execute(void.encode(), (pool,))
        found = await self.lines(self.objects(server))
        assert found["pool"].problem is Problem.POOL_USED_BEFORE

    @pytest.mark.parametrize(
        ("table", "size", "problem", "says"),
        [
            ("seats", 21, Problem.INVENTORY_TOO_SMALL, "it has 20 rows, spec.inventorySize wants 21"),
            ("crooked", 20, Problem.INVENTORY_INVALID, "row 1: "),
            ("stalls", 20, Problem.INVENTORY_MISSING, "stalls"),
            ("many", 6000, Problem.INVENTORY_INVALID, "row 6000: 'c4ca4238-a0b9-2382-0dcc-509a6f75849b' is on row 1"),
            ("twice", 20, Problem.INVENTORY_INVALID, "row 2: 'A-1' is on row 1 already"),
        ],
    )
    async def test_rows_that_cannot_be_sold(
        self, server: PostgresServer, table: str, size: int, problem: Problem, says: str
    ) -> None:
        hall = {"table": {"secretRef": {"name": "hall"}, "name": table}}
        found = await self.lines(self.objects(server), inventory=hall, inventorySize=size)
        assert found["inventory"].problem is problem
        assert says in found["inventory"].message

    async def test_lines_of_a_config_map_are_parsed(self, server: PostgresServer) -> None:
        objects = self.objects(server)
        metadata = {"name": "seats"}
        objects.there.append({"kind": "ConfigMap", "metadata": metadata, "data": {"seats.csv": "nonsense,A-1\n"}})
        found = await self.lines(objects, inventory={"configMapRef": {"name": "seats"}}, inventorySize=1)
        assert found["inventory"].problem is Problem.INVENTORY_INVALID
        assert "line 1" in found["inventory"].message

    @pytest.mark.parametrize(
        ("spec", "line", "problem"),
        [
            ({"validation": {"webhook": {"url": "https://nowhere/check"}}}, "validator", Problem.VALIDATOR_DOWN),
            ({"commitTarget": {"webhook": {"url": "https://no.where/sell"}}}, "ledger", Problem.LEDGER_DOWN),
        ],
    )
    async def test_a_host_that_does_not_resolve(
        self, server: PostgresServer, spec: dict[str, Any], line: str, problem: Problem
    ) -> None:
        found = await self.lines(self.objects(server), **spec)
        assert found[line].problem is problem
        assert "does not resolve" in found[line].message


async def test_the_real_name_server_is_asked() -> None:
    assert await Hosts()("127.0.0.1")
    with pytest.raises(socket.gaierror):
        await Hosts()("256.1.1.1.1.")


class Asked:
    """Checks whose answers are given by the test, instead of `Checks`."""

    def __init__(self) -> None:
        self.answers: list[Callable[[], Awaitable[Check]]] = [answer(ok("quota"))]
        self.hanging: set[str] = set()
        """Namespaces whose checks hang."""
        self.events: list[str] = []

    def questions(self, event: Event, _: IntakeEventSpec) -> Iterator[Question]:
        self.events.append(event.name)
        if event.namespace in self.hanging:
            yield Question("quota", forever, 3600.0)
        yield from (Question("ledger", each, 0.0, Problem.LEDGER_UNREACHABLE) for each in self.answers)


def answer(check: Check) -> Callable[[], Awaitable[Check]]:
    async def asked() -> Check:
        return check

    return asked


async def forever() -> Check:
    await asyncio.Event().wait()
    raise AssertionError


async def broken() -> Check:
    raise RuntimeError("a bug")


@dataclass
class Scene:
    """Preflights, their clock and whom they have woken."""

    asked: Asked = field(default_factory=Asked)
    clock: Clock = field(default_factory=Clock)
    woken: asyncio.Queue[tuple[str, str]] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        checks: Any = self.asked
        self.preflights = Preflights(checks, self.clock, self.woken.put_nowait, self.now)

    def now(self) -> datetime:
        return WEEKS_AHEAD + timedelta(seconds=self.clock.now)

    async def check(self, event: Event) -> list[str]:
        """The lines of a whole check."""
        self.preflights.start(event, SECRETS)
        await self.ended(event.uid)
        known = self.preflights.latest(event.uid)
        assert known is not None, "the check has no answer"
        return [str(check) for check in known.checks]

    async def ended(self, uid: str) -> None:
        """The check that is running ends. No time passes here, so a few turns of the loop are enough."""
        task = self.preflights._running[uid][1]
        for _ in range(100):
            await asyncio.sleep(0)
        assert task.done(), "the check does not end"


@pytest.fixture
async def scene() -> Scene:
    return Scene()


EVENT = waiting().event


class TestWhen:
    async def test_a_check_that_hangs_holds_up_no_other(self, scene: Scene) -> None:
        scene.asked.answers = [forever, answer(ok("quota"))]
        lines = await scene.check(EVENT)
        assert lines[0] == "ledger: Failed (the ledger: no answer within 0 s.)"
        assert lines[1:] == ["quota: ok", "window: ok", "images: NotAsked (no registry is asked)"]

    async def test_a_check_with_a_bug_blocks_nothing_and_is_logged(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene.asked.answers = [broken, answer(ok("quota"))]
        caplog.set_level(logging.ERROR)
        assert (await scene.check(EVENT))[:2] == ["ledger: NotAsked (a bug)", "quota: ok"]
        assert "a check ahead failed" in caplog.text

    async def test_what_there_is_no_right_to_read_is_not_asked(self, scene: Scene) -> None:
        objects = Objects(forbidden={"ResourceQuota", "StorageClass"})
        preflights = Preflights(checks_of(objects), scene.clock, scene.woken.put_nowait, scene.now)
        preflights.start(EVENT, {})
        await preflights._running[EVENT.uid][1]
        known = preflights.latest(EVENT.uid)
        assert known is not None
        assert {"quota: NotAsked (no right to read it)", "storageClass: NotAsked (no right to read it)"} < {
            *map(str, known.checks)
        }

    async def test_the_first_answer_and_each_other_answer_wake_the_event(self, scene: Scene) -> None:
        await scene.check(EVENT)
        assert scene.woken.get_nowait() == ("tickets", "taylor-drop")
        scene.clock.now = 3600
        await scene.check(EVENT)
        assert scene.woken.empty()
        scene.clock.now = 7200
        scene.asked.answers = [answer(failed("ledger", Problem.LEDGER_UNREACHABLE, "away"))]
        await scene.check(EVENT)
        assert scene.woken.qsize() == 1

    async def test_it_is_asked_hourly_and_at_once_on_edits(self, scene: Scene) -> None:
        due = scene.preflights.is_due
        assert due(EVENT, SECRETS)
        await scene.check(EVENT)
        scene.clock.now = 3599
        assert not due(EVENT, SECRETS)
        assert due(waiting(generation=2).event, SECRETS)
        assert due(EVENT, {"core-ledger": "b"})
        assert due(EVENT, {})
        scene.clock.now = 3600
        assert due(EVENT, SECRETS)

    async def test_what_fails_is_asked_again_soon_and_then_less_often(self, scene: Scene) -> None:
        scene.asked.answers = [answer(failed("ledger", Problem.LEDGER_UNREACHABLE, "away"))]
        asked_at = []
        for second in range(0, 1000, 5):
            scene.clock.now = second
            if scene.preflights.is_due(EVENT, SECRETS):
                asked_at.append(second)
                await scene.check(EVENT)
        assert asked_at == [0, 15, 30, 60, 120, 240, 480, 780]
        # A person who has edited it waits again.
        edited = waiting(generation=2).event
        await scene.check(edited)
        scene.clock.now += 15
        assert scene.preflights.is_due(edited, SECRETS)

    async def test_an_edit_ends_the_check_that_is_running(self, scene: Scene) -> None:
        scene.asked.hanging = {"tickets"}
        scene.preflights.start(EVENT, SECRETS)
        before = scene.preflights._running[EVENT.uid][1]
        await asyncio.sleep(0)
        assert not scene.preflights.is_due(EVENT, SECRETS)
        scene.asked.hanging = set()
        assert await scene.check(waiting(generation=2).event)
        assert before.cancelled()

    async def test_namespaces_whose_checks_hang_leave_others_their_turn(self, scene: Scene) -> None:
        scene.asked.hanging = {"slow"}
        for number in range(2 * AT_ONCE):
            scene.preflights.start(given.make_event(namespace="slow", uid=f"slow-{number}"), SECRETS)
        assert await scene.check(EVENT)
        await scene.preflights.close()

    async def test_an_event_that_is_gone_is_forgotten_with_its_check(self, scene: Scene) -> None:
        await scene.check(EVENT)
        scene.asked.hanging = {"tickets"}
        scene.preflights.start(waiting(generation=2).event, SECRETS)
        task = scene.preflights._running[EVENT.uid][1]
        scene.preflights.forget(EVENT.uid)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scene.preflights.latest(EVENT.uid) is None
        assert scene.preflights.is_due(EVENT, SECRETS)


async def test_a_pass_over_an_event_that_waits_reads_its_secrets_and_asks_nothing_else(scene: Scene) -> None:
    objects = Objects()
    objects.secret("core-ledger", uri="postgresql://a:b@127.0.0.1:1/books")
    objects.secret("hall", uri="postgresql://a:b@127.0.0.1:1/hall")
    cluster: Any = objects
    away: Any = None  # asking one of these would raise
    observer = Observer(cluster, away, away, away, away, away, away, scene.preflights)
    sale = waiting(spec={"inventory": {"table": {"secretRef": {"name": "hall"}}}})
    seen = await observer.observe(sale.event, sale.now)
    assert seen.input_fingerprints.keys() == {"core-ledger", "hall"}
    assert (seen.preflight, seen.preflight_due) == (None, True)
