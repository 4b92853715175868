"""What can be done, as data: a plan is steps. Each step may be interrupted and repeated at any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from intake_operator.model.observed import Manifest
from intake_operator.model.spec import Inventory, PostgresTarget


@dataclass(frozen=True)
class AddFinalizer:
    """Before the first child: from now on the event is not removed without its drain."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """After the last child is gone."""


@dataclass(frozen=True)
class CreateCredentials:
    """Create a Secret with a random password; an existing one is kept.

    Its owners and the guard are applied in the next pass: an apply cannot remove what an object was created with.
    """

    secret: str
    role: str


@dataclass(frozen=True)
class Apply:
    """Server-side apply of one object, unless it is still as the last apply left it."""

    manifest: Manifest


@dataclass(frozen=True)
class ScaleBridges:
    """Set the number of bridges, under the scaler's own field manager."""

    replicas: int


# The grace period of DB1's pod when its data is not needed any more.
STOP_GRACE_SECONDS: Final = 1


@dataclass(frozen=True)
class StopDatabase:
    """Delete DB1's pod and scale its StatefulSet to zero: the garbage collector may not remove a guarded pod."""


@dataclass(frozen=True)
class ReplaceDatabasePod:
    """Delete DB1's pod, so that the StatefulSet starts one of the present definition."""

    pod: str
    why: str


@dataclass(frozen=True)
class Migrate:
    """Install pgmq, then run every file of sql/intake that has not run."""


@dataclass(frozen=True)
class LimitClaimers:
    """Limit the connections of claimers, so that `others` of DB1's connections are left for bridges and operator."""

    others: int


@dataclass(frozen=True)
class SetLogins:
    """Set the password of each role from its Secret, and reset the settings of roles that were altered."""

    secrets: Mapping[str, str]
    altered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configure:
    """Push the live configuration; a no-op when nothing changed."""

    config: Mapping[str, Any]


@dataclass(frozen=True)
class Stock:
    """Start to give DB1 the first `size` rows of the user's inventory; the end wakes the event.

    The next pass observes what was refused.
    """

    inventory: Inventory
    size: int


@dataclass(frozen=True)
class Seed:
    """Seed the slots, and after a crash the claimed slots; the database is ready when it returns."""


@dataclass(frozen=True)
class Recover:
    """Give an empty DB1 the claims that the ledger has: all of them, or none."""

    ledger: PostgresTarget


@dataclass(frozen=True)
class Seal:
    """End claiming for good, and wait for the claims that were under way."""

    reason: str


@dataclass(frozen=True)
class Unguard:
    """Remove the guard label, so that others may delete this object; with `finalizer`, our finalizer as well."""

    kind: str
    name: str
    finalizer: bool = False


@dataclass(frozen=True)
class Delete:
    """Delete one object of ours."""

    kind: str
    name: str


@dataclass(frozen=True)
class Compare:
    """Start to compare DB1 with the ledger, in the background; the verdict wakes the event."""

    ledger: PostgresTarget


@dataclass(frozen=True)
class CheckAhead:
    """Start the checks of an event that waits, in the background; the answer wakes the event."""


type DatabaseStep = Migrate | LimitClaimers | SetLogins | Configure | Stock | Seed | Recover | Seal
"""Done in DB1."""

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
    | Compare
    | CheckAhead
    | DatabaseStep
)


@dataclass(frozen=True)
class Plan:
    """The steps in their order, and the status to write before the first of them."""

    steps: tuple[Step, ...]
    status: dict[str, Any]
    requeue_after: timedelta | None
    """When the next pass is due; None: at the next change of the event or of a child."""
    after: dict[str, Any] | None = None
    """The status to write once all steps have succeeded, if it is another one."""
