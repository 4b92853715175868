"""Two ways to read the cluster: from the store, which costs nothing and lags behind, and from the API server itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from intake_operator.kube.client import ApiError, Cluster
from intake_operator.kube.store import Store
from intake_operator.model.observed import Manifest

# What may not be watched is read by its name, and counts for so long at most. Of a Secret, `Cached.renew` says how
# long in each pass.
BY_NAME: Final[Mapping[str, timedelta]] = {
    "Secret": timedelta(minutes=10),
    "Namespace": timedelta(minutes=1),
    "Event": timedelta(seconds=10),
}

# The words of the API server when it refuses a new object in a namespace that is being deleted.
_TERMINATING: Final = "is being terminated"

type _Named = tuple[str, str, str]
"""Kind, namespace and name."""


class _ByName:
    """The latest answers about objects that are read by name, None for one that does not exist. Bounded by age."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: dict[_Named, tuple[Manifest | None, float]] = {}
        self._swept_at = clock()

    def put(self, named: _Named, answer: Manifest | None) -> Manifest | None:
        """Remember an answer; returns it."""
        self._answers[named] = (answer, self._clock())
        self._sweep()
        return answer

    def knows(self, named: _Named) -> bool:
        """Whether there is an answer that is young enough."""
        found = self._answers.get(named)
        return found is not None and self._age(found) < BY_NAME[named[0]].total_seconds()

    def get(self, named: _Named) -> Manifest | None:
        """The answer that it knows."""
        return self._answers[named][0]

    def drop(self, named: _Named, older_than: timedelta = timedelta()) -> None:
        """Forget an answer that is as old as that."""
        found = self._answers.get(named)
        if found and self._age(found) >= older_than.total_seconds():
            del self._answers[named]

    def __len__(self) -> int:
        return len(self._answers)

    def _age(self, found: tuple[Manifest | None, float]) -> float:
        return self._clock() - found[1]

    def _sweep(self) -> None:
        """Drop what is too old to be used, such as the Secrets of events that are gone."""
        longest = max(BY_NAME.values()).total_seconds()
        if self._clock() - self._swept_at > longest:
            self._swept_at = self._clock()
            self._answers = {name: found for name, found in self._answers.items() if self._age(found) < longest}


class Live:
    """The API server. What it answers is put into the store, so that the next pass sees what this one has written."""

    def __init__(self, cluster: Cluster, store: Store, clock: Callable[[], float]) -> None:
        self._cluster, self._store = cluster, store
        self.by_name = _ByName(clock)

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None if there is none."""
        found = await self._cluster.get(kind, namespace, name)
        if kind in BY_NAME:
            self.by_name.put((kind, namespace, name), found)
        elif found is not None:
            self._store.answered(found | {"kind": kind})
        return found

    async def list_everywhere(self, kind: str, namespaces: Sequence[str]) -> list[Manifest]:
        """All objects of a kind in these namespaces; with an empty list, in all namespaces."""
        return await self._cluster.list_everywhere(kind, namespaces)

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind with these labels."""
        return await self._cluster.list(kind, namespace, label_selector)

    async def events_about(self, kind: str, namespace: str, name: str, reason: str) -> Sequence[Manifest]:
        """The Kubernetes Events of one reason about one object."""
        return await self._cluster.events_about(kind, namespace, name, reason)

    async def apply(self, manifest: Manifest, field_manager: str, *, subresource: str = "") -> Manifest:
        """Server-side apply."""
        try:
            return self._answered(await self._cluster.apply(manifest, field_manager, subresource=subresource))
        except ApiError as error:
            self._refused(manifest, error)
            raise

    async def patch(
        self, kind: str, namespace: str, name: str, patch: Sequence[Mapping[str, object]], field_manager: str
    ) -> Manifest:
        """JSON patch."""
        return self._answered(await self._cluster.patch(kind, namespace, name, patch, field_manager))

    async def create(self, manifest: Manifest, field_manager: str) -> Manifest:
        """Create."""
        try:
            return self._answered(await self._cluster.create(manifest, field_manager))
        except ApiError as error:
            self._refused(manifest, error)
            raise

    async def delete(
        self, kind: str, namespace: str, name: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Delete, its dependents in the background."""
        self.by_name.drop((kind, namespace, name))
        await self._cluster.delete(kind, namespace, name, uid, grace_seconds)

    def _answered(self, item: Manifest) -> Manifest:
        kind, meta = item.get("kind", ""), item["metadata"]
        if kind == "Event":
            return item
        if kind in BY_NAME:
            self.by_name.put((kind, meta.get("namespace", ""), meta["name"]), item)
        else:
            self._store.answered(item)
        return item

    def _refused(self, manifest: Manifest, error: ApiError) -> None:
        """What is known of the object is wrong, or of its namespace: the next pass asks again."""
        namespace, name = manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
        self.by_name.drop((manifest["kind"], namespace, name))
        if error.status == 403 and _TERMINATING in str(error):
            self.by_name.drop(("Namespace", "", namespace))


class Cached:
    """The store; and by name, seldom, what may not be watched."""

    def __init__(self, live: Live, store: Store) -> None:
        self.live = live
        self._store = store

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None if there is none."""
        if self._store.has(kind):
            return self._store.get(kind, namespace, name)
        if kind in BY_NAME and self.live.by_name.knows((kind, namespace, name)):
            return self.live.by_name.get((kind, namespace, name))
        return await self.live.get(kind, namespace, name)

    async def list_everywhere(self, kind: str, _: Sequence[str]) -> list[Manifest]:
        """All objects of a kind in the namespaces that are served."""
        return self._store.all(kind)

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind that carry the label of an event: `label_selector` is that label and its name."""
        if self._store.has(kind):
            return self._store.of_event(kind, namespace, label_selector.partition("=")[2])
        return await self.live.list(kind, namespace, label_selector)

    def knows(self, namespace: str) -> bool:
        """Whether what it does not have of a namespace does not exist."""
        return self._store.knows(namespace)

    async def events_about(self, kind: str, namespace: str, name: str, reason: str) -> Sequence[Manifest]:
        """The Kubernetes Events of one reason about one object."""
        named = ("Event", namespace, f"{kind}/{name}/{reason}")
        if not self.live.by_name.knows(named):
            found = await self.live.events_about(kind, namespace, name, reason)
            self.live.by_name.put(named, {"items": found})
        items: Sequence[Manifest] = (self.live.by_name.get(named) or {})["items"]
        return items

    def renew(self, namespace: str, secrets: Iterable[str], older_than: timedelta) -> None:
        """Let these Secrets be read again if what is known of them is as old as that."""
        for name in secrets:
            self.live.by_name.drop(("Secret", namespace, name), older_than)
