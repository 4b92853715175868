"""The watches against a real HTTP server: lists in pages, bookmarks, 410 Gone, broken connections, and silence."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from intake_operator import names, probes
from intake_operator.kube.client import Cluster
from intake_operator.kube.store import Change, Store
from intake_operator.kube.watches import STUCK, Watches
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Manifest
from intake_operator.workqueue import WorkQueue
from kubernetes.aio import client as kubernetes

from tests.patience import PATIENCE_SECONDS


def pod(name: str, version: int) -> Manifest:
    """A pod as the API server lists it: without its kind."""
    labels = {names.EVENT_LABEL: "drop"}
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version), "labels": labels}}


class Pods:
    """An API server that has pods, in pages of two, and lets a test say what its watches tell."""

    def __init__(self) -> None:
        self.pods: dict[str, Manifest] = {}
        self.version = 10
        self.asked: list[dict[str, str]] = []
        """The query of each request."""
        self.refuses: list[int] = []
        """Statuses of the next answers."""
        self.watches: list[asyncio.Queue[bytes | None]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append(query)
        if self.refuses:
            status = self.refuses.pop(0)
            return web.json_response({"reason": "Refused", "message": "not now", "code": status}, status=status)
        if "watch" in query:
            return await self._watch(request)
        found = sorted(self.pods.values(), key=lambda each: str(each["metadata"]["name"]))
        first = int(query.get("continue", 0))
        meta = {"resourceVersion": str(self.version)}
        meta |= {"continue": str(first + 2)} if len(found) > first + 2 else {}
        return web.json_response({"metadata": meta, "items": found[first : first + 2]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        told: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.watches.append(told)
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await told.get()) is not None:
            await response.write(line)
        return response

    def tell(self, type_: str, item: Manifest) -> None:
        """The newest watch tells of an object."""
        self.watches[-1].put_nowait(json.dumps({"type": type_, "object": item}).encode() + b"\n")

    def end(self) -> None:
        """The API server ends the newest watch."""
        self.watches[-1].put_nowait(None)

    @property
    def lists(self) -> int:
        """How many lists were asked for, without their further pages."""
        return len([query for query in self.asked if "watch" not in query and "continue" not in query])


class Watching:
    """Watches of pods, with the store that they fill."""

    def __init__(self, cluster: Cluster, pods: Pods, silence: float) -> None:
        self.pods, self.metrics, self.now = pods, Metrics(), 0.0
        self.changes: list[Change] = []
        self.store = Store(["Pod"], (), self.changes.append)
        self.watches = Watches(
            cluster, self.store, self.metrics, lambda: self.now, sleep=lambda _: asyncio.sleep(0), silence=silence
        )

    def has(self) -> dict[str, str]:
        """The pods of the store, with their versions."""
        return {p["metadata"]["name"]: p["metadata"]["resourceVersion"] for p in self.store.all("Pod")}

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 -- what is waited for is in another process, as it were
                await asyncio.sleep(0.005)

    def restarts(self, reason: str) -> float:
        """How often a watch was started again for this reason."""
        found = self.metrics.registry.get_sample_value(
            "intake_operator_watch_restarts_total", {"kind": "Pod", "reason": reason}
        )
        return found or 0.0


@pytest.fixture
async def pods() -> Pods:
    return Pods()


@pytest.fixture
async def cluster(pods: Pods) -> AsyncIterator[Cluster]:
    app = web.Application()
    app.router.add_get("/api/v1/pods", pods.answer)
    server = TestServer(app)
    await server.start_server()
    settings = kubernetes.Configuration(host=str(server.make_url("")).rstrip("/"))
    made = Cluster(kubernetes.ApiClient(settings))
    yield made
    await made.close()
    for told in pods.watches:
        told.put_nowait(None)
    await server.close()


@pytest.fixture
async def start(cluster: Cluster, pods: Pods) -> AsyncIterator[Callable[..., Watching]]:
    """Starts watches."""
    tasks = []

    def begin(silence: float = 60.0) -> Watching:
        made = Watching(cluster, pods, silence)
        tasks.append(asyncio.create_task(made.watches.run()))
        return made

    yield begin
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


type Start = Callable[..., Watching]


async def test_a_list_comes_in_pages_and_the_watch_goes_on_from_it(pods: Pods, start: Start) -> None:
    pods.pods = {name: pod(name, 3) for name in "abcde"}
    watching = start()
    await watching.until(lambda: watching.store.ready)
    assert watching.has() == dict.fromkeys("abcde", "3")
    await watching.until(lambda: pods.watches)
    pods.tell("MODIFIED", pod("a", 11))
    pods.tell("DELETED", pod("b", 12))
    pods.tell("ADDED", pod("f", 13))
    await watching.until(lambda: watching.has() == {"a": "11", "c": "3", "d": "3", "e": "3", "f": "13"})
    assert [query.get("continue") for query in pods.asked[:3]] == [None, "2", "4"]
    asked = pods.asked[3]
    assert (asked["resourceVersion"], asked["labelSelector"]) == ("10", names.EVENT_LABEL)
    assert asked["allowWatchBookmarks"] == "true"


async def test_a_watch_that_the_api_server_ends_goes_on_from_its_last_bookmark(pods: Pods, start: Start) -> None:
    watching = start()
    await watching.until(lambda: pods.watches)
    pods.tell("BOOKMARK", {"metadata": {"resourceVersion": "77"}})
    pods.end()
    await watching.until(lambda: len(pods.watches) == 2)
    assert pods.asked[-1]["resourceVersion"] == "77"
    assert pods.lists == 1


async def test_after_410_a_new_list_leaves_no_ghost(pods: Pods, start: Start) -> None:
    """The pod vanished while the watch was broken, and the API server has forgotten that it did."""
    pods.pods = {name: pod(name, 3) for name in "ab"}
    watching = start()
    await watching.until(lambda: pods.watches)
    del pods.pods["a"]
    pods.version = 50
    pods.tell("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})
    await watching.until(lambda: len(pods.watches) == 2)
    assert watching.has() == {"b": "3"}
    assert pods.asked[-1]["resourceVersion"] == "50"
    assert watching.restarts("gone") == 1
    gone = [change for change in watching.changes if change.new is None]
    assert [change.old["metadata"]["name"] for change in gone if change.old] == ["a"], "and its event is queued"


async def test_a_watch_that_is_refused_as_too_old_lists_again(pods: Pods, start: Start) -> None:
    watching = start()
    await watching.until(lambda: pods.watches)
    pods.refuses = [410]
    pods.end()
    await watching.until(lambda: pods.lists == 2)
    assert watching.restarts("gone") == 1


async def test_an_api_server_that_is_busy_is_not_asked_for_a_list_at_once(pods: Pods, start: Start) -> None:
    watching = start()
    await watching.until(lambda: pods.watches)
    pods.refuses = [429, 503]
    pods.end()
    await watching.until(lambda: len(pods.watches) == 2)
    assert pods.lists == 1
    assert pods.asked[-1]["resourceVersion"] == "10"
    pods.refuses = [503] * 6
    pods.end()
    await watching.until(lambda: pods.lists >= 2)


async def test_a_watch_that_is_silent_is_started_again_where_it_was(pods: Pods, start: Start) -> None:
    """A connection that is dead looks like one on which nothing happens."""
    watching = start(silence=0.05)
    await watching.until(lambda: len(pods.watches) >= 2)
    assert watching.restarts("silent") >= 1
    assert pods.lists == 1
    assert pods.asked[-1]["resourceVersion"] == "10"


async def test_what_cannot_be_understood_is_listed_anew(pods: Pods, start: Start) -> None:
    watching = start()
    await watching.until(lambda: pods.watches)
    pods.watches[-1].put_nowait(b"<html>proxy</html>\n")
    await watching.until(lambda: pods.lists == 2)
    pods.watches[-1].put_nowait(b'{"type": "MODIFIED", "object": {"metadata": {}}}\n')
    await watching.until(lambda: pods.lists >= 2 and watching.restarts("broken") >= 1)


async def test_nothing_is_complete_before_the_first_list_however_often_it_is_refused(pods: Pods, start: Start) -> None:
    pods.refuses = [500, 403, 429]
    pods.pods = {"a": pod("a", 3)}
    watching = start()
    assert not watching.store.ready
    await watching.until(lambda: watching.store.ready)
    assert watching.has() == {"a": "3"}
    assert watching.restarts("refused") == 3


async def test_a_loop_that_hangs_is_not_live_and_silence_shows_in_the_metrics(pods: Pods, start: Start) -> None:
    watching = start()
    await watching.until(lambda: pods.watches)
    watching.now = 100.0
    assert watching.watches.stuck() == ""
    silent = watching.metrics.registry.get_sample_value("intake_operator_watch_silent_seconds", {"kind": "Pod"})
    assert silent == 100.0
    watching.now = STUCK + 1
    assert watching.watches.stuck() == f"these watches have hung for {STUCK:.0f} s: Pod"
    pods.tell("BOOKMARK", {"metadata": {"resourceVersion": "78"}})
    await watching.until(lambda: not watching.watches.stuck())


@pytest.mark.parametrize(
    ("complete", "hung", "live", "ready"), [(True, "", 200, 200), (False, "", 200, 503), (True, "Pod hangs", 503, 200)]
)
async def test_the_probes_say_whether_the_cluster_is_known_and_a_watch_hangs(
    unused_tcp_port: int, complete: bool, hung: str, live: int, ready: int
) -> None:
    health = probes.Health(WorkQueue(lambda: 0.0).load, lambda: hung, lambda: complete)
    server = await probes.serve(unused_tcp_port, Metrics(), lambda: 0.0, health)
    async with ClientSession(f"http://localhost:{unused_tcp_port}") as session:
        for path, status in (("/livez", live), ("/readyz", ready)):
            async with session.get(path) as answer:
                assert answer.status == status
                assert hung in await answer.text() or path == "/readyz"
    await server.cleanup()
