"""What a worker reports about its dependencies: the words go to DB1, and from there into the event's conditions."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from intake_bridge.domain.last_minute import LastMinute


class Offer(StrEnum):
    """What a ledger can do beyond the least that the contract asks for."""

    BATCH = "batch"  # one call takes a whole batch
    OUTCOMES = "outcomes"  # it tells committed, duplicate, voided and conflict apart
    VOID = "void"  # it can promise that a claim will never be committed
    RECEIPTS = "receipts"  # it answers a commit with a receipt


class HealthState(StrEnum):
    """Whether a dependency can be called."""

    OK = "ok"
    DOWN = "down"


class DependencyHealth(BaseModel):
    """One dependency. `error` is set when it is down, `offers` when it is a ledger that is up."""

    model_config = ConfigDict(frozen=True)

    state: HealthState
    error: str | None = None
    offers: tuple[Offer, ...] | None = None


class Failures(BaseModel):
    """Failures of the last minute among so many tries, and the error of the last one."""

    model_config = ConfigDict(frozen=True)

    tried: int
    failed: int
    error: str


class WorkerHealth(BaseModel):
    """The `health` of `intake.report_worker`. Without the dependencies until both have been checked once."""

    model_config = ConfigDict(frozen=True)

    validator: DependencyHealth | None = None
    ledger: DependencyHealth | None = None
    validations: Failures | None = None
    """Claims that the validator was asked about; None where none has failed in the last minute. The next two alike."""
    commits: Failures | None = None
    voids: Failures | None = None
    defects: Failures | None = None
    """Reads and batches that ended by an error of the bridge's own code."""
    refusal: str | None = None
    """Why DB1 has refused a read or a change in the last seconds; None where it has not."""


def failures(last_minute: LastMinute) -> Failures | None:
    """What failed in the last minute, as it is reported."""
    if not (failed := last_minute.failed):
        return None
    return Failures(tried=last_minute.tried, failed=failed, error=last_minute.error)
