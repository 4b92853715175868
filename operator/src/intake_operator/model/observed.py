"""What one pass observed. Errors are values: a part that could not be read says why, and the decision goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.model.consistency import Verdict
from intake_operator.model.engine_status import EngineStatus, Restore, Worker
from intake_operator.model.preflight import Preflight
from intake_operator.model.proof import Proof
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.model.sql_version import SqlVersion
from intake_operator.reasons import PoolReason, Problem

type Manifest = dict[str, Any]
type ChildKey = tuple[str, str]
"""Kind and name."""


def owned(manifest: Manifest, uid: str) -> bool:
    """Whether an object belongs to the event with this uid."""
    return (manifest["metadata"].get("labels") or {}).get(names.EVENT_UID_LABEL) == uid


@dataclass(frozen=True)
class Event:
    """One IntakeEvent as the API server has it. A spec that is not valid is None, and `spec_error` says why."""

    namespace: str
    name: str
    uid: str
    pool: str
    generation: int
    created_at: datetime
    deleted_at: datetime | None
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    spec: IntakeEventSpec | None
    spec_error: str
    status: Mapping[str, Any]
    namespace_deleted_at: datetime | None = None
    """When the deletion of the event's namespace began; None if it is not being deleted."""

    @property
    def deleting(self) -> bool:
        """The event, or its namespace, is being deleted."""
        return self.deleted_at is not None or self.namespace_deleted_at is not None

    def says(self, annotation: str) -> bool:
        """Whether a person has set the annotation, with the event's own name as its value."""
        return self.annotations.get(annotation) == self.name


@dataclass(frozen=True)
class Connections:
    """DB1's connections: how many there are, how many are reserved, and how many are taken."""

    most: int
    """max_connections of the running server. A changed spec takes effect at the next start."""
    superusers: int
    reserved: int
    """Reserved for bridge and monitor."""
    limit: int
    """The most that claimers may have; -1: any number."""
    claimers: int
    taken: int

    @property
    def common(self) -> int:
        """Those that are not reserved."""
        return self.most - self.superusers - self.reserved

    @property
    def exhausted(self) -> bool:
        """No bridge can connect."""
        return self.taken >= self.most - self.superusers

    @property
    def claimers_at_limit(self) -> bool:
        """The next claimer will be refused."""
        return 0 <= self.limit <= self.claimers


@dataclass(frozen=True)
class DatabaseState:
    """DB1 as its own SQL functions describe it."""

    reachable: bool = False
    error: str = ""
    login_failed: bool = False
    refused: bool = False
    """It refused the operator, because all connections are taken."""
    identity: str = ""
    """Postgres' system identifier: another one is another volume."""
    version: SqlVersion | None = None
    """Of its SQL; None before it has any."""
    migrated: bool = False
    """It has what the operator calls."""
    logins: Mapping[str, str] = field(default_factory=dict)
    """Role name to the fingerprint of the Secret whose password it has; not a role that changed its own."""
    altered_roles: tuple[str, ...] = ()
    """Roles whose settings in DB1 are not those that its SQL gives them."""
    connections: Connections | None = None
    """None before the schema is there."""
    status: EngineStatus | None = None
    """None before the pool is configured."""
    stocked: int = 0
    """How many rows of the user's own inventory it has."""
    audit: tuple[str, ...] = ()
    """What people did by hand. Read only for the report of an event that is abandoned."""

    @property
    def restored(self) -> Restore | None:
        """The rebuild from the ledger; None for a DB1 that was never rebuilt, or whose status is not known."""
        return self.status.restored if self.status else None

    @property
    def ready(self) -> bool:
        """Claims can be answered: the hot row is there."""
        return self.status is not None and self.status.ready

    @property
    def sealed(self) -> bool:
        """No claim will ever be accepted again."""
        return self.status is not None and self.status.sealed

    @property
    def depth(self) -> int | None:
        """Intents on the queue, visible and in flight; None when unknown."""
        return self.status.queue.depth if self.status else None

    @property
    def peak_depth(self) -> int | None:
        """The largest depth of the last five minutes; None when no bridge has recorded one."""
        return self.status.peak_depth if self.status else None

    @property
    def dead_letters(self) -> int:
        """Claims that gave up and keep their slots."""
        return self.status.queue.dead_letters if self.status else 0

    @property
    def held(self) -> int:
        """Claims that wait to be confirmed. No bridge reads them, and they have slots: they are not settled."""
        return self.status.holds.claims if self.status else 0

    @property
    def last_hold_ends(self) -> datetime | None:
        """When the last hold ends, if it is neither confirmed nor extended; None without holds."""
        return self.status.holds.last_ends_at if self.status else None

    @property
    def window_closed(self) -> bool:
        """DB1's clock is past closesAt."""
        return self.status is not None and self.status.window_state == "closed"

    @property
    def workers(self) -> Sequence[Worker]:
        """The bridges that have sent a heartbeat lately; none when unknown."""
        return self.status.workers if self.status else ()


@dataclass(frozen=True)
class LedgerState:
    """Whether the ledger can be used; without a problem it can."""

    problem: Problem | None = None
    message: str = ""


@dataclass(frozen=True)
class InventoryState:
    """Whether there is a row of the user's own for each slot; without a problem there is."""

    problem: Problem | None = None
    message: str = ""
    due: bool = False
    """DB1 has not taken the rows as they are now."""
    checking: bool = False
    """The rows are being checked, or copied into DB1: the rest is the answer before, or none."""


@dataclass(frozen=True)
class PoolCheck:
    """What is known about earlier sales of the event's pool."""

    reason: PoolReason
    message: str
    asking: bool = False
    """The ledger is being asked again, because this answer is old."""

    @property
    def blocks(self) -> bool:
        """No slot may be seeded until a person decides."""
        return self.reason in {PoolReason.USED_BEFORE, PoolReason.IN_USE}

    @property
    def allows(self) -> bool:
        """The slots may be seeded."""
        return self.reason in {PoolReason.UNUSED, PoolReason.NOT_CHECKED} and not self.asking


@dataclass(frozen=True)
class Observed:
    """Everything a decision may look at."""

    children: Mapping[ChildKey, Manifest] = field(default_factory=dict)
    """Objects that carry the event's label and its uid. Of a Secret only the metadata."""
    pods: tuple[Manifest, ...] = ()
    refusal: str = ""
    """Why Kubernetes could not create DB1's pod, in its own words. Read only while there is none."""
    secret_fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Our own Secrets: name to a word that changes with the content. A Secret that is not there is not here."""
    input_fingerprints: Mapping[str, str] = field(default_factory=dict)
    """The same for every Secret that a bridge mounts, the user's included."""
    database: DatabaseState = DatabaseState()
    ledger: LedgerState = LedgerState()
    inventory: InventoryState = InventoryState()
    proof: Proof | None = None
    proof_error: str = ""
    consistency: Verdict | None = None
    """The latest comparison of DB1 with the ledger."""
    comparison_due: bool = False
    """Whether the latest comparison is old enough to be repeated, and none is running."""
    pool: PoolCheck | None = None
    """None where it was not asked: before the spec is understood, and once claims were possible."""
    preflight: Preflight | None = None
    """The latest answers of the checks of an event that waits; None before the first."""
    preflight_due: bool = False
    """Whether it is time to check again, and no check is running."""
