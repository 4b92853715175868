"""What is read by name is remembered for a while, and is read again when something shows that it is wrong."""

from datetime import timedelta
from typing import Any

import pytest
from intake_operator import names
from intake_operator.kube.cached import BY_NAME, Cached, Live
from intake_operator.kube.client import ApiError
from intake_operator.kube.store import Store
from intake_operator.model.observed import Manifest

SECOND = timedelta(seconds=1)
SECRET: Manifest = {"kind": "Secret", "metadata": {"namespace": "shop", "name": "a"}, "data": {}}


class Api:
    """Objects by kind and name, the requests for them, and an error for the next write."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {("Secret", "a"): SECRET}
        self.requests: list[tuple[str, str]] = []
        self.refuses: ApiError | None = None

    async def get(self, kind: str, _: str, name: str) -> Manifest | None:
        self.requests.append((kind, name))
        return self.objects.get((kind, name))

    async def events_about(self, *_: str) -> list[Manifest]:
        self.requests.append(("Event", ""))
        return []

    async def create(self, manifest: Manifest, _: str) -> Manifest:
        if self.refuses:
            raise self.refuses
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest
        return manifest

    async def apply(self, manifest: Manifest, manager: str, *, subresource: str) -> Manifest:
        return await self.create(manifest, manager)

    async def delete(self, kind: str, _namespace: str, name: str, *_: object) -> None:
        self.objects.pop((kind, name))


class Read:
    """The two ways to read, over a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.api = Api()
        source: Any = self.api
        store = Store([names.KIND], (), lambda _: None)
        self.live = Live(source, store, lambda: self.now)
        self.cached = Cached(self.live, store)

    async def asks(self, kind: str = "Secret", name: str = "a") -> bool:
        """Whether reading this object is a request."""
        before = len(self.api.requests)
        await self.cached.get(kind, "" if kind == "Namespace" else "shop", name)
        return len(self.api.requests) > before


@pytest.fixture
def read() -> Read:
    return Read()


@pytest.mark.parametrize("kind", ["Secret", "Namespace"])
async def test_an_object_that_is_read_by_name_is_read_once_in_a_while(read: Read, kind: str) -> None:
    assert await read.asks(kind)
    read.now = BY_NAME[kind].total_seconds() - 1
    assert not await read.asks(kind)
    read.now += 1
    assert await read.asks(kind)


async def test_a_pass_says_how_long_a_secret_counts(read: Read) -> None:
    await read.asks()
    read.now = 59
    read.cached.renew("shop", ["a", "unknown"], timedelta(seconds=60))
    assert not await read.asks()
    read.now = 60
    read.cached.renew("shop", ["a"], timedelta(seconds=60))
    assert await read.asks()


async def test_a_secret_that_is_missing_is_remembered_too_and_known_as_soon_as_it_is_made_by_us(read: Read) -> None:
    assert await read.asks(name="b")
    assert not await read.asks(name="b")
    made = {"kind": "Secret", "metadata": {"namespace": "shop", "name": "b"}}
    await read.live.create(made, "operator")
    assert await read.cached.get("Secret", "shop", "b") == made
    assert ("Secret", "b") not in read.api.requests[1:]


async def test_what_is_read_live_is_remembered(read: Read) -> None:
    await read.asks()
    read.api.objects["Secret", "a"] = changed = SECRET | {"data": {"password": "bmV3"}}
    assert await read.live.get("Secret", "shop", "a") == changed
    assert await read.cached.get("Secret", "shop", "a") == changed


async def test_what_we_delete_or_are_refused_is_read_again(read: Read) -> None:
    await read.asks()
    read.api.refuses = ApiError(409, "Conflict", "uid mismatch")
    with pytest.raises(ApiError):
        await read.live.apply(SECRET, "operator")
    assert await read.asks()
    await read.live.delete("Secret", "shop", "a")
    assert await read.asks()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ApiError(403, "Forbidden", "unable to create new content because it is being terminated"), True),
        (ApiError(403, "Forbidden", "exceeded quota"), False),
    ],
)
async def test_a_namespace_is_read_again_when_it_refuses_an_object_because_it_is_being_deleted(
    read: Read, error: ApiError, again: bool
) -> None:
    await read.asks("Namespace", "shop")
    read.api.refuses = error
    with pytest.raises(ApiError):
        await read.live.create({"kind": "Service", "metadata": {"namespace": "shop", "name": "x"}}, "operator")
    assert await read.asks("Namespace", "shop") is again


async def test_other_kinds_are_not_remembered(read: Read) -> None:
    assert await read.asks("ConfigMap")
    assert await read.asks("ConfigMap")


async def test_events_about_an_object_are_listed_every_ten_seconds(read: Read) -> None:
    for now, requests in ((0.0, 1), (9.0, 1), (10.0, 2)):
        read.now = now
        assert await read.cached.events_about("StatefulSet", "shop", "db", "FailedCreate") == []
        assert len(read.api.requests) == requests


async def test_what_is_remembered_of_events_that_are_gone_is_dropped(read: Read) -> None:
    for number in range(50):
        await read.asks(name=f"s{number}")
    read.now = 2 * BY_NAME["Secret"].total_seconds()
    await read.asks(name="last")
    assert len(read.live.by_name) == 1
