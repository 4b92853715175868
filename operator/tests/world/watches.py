"""The watches of an operator: what happened in the API server reaches its store late, or by a new list."""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from intake_operator.kube.cached import Cached, Live
from intake_operator.kube.store import Store
from intake_operator.kube.watches import WATCHED
from intake_operator.model.observed import Manifest

from .api import Api, copied


class Watches:
    """One for each kind. While they lag, the store only has what `hears` and `lists` bring, and own answers."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._told: defaultdict[str, deque[tuple[str, Manifest]]] = defaultdict(deque)
        self.lag = False
        self.store = Store(WATCHED, (), lambda _: None)
        source: Any = api
        self.live = Live(source, self.store, clock)
        self.cached = Cached(self.live, self.store)
        api.hear = self._hear
        for kind in WATCHED:
            self.lists(kind)

    def _hear(self, type_: str, item: Manifest) -> None:
        if self.store.has(item["kind"]):
            self._told[item["kind"]].append((type_, item))

    def hears(self, kind: str, count: int) -> None:
        """The watch of a kind gets some of what it has not got yet."""
        (shelf,) = (each for each in self.store.shelves() if each.kind == kind)
        for _ in range(min(count, len(self._told[kind]))):
            shelf.told(*self._told[kind].popleft())

    def lists(self, kind: str) -> None:
        """The watch of a kind was broken, and begins with a new list."""
        (shelf,) = (each for each in self.store.shelves() if each.kind == kind)
        shelf.asks()
        shelf.replace([copied(each) for each in self._api.of(kind)], self._api.version)
        self._told[kind].clear()

    def come(self) -> None:
        """Before a pass: everything is heard, unless the watches lag."""
        for kind in WATCHED:
            self.hears(kind, 0 if self.lag else len(self._told[kind]))
