"""What can be done, as data: a plan is steps. Each step may be repeated, and abandoned half-way, at any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from intake_operator.model.observed import Manifest
from intake_operator.model.spec import Inventory, SecretRef


@dataclass(frozen=True)
class AddFinalizer:
    """Before the first child: from now on the event does not go without its drain."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """After the last child is gone."""


@dataclass(frozen=True)
class CreateCredentials:
    """A Secret with a password that never existed before; left alone if somebody was faster.

    Its owners and the guard are applied in the next pass: an apply cannot take off what an object was created with.
    """

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


# Seconds that DB1's pod has to end once its data is not needed any more.
HASTE: Final = 1


@dataclass(frozen=True)
class StopDatabase:
    """DB1's StatefulSet to no pods, and its pod away at once: the garbage collector, left to it, may not remove it."""


@dataclass(frozen=True)
class ReplaceDatabasePod:
    """Delete DB1's pod so that it comes back as the StatefulSet now has it."""

    pod: str
    why: str


@dataclass(frozen=True)
class Migrate:
    """pgmq, then every file of sql/intake that has not run."""


@dataclass(frozen=True)
class KeepRoom:
    """Let claimers have no more of DB1's connections than leaves `others` for everybody else."""

    others: int


@dataclass(frozen=True)
class SetLogins:
    """Give each role the password that its Secret holds; those that were altered, the settings that are theirs."""

    secrets: Mapping[str, str]
    altered: tuple[str, ...] = ()


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
    """Slots, and after a crash the holds; the database is ready when it returns."""


@dataclass(frozen=True)
class Recover:
    """Give an empty DB1 the claims that the ledger has: all of them, or none."""

    ledger: SecretRef


@dataclass(frozen=True)
class Seal:
    """End claiming for good, and wait for the claims that were under way."""

    reason: str


@dataclass(frozen=True)
class Unguard:
    """From now on others may remove this object of ours, too. With `finalizer`, our finalizer goes as well."""

    kind: str
    name: str
    finalizer: bool = False


@dataclass(frozen=True)
class Delete:
    """Remove one object of ours."""

    kind: str
    name: str


type DatabaseStep = Migrate | KeepRoom | SetLogins | Configure | Stock | Seed | Recover | Seal
"""In DB1."""

type Step = (
    AddFinalizer
    | RemoveFinalizer
    | CreateCredentials
    | Apply
    | ScaleBridges
    | StopDatabase
    | ReplaceDatabasePod
    | Unguard
    | Delete
    | DatabaseStep
)


@dataclass(frozen=True)
class Plan:
    """The steps in their order, the status to write before the first of them, and when to look again (seconds)."""

    steps: tuple[Step, ...]
    status: dict[str, Any]
    requeue_after: float | None
    after: dict[str, Any] | None = None
    """The status to write once all steps have gone through, where it is another one."""
