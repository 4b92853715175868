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


class Attempts(BaseModel):
    """How often something was tried in the last minute, how often it failed, and the error of the last failure."""

    model_config = ConfigDict(frozen=True)

    tried: int
    failed: int
    error: str | None = None


class WorkerHealth(BaseModel):
    """The `health` of `intake.report_worker`. Without the dependencies until both have been checked once."""

    model_config = ConfigDict(frozen=True)

    validator: DependencyHealth | None = None
    ledger: DependencyHealth | None = None
    validations: Attempts | None = None
    """Claims that the validator was asked about; None where there was none. The next two alike."""
    commits: Attempts | None = None
    voids: Attempts | None = None
    defects: Attempts | None = None
    """Reads and batches that ended by an error of the bridge's own code; None where there was none."""
    refusal: str | None = None
    """Why DB1 has refused a read or a change in the last seconds; None where it has not."""


def attempts(last_minute: LastMinute) -> Attempts | None:
    """What was tried in the last minute, as it is reported."""
    if not (tried := last_minute.tried):
        return None
    failed = last_minute.failed
    return Attempts(tried=tried, failed=failed, error=last_minute.error if failed else None)
