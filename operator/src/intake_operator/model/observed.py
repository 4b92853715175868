"""What one read pass saw. Errors are values here: a part that could not be read says why, and the decision goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.model.consistency import Verdict
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
    status: Mapping[str, Any] | None = None
    """`intake.engine_status`; None before the pool is configured."""
    stocked: int = 0
    """Rows of the user's own inventory that it has."""
    audit: tuple[str, ...] = ()
    """What people did by hand; read only for the report of an event that is abandoned."""

    @property
    def restored(self) -> Mapping[str, Any] | None:
        """What was rebuilt from the ledger (at, committed, voided); None for a DB1 with a life of its own."""
        return self.status.get("restored") if self.status else None

    @property
    def ready(self) -> bool:
        """Claims can be answered: the hot row is there."""
        return bool(self.status and self.status["ready"])

    @property
    def sealed(self) -> bool:
        """No claim will ever be accepted again."""
        return bool(self.status and self.status["sealed"])

    @property
    def depth(self) -> int | None:
        """Intents on the queue, visible and in flight; None when unknown."""
        return self.status["queue"]["depth"] if self.status else None

    @property
    def peak_depth(self) -> int | None:
        """The most that was queued in the last five minutes; None where nobody has written it down."""
        return self.status.get("peakDepth") if self.status else None

    @property
    def dead_letters(self) -> int:
        """Intents that gave up and still hold their slot."""
        return int(self.status["queue"]["deadLetters"]) if self.status else 0

    @property
    def window_closed(self) -> bool:
        """DB1's clock is past closesAt."""
        return bool(self.status and self.status["windowState"] == "closed")


@dataclass(frozen=True)
class Proof:
    """The account of a sealed database, and the ledger's word on it."""

    claims: int
    committed: int
    voided: int
    released: int
    queued: int
    dead: int
    violations: tuple[str, ...]
    ledger: str
    """'agrees', 'offers no proof' or what differs."""
    audit: tuple[str, ...] = ()
    """What people did by hand, for the report."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Why this is not a proof; empty when it is one."""
        found = list(self.violations)
        if self.queued or self.dead:
            found.append(f"{self.queued} intents are still queued and {self.dead} are dead letters")
        if self.claims != self.committed + self.voided + self.released:
            ends = f"{self.committed} committed, {self.voided} voided and {self.released} released"
            found.append(f"{self.claims} claims but {ends}")
        if self.ledger not in LEDGER_ACCEPTS:
            found.append(self.ledger)
        return tuple(found)


LEDGER_AGREES = "the ledger agrees"
LEDGER_SILENT = "the ledger offers no proof"
LEDGER_UNASKED = "the ledger cannot be asked"
LEDGER_ACCEPTS = frozenset({LEDGER_AGREES, LEDGER_SILENT})


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
    comparison_due: bool = False
    """Whether the latest comparison is old enough to be repeated, and none is running."""
    pool: PoolCheck | None = None
    """None where it was not asked: before the spec is understood, and once claims were possible."""
