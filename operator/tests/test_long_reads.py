"""Long reads run outside of passes: bounded in number, for all and for each namespace, and each end wakes its event."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from intake_operator.long_reads import LongReads
from intake_operator.workqueue import Key


class Scene:
    """Reads that last until the test lets them end."""

    def __init__(self) -> None:
        self.woken: list[Key] = []
        self.begun: list[Key] = []
        self.gates: dict[Key, asyncio.Event] = {}
        self.reads = LongReads(self.woken.append, most=3, most_of_a_namespace=2)

    def start(self, namespace: str, name: str) -> None:
        event = (namespace, name)
        self.gates[event] = asyncio.Event()
        self.reads.start("table", f"uid-{namespace}-{name}", event, self.read(event))

    def read(self, event: Key) -> Callable[[], Awaitable[None]]:
        async def wait() -> None:
            self.begun.append(event)
            await self.gates[event].wait()

        return wait

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, *event: str) -> None:
        namespace, name = event
        self.gates[namespace, name].set()
        await self.settle()


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_namespace_has_its_number_of_reads_and_leaves_the_rest_to_others(scene: Scene) -> None:
    for name in ("1", "2", "3", "4"):
        scene.start("greedy", name)
    await scene.settle()
    assert scene.begun == [("greedy", "1"), ("greedy", "2")]
    scene.start("other", "1")
    scene.start("late", "1")
    await scene.settle()
    assert scene.begun[2:] == [("other", "1")]
    assert scene.reads.load() == {"running": 3, "waiting": 3}
    await scene.end("greedy", "1")
    assert scene.begun[3:] == [("late", "1")], "it waited before the third of greedy could"
    assert scene.woken == [("greedy", "1")]
    for event in [("greedy", "2"), ("other", "1"), ("late", "1"), ("greedy", "3"), ("greedy", "4")]:
        await scene.end(*event)
    assert sorted(scene.woken) == sorted(scene.begun)
    assert scene.reads.load() == {"running": 0, "waiting": 0}


async def test_a_read_that_runs_is_not_started_again_and_may_be_once_it_has_ended(scene: Scene) -> None:
    scene.start("a", "1")
    await scene.settle()
    scene.reads.start("table", "uid-a-1", ("a", "1"), scene.read(("a", "1")))
    assert scene.reads.is_running("table", "uid-a-1")
    await scene.end("a", "1")
    assert scene.begun == [("a", "1")]
    assert not scene.reads.is_running("table", "uid-a-1")
    scene.start("a", "1")
    await scene.settle()
    assert len(scene.begun) == 2
    await scene.reads.close()


async def test_reads_of_an_event_that_is_gone_are_broken_off(scene: Scene) -> None:
    scene.start("a", "1")
    scene.start("a", "2")
    scene.start("a", "3")
    await scene.settle()
    scene.reads.stop("uid-a-1")
    scene.reads.stop("uid-a-3")
    await scene.settle()
    assert not scene.woken
    assert scene.reads.load() == {"running": 1, "waiting": 0}
    await scene.reads.close()
    assert scene.reads.load() == {"running": 0, "waiting": 0}


async def test_a_read_that_raises_is_reported_and_does_not_wake_the_event_at_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise ValueError("unforeseen")

    scene.reads.start("table", "uid", ("a", "1"), broken)
    await scene.settle()
    assert not scene.woken
    assert "a long read failed" in caplog.text
    assert not scene.reads.is_running("table", "uid")
