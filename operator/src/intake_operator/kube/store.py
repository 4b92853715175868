"""What the watches have told of the cluster. It lags behind the API server, and never goes back in time by itself."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from intake_operator import names
from intake_operator.model.observed import Manifest
from intake_operator.workqueue import Key

# What `kubectl apply` leaves on an object: the whole of it once more.
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class Change:
    """An object is another one than the store had: new without `old`, gone without `new`."""

    kind: str
    old: Manifest | None
    new: Manifest | None
    listed: bool = False
    """A new list has it: what happened before is not known."""


type Tell = Callable[[Change], None]


class Shelf:
    """The objects of one kind in one namespace, or in all of them: what one watch tells of.

    It is complete up to `version`. What the API server answers to the operator's own requests is put in if it is newer
    than that: an answer that is older may be of an object that is gone since. resourceVersions of one kind are compared
    as numbers, which Kubernetes promises since 1.35, and etcd always did.
    """

    def __init__(self, kind: str, namespace: str) -> None:
        self.kind, self.namespace = kind, namespace
        self.listed = False
        self.version = 0
        self._objects: dict[Key, Manifest] = {}
        self._of_event: defaultdict[Key, dict[str, Manifest]] = defaultdict(dict)
        self._answered: set[Key] = set()
        """What was put in since the latest list was asked for: the list may be older."""

    def get(self, key: Key) -> Manifest | None:
        """One object, by its namespace and name."""
        return self._objects.get(key)

    def of_event(self, event: Key) -> list[Manifest]:
        """The objects that carry the label of an event."""
        return list(self._of_event.get(event, {}).values())

    def all(self) -> Iterator[Manifest]:
        """Every object."""
        yield from self._objects.values()

    def asks(self) -> None:
        """A list is asked for: it has all that was answered before."""
        self._answered.clear()

    def replace(self, items: Iterable[Manifest], version: int) -> list[Change]:
        """A list is there: what it has not is gone, unless it is newer than the list."""
        found = {_key(item): self._kept(item) for item in items}
        newer = {key for key in self._answered if key in self._objects and _version(self._objects[key]) > version}
        found |= {key: self._objects[key] for key in newer}
        gone = [key for key in self._objects if key not in found]
        self.version, self.listed = version, True
        return [self._put(key, found.get(key), listed=True) for key in [*gone, *found]]

    def told(self, type_: str, item: Manifest) -> list[Change]:
        """A watch tells of an object, or with a bookmark only how far it is."""
        version = _version(item)
        self.version = max(self.version, version)
        if type_ == "BOOKMARK":
            return []
        key = _key(item)
        known = self._objects.get(key)
        if type_ == "DELETED":
            return [self._put(key, None)] if known and _version(known) <= version else []
        return [self._put(key, self._kept(item))] if known is None or _version(known) < version else []

    def answered(self, item: Manifest) -> list[Change]:
        """The API server has answered with this object."""
        key, version = _key(item), _version(item)
        known = self._objects.get(key)
        if not self.listed or version <= self.version or (known and version <= _version(known)):
            return []
        if self.kind != names.KIND and _event(item) is None:
            return []  # the watch does not tell of what has no label, so it would stay
        self._answered.add(key)
        return [self._put(key, self._kept(item))]

    def _kept(self, item: Manifest) -> Manifest:
        return trimmed(item) | {"kind": self.kind}

    def _put(self, key: Key, item: Manifest | None, *, listed: bool = False) -> Change:
        old = self._objects.pop(key, None)
        if old and (event := _event(old)):
            self._of_event[event].pop(key[1], None)
            if not self._of_event[event]:
                del self._of_event[event]
        if item is not None:
            self._objects[key] = item
            if event := _event(item):
                self._of_event[event][key[1]] = item
        return Change(self.kind, old, item, listed)


class Store:
    """The shelves of all watches, by kind and namespace. Objects are shared: nobody may change one.

    `tell` hears of every change.
    """

    def __init__(self, kinds: Iterable[str], namespaces: Sequence[str], tell: Tell) -> None:
        self._tell = tell
        self._shelves: Mapping[str, Mapping[str, Shelf]] = {
            kind: {namespace: Shelf(kind, namespace) for namespace in namespaces or ("",)} for kind in kinds
        }

    def shelves(self) -> Iterator[Shelf]:
        """Each is what one watch fills."""
        for shelves in self._shelves.values():
            yield from shelves.values()

    def has(self, kind: str) -> bool:
        """Whether a watch tells of this kind."""
        return kind in self._shelves

    def knows(self, namespace: str) -> bool:
        """Whether each watch of a namespace has had its first list: before, nothing is known to be absent."""
        return all((shelf := self._shelf(kind, namespace)) is not None and shelf.listed for kind in self._shelves)

    @property
    def ready(self) -> bool:
        """Whether it knows a namespace. One whose lists are refused does not hold up the others."""
        return any(self.knows(namespace) for namespace in next(iter(self._shelves.values())))

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None if there is none."""
        shelf = self._shelf(kind, namespace)
        return shelf.get((namespace, name)) if shelf else None

    def of_event(self, kind: str, namespace: str, event: str) -> list[Manifest]:
        """The objects of a kind that carry the label of an event."""
        shelf = self._shelf(kind, namespace)
        return shelf.of_event((namespace, event)) if shelf else []

    def all(self, kind: str) -> list[Manifest]:
        """All objects of a kind."""
        return [item for shelf in self._shelves[kind].values() for item in shelf.all()]

    def answered(self, item: Manifest) -> None:
        """The API server has answered with this object: the next pass sees what this one has written."""
        shelf = self._shelf(item.get("kind", ""), item["metadata"].get("namespace", ""))
        self.tell(shelf.answered(item) if shelf else ())

    def tell(self, changes: Iterable[Change]) -> None:
        """Pass changes on."""
        for change in changes:
            self._tell(change)

    def _shelf(self, kind: str, namespace: str) -> Shelf | None:
        shelves = self._shelves.get(kind, {})
        return shelves.get(namespace) or shelves.get("")


def trimmed(item: Manifest) -> Manifest:
    """An object without what no decision reads: half of its size."""
    meta = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    if LAST_APPLIED in (notes := meta.get("annotations") or {}):
        meta["annotations"] = {name: value for name, value in notes.items() if name != LAST_APPLIED}
    return item | {"metadata": meta}


def _key(item: Manifest) -> Key:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _version(item: Manifest) -> int:
    return int(item["metadata"]["resourceVersion"])


def _event(item: Manifest) -> Key | None:
    """The event whose label an object carries."""
    name = (item["metadata"].get("labels") or {}).get(names.EVENT_LABEL)
    return (item["metadata"].get("namespace", ""), name) if name else None
