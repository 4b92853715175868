"""What the tests put into Git: events, their ledger, and something that comes after them."""

from typing import Any, Final

import yaml

from tests.e2e import events
from tests.e2e.kube import REPOSITORY, Kube, Object

# One claim a second: a queue that lasts for minutes, until a patch lifts the limit.
SLOW: Final = {"postgres": {"secretRef": {"name": "core-ledger"}}, "maxPerSecond": 1}
FAST: Final[Object] = {"spec": {"commitTarget": {"maxPerSecond": 1000}}}

# Nothing runs for an event that opens later than its lead time.
WAITING: Final = {"opens_in": 4 * 3600.0, "lasts": 3600.0}
SCHEDULED: Final = {"opens_in": 1800.0, "lasts": 3600.0}
OPEN: Final = {"opens_in": -5.0, "lasts": 3600.0}


def window(when: dict[str, float]) -> dict[str, str]:
    """One of the windows above, counted from now."""
    return events.window(**when)


def event(sale: dict[str, str], wave: int = 0, **spec: Any) -> Object:
    """A small event named `sale`."""
    return in_wave(wave, events.event("sale", sale, **spec))


def in_wave(wave: int, obj: Object) -> Object:
    """The object in a sync wave."""
    annotations = obj["metadata"].setdefault("annotations", {})
    annotations["argocd.argoproj.io/sync-wave"] = str(wave)
    return obj


def ledger(kube: Kube) -> list[Object]:
    """The example ledger, as `kubectl apply -k examples/` makes it."""
    return list(yaml.safe_load_all(kube.kubectl("kustomize", str(REPOSITORY / "examples"))))


def config_map(name: str) -> Object:
    """Something that costs nothing."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"open": "yes"}}
