"""What can be done, as data. Each step may be repeated, and abandoned half-way, at any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intake_operator.model.observed import Manifest
from intake_operator.model.spec import Inventory


@dataclass(frozen=True)
class AddFinalizer:
    """Before the first child: from now on the event does not go without its drain."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """After the last child is gone."""


@dataclass(frozen=True)
class CreateCredentials:
    """A Secret with a password that never existed before; left alone if somebody was faster."""

    secret: str
    role: str


@dataclass(frozen=True)
class Apply:
    """Server-side apply of one object, unless it is as it was left."""

    manifest: Manifest


@dataclass(frozen=True)
class ScaleBridges:
    """The number of bridges, under the scaler's own field manager."""

    replicas: int


@dataclass(frozen=True)
class ReplaceDatabasePod:
    """Delete DB1's pod so that it comes back as the StatefulSet now has it."""

    pod: str
    why: str


@dataclass(frozen=True)
class Migrate:
    """pgmq, then every file of sql/intake that has not run."""


@dataclass(frozen=True)
class SetLogins:
    """Give each role the password that its Secret holds."""

    secrets: Mapping[str, str]


@dataclass(frozen=True)
class Configure:
    """Push the live configuration; a no-op when nothing changed."""

    config: Mapping[str, Any]


@dataclass(frozen=True)
class Stock:
    """Give DB1 the first `size` rows of the user's own; what DB1 or their source refuses is seen by the next look."""

    inventory: Inventory
    size: int


@dataclass(frozen=True)
class Seed:
    """Slots, and after a crash the holds; the engine is ready when it returns."""


@dataclass(frozen=True)
class Seal:
    """End claiming for good, and wait for the claims that were under way."""

    reason: str


@dataclass(frozen=True)
class Delete:
    """Remove one object of ours."""

    kind: str
    name: str


type Step = (
    AddFinalizer
    | RemoveFinalizer
    | CreateCredentials
    | Apply
    | ScaleBridges
    | ReplaceDatabasePod
    | Migrate
    | SetLogins
    | Configure
    | Stock
    | Seed
    | Seal
    | Delete
)
