"""What a worker reports about its dependencies: the words go to DB1, and from there into the event's conditions."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


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


class WorkerHealth(BaseModel):
    """The `health` of `intake.report_worker`. Empty until both dependencies have been checked once."""

    model_config = ConfigDict(frozen=True)

    validator: DependencyHealth | None = None
    ledger: DependencyHealth | None = None
