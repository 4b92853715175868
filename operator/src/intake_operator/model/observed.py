"""What one read pass saw. Errors are values here: a part that could not be read says why, and the decision goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.model.consistency import Verdict
from intake_operator.model.engine_status import EngineStatus, Restore, Worker
from intake_operator.model.proof import Proof
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import PoolReason, Problem

type Manifest = dict[str, Any]
type ChildKey = tuple[str, str]
"""Kind and name."""


def owned(manifest: Manifest, uid: str) -> bool:
    """Whether an object belongs to the event with this uid."""
    return (manifest["metadata"].get("labels") or {}).get(names.EVENT_UID_LABEL) == uid


@dataclass(frozen=True)
class Event:
    """One IntakeEvent as the API server has it; without a `spec` it cannot be understood, and `spec_error` says why."""

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
    """When somebody asked for the event's namespace to be gone; None while it stays."""

    @property
    def deleting(self) -> bool:
        """Someone has asked for this event to be gone, or for the namespace that it is in."""
        return self.deleted_at is not None or self.namespace_deleted_at is not None

    def says(self, annotation: str) -> bool:
        """A person's own word: the annotation carries the event's name."""
        return self.annotations.get(annotation) == self.name


@dataclass(frozen=True)
class Connections:
    """DB1's connections: how many there are, for whom some are kept, who has them."""

    most: int
    """max_connections of the server that runs, which the spec's may follow only at the next start."""
    superusers: int
    reserved: int
    """For bridge and monitor."""
    limit: int
    """What claimers may have; -1: any number."""
    claimers: int
    taken: int

    @property
    def common(self) -> int:
        """Those that are kept for nobody."""
        return self.most - self.superusers - self.reserved

    @property
    def exhausted(self) -> bool:
        """No bridge gets in."""
        return self.taken >= self.most - self.superusers

    @property
    def claimers_at_limit(self) -> bool:
        """The next claimer is refused."""
        return 0 <= self.limit <= self.claimers


@dataclass(frozen=True)
class DatabaseState:
    """DB1 as its own SQL describes it."""

    reachable: bool = False
    error: str = ""
    login_failed: bool = False
    refused: bool = False
    """It has no connection left, not even for its superuser."""
    identity: str = ""
    """Postgres' system identifier: another one is another volume."""
    migrated: bool = False
    logins: Mapping[str, str] = field(default_factory=dict)
    """Role name to the fingerprint of the Secret whose password it has; not a role that changed its own."""
    altered_roles: tuple[str, ...] = ()
    """Roles whose settings in DB1 are not those that its SQL gives them."""
    connections: Connections | None = None
    """None before the schema is there."""
    status: EngineStatus | None = None
    """None before the pool is configured."""
    stocked: int = 0
    """Rows of the user's own inventory that it has."""
    audit: tuple[str, ...] = ()
    """What people did by hand; read only for the report of an event that is abandoned."""

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
        """Intents that gave up and still hold their slot."""
        return self.status.queue.dead_letters if self.status else 0

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
    """What the operator saw when it looked at the commit target; no problem means it can be used."""

    problem: Problem | None = None
    message: str = ""


@dataclass(frozen=True)
class InventoryState:
    """What the operator saw of the user's own rows; no problem means that there are enough of them."""

    problem: Problem | None = None
    message: str = ""
    due: bool = False
    """DB1 has yet to take the rows as they are now."""


@dataclass(frozen=True)
class PoolCheck:
    """What is known about earlier sales of the event's pool."""

    reason: PoolReason
    message: str

    @property
    def blocks(self) -> bool:
        """Nothing may be seeded, and a person has to decide."""
        return self.reason in {PoolReason.USED_BEFORE, PoolReason.IN_USE}

    @property
    def allows(self) -> bool:
        """The slots may be seeded."""
        return self.reason in {PoolReason.UNUSED, PoolReason.NOT_CHECKED}


@dataclass(frozen=True)
class Observed:
    """Everything a decision may look at."""

    children: Mapping[ChildKey, Manifest] = field(default_factory=dict)
    """Objects that carry the event's label and its uid. Of a Secret only the metadata."""
    pods: tuple[Manifest, ...] = ()
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
    pool: PoolCheck | None = None
    """None where it was not asked: before the spec is understood, and once claims were possible."""
