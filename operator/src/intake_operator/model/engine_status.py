"""What `intake.engine_status` answers, as far as the operator reads it.

DB1 may answer more: unknown fields are ignored. A field that is missing, or of another type, raises
pydantic.ValidationError; the health of a worker does not, because DB1 takes any JSON from a bridge.
`operator/tests/test_engine_status.py` holds these models against the SQL.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.alias_generators import to_camel


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class SlotCounts(_Model):
    """Slots of the pool, by where they are."""

    size: int
    """The configured inventory; slots are seeded up to it."""
    available: int
    """0 while the pool is not ready."""
    held: int
    """Of claims that wait to be confirmed."""
    withheld: int
    """Taken off sale by hand."""
    reserved: int
    """Of claims that are queued or dead letters."""
    consumed: int
    """Sold."""

    @property
    def seeded(self) -> int:
        """Slots that are there."""
        return self.available + self.held + self.withheld + self.reserved + self.consumed


class QueueCounts(_Model):
    """Intents of the pool. Counts are claims."""

    depth: int
    """Visible and in flight."""
    in_flight: int
    oldest_seconds: float
    dead_letters: int


class Holds(_Model):
    """Claims that wait to be confirmed."""

    claims: int
    last_ends_at: AwareDatetime | None
    """When the last of them ends; None without one."""


class DependencyHealth(_Model):
    """What one bridge says of its ledger or of its validator."""

    state: Literal["ok", "down"]
    error: str | None = None
    """Why it is down."""
    offers: tuple[str, ...] | None = None
    """What a ledger that is ok can do beyond the least; the words of the bridge's `Offer`."""


class Attempts(_Model):
    """How often one bridge has tried something in the last minute, how often it failed, and the last error."""

    tried: int
    failed: int
    error: str | None = None


class WorkerHealth(_Model):
    """All are None where there is nothing to say, and where the worker's words are not known here."""

    ledger: DependencyHealth | None = None
    """Before the worker has called it for the first time: None. The validator alike."""
    validator: DependencyHealth | None = None
    validations: Attempts | None = None
    commits: Attempts | None = None
    voids: Attempts | None = None
    defects: Attempts | None = None
    """Errors of the bridge's own code."""
    refusal: str | None = None
    """Why DB1 refuses what the bridge reads or writes."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _known_words(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        """What cannot be read counts as not reported: one odd heartbeat must not hide DB1 from the operator."""
        try:
            return read(value)
        except ValidationError:
            return None


class Worker(_Model):
    """A bridge whose last heartbeat is younger than ten seconds."""

    worker: str
    """The uid of its pod, and what each start adds to it behind a hyphen."""
    batch_size: int
    health: WorkerHealth

    @property
    def pod(self) -> str:
        """The uid of its pod."""
        return self.worker.rsplit("-", 1)[0]

    @field_validator("health", mode="before")
    @classmethod
    def _object(cls, value: object) -> object:
        return value if isinstance(value, dict | WorkerHealth) else {}


class Restore(_Model):
    """The rebuild of a lost DB1 from the ledger."""

    at: str
    """A time in RFC 3339, exactly as DB1 writes it."""
    committed: int
    voided: int


class EngineStatus(_Model):
    """The state of a pool in DB1. Counts are claims; only those of `inventory` are slots."""

    window_state: Literal["scheduled", "open", "closed"]
    """By DB1's own clock."""
    sealed: bool
    ready: bool
    """The hot row is there, so claims can be answered."""
    inventory: SlotCounts
    queue: QueueCounts
    holds: Holds
    claims: int
    held: int
    committed: int
    voided: int
    released: int
    expired: int
    claims_per_second: float
    commits_per_second: float
    peak_depth: int | None
    """The largest depth of the last five minutes; None where no bridge has recorded one."""
    restored: Restore | None
    """None for a DB1 that was never rebuilt from the ledger."""
    workers: tuple[Worker, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """Claims, and how many of them are committed, voided, released and expired."""
        return self.claims, self.committed, self.voided, self.released, self.expired

    def counts(self, names: Sequence[str]) -> dict[str, Any]:
        """Some of the fields under their names in JSON, as `status` of an event has them."""
        dumped = self.model_dump(by_alias=True)
        return {name: dumped[name] for name in names}
