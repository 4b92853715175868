"""How many requests an event costs the API server: every request and every status write, by a clock that is turned."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from world.databases import window
from world.world import NAME, NAMESPACE, START, World

MINUTE = timedelta(minutes=1)
VERBS = ("get", "list", "create", "delete", "patch", "apply")


@pytest.fixture
def world() -> Iterator[World]:
    """An event that has everything."""
    made = World(protected=True, ephemeral=False, keep=10, skew=0, checkout=False)
    made.calm(8)
    yield made
    made.runner.close()


def counted(world: World, minutes: int, meanwhile: Callable[[], None] = lambda: None) -> Counter[str]:
    """The requests of so many minutes, in which a pass is made whenever one is due."""
    requests: Counter[str] = Counter()

    def count(verb: str) -> Callable[..., Any]:
        original = getattr(world.api, verb)

        async def counting(*args: Any, **kwargs: Any) -> object:
            kind = args[0]["kind"] if isinstance(args[0], dict) else args[0]
            requests[f"{verb} {kind}{'/' if kwargs.get('subresource') else ''}{kwargs.get('subresource', '')}"] += 1
            return await original(*args, **kwargs)

        return counting

    for verb in VERBS:
        setattr(world.api, verb, count(verb))
    until = world.now + minutes * MINUTE
    while world.now < until:
        world.watches.come()
        after = world.runner.run(world.operator.reconcile((NAMESPACE, NAME)))
        assert after is not None
        world.settle()
        meanwhile()
        world.now += after
    return requests


def test_an_event_of_which_nothing_runs_yet_costs_less_than_two_requests_a_minute() -> None:
    far = World(protected=True, ephemeral=False, keep=10, skew=0, checkout=False)
    event = far.event
    assert event is not None
    event["spec"]["window"] = window(START + timedelta(days=30), 60)
    far.api.touch(event)
    far.calm(8)
    found = counted(far, 60)
    assert far.status["phase"] == "Waiting"
    assert found.total() <= 2 * 60, found
    far.runner.close()


def test_an_event_whose_db1_waits_for_the_window_costs_two_requests_a_minute(world: World) -> None:
    found = counted(world, 10)
    assert found.total() <= 2 * 10, found
    assert world.status["phase"] == "Scheduled"


def test_an_open_event_costs_thirty_requests_a_minute_in_a_rush(world: World) -> None:
    world.now = START + 31 * MINUTE
    world.calm(3)
    volume = world.running()
    assert volume is not None

    def rush() -> None:
        """Each pass sees other counts."""
        if len(volume.claims) > 9:
            volume.claims.clear()
        world.claims(1)

    found = counted(world, 5, rush)
    assert found.total() <= 30 * 5, found
    assert found["apply IntakeEvent/status"] >= 5 * 10, "counts are told every five seconds or so"


def test_no_secret_is_read_twice_a_minute_while_the_sale_is_open(world: World) -> None:
    world.now = START + 31 * MINUTE
    world.calm(3)
    found = counted(world, 5)
    assert found["get Secret"] <= 4 * 6
    assert found["get Namespace"] <= 6
    assert not [request for request in found if request.startswith("list")], "watches tell of everything else"
