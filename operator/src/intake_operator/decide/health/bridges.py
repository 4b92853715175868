"""What the bridges report of their ledger, their validator and themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from intake_operator.decide.health.finding import Finding
from intake_operator.model.engine_status import Attempts, DependencyHealth, Worker
from intake_operator.model.observed import Observed
from intake_operator.reasons import Problem

# Two bad claims in a row happen; the bridge, too, suspects nobody before the third failure.
FEWEST_FAILURES: Final = 3


@dataclass(frozen=True)
class _Step:
    """One kind of call: how it is named, and what to say where it fails."""

    field: str
    dependency: str
    problem: Problem
    consequence: str
    stops: bool = True


STEPS: Final = (
    _Step(
        "commits",
        "ledger",
        Problem.COMMITS_FAILING,
        "Claims that fail too often become dead letters; the ledger's log says why it refuses them.",
    ),
    _Step(
        "validations",
        "validator",
        Problem.VALIDATIONS_FAILING,
        "Claims that fail too often become dead letters; the log of the validator's server says why.",
    ),
    _Step(
        "voids",
        "ledger",
        Problem.VOIDS_FAILING,
        "Slots of claims that were declined or released are not free before the ledger has voided them.",
        stops=False,
    ),
)


def of_bridges(observed: Observed) -> Iterator[Finding]:
    """Everything that the registered bridges say is wrong."""
    workers = observed.database.workers
    yield from _down(workers)
    for step in STEPS:
        yield from _failing(workers, step)
    yield from _own_errors(workers)


def _down(workers: Sequence[Worker]) -> Iterator[Finding]:
    for dependency, reason, cure in (
        ("ledger", Problem.LEDGER_DOWN, "Claims wait in the queue; commits resume after the first that succeeds."),
        (
            "validator",
            Problem.VALIDATOR_DOWN,
            "Claims wait in the queue; check spec.validation.webhook and its server.",
        ),
    ):
        states = [state for worker in workers if (state := _state(worker, dependency)) is not None]
        if down := [state for state in states if state.state == "down"]:
            error = down[0].error or "no answer"
            message = f"{len(down)} of {len(workers)} bridges report the {dependency} down: {error}. {cure}"
            yield Finding(reason, message, stops=len(down) == len(states))


def _failing(workers: Sequence[Worker], step: _Step) -> Iterator[Finding]:
    """Most of the calls of the last minute have failed, at bridges that do not report their dependency down."""
    up = [w for w in workers if (state := _state(w, step.dependency)) is None or state.state != "down"]
    reports: list[Attempts] = [each for w in up if (each := getattr(w.health, step.field)) is not None]
    tried, failed = (sum(getattr(each, name) for each in reports) for name in ("tried", "failed"))
    if failed < FEWEST_FAILURES or 2 * failed <= tried:
        return
    error = next((each.error for each in reports if each.error), "no answer")
    yield Finding(
        step.problem,
        f"{_rounded(failed)} of {_rounded(tried)} {step.field} of the last minute failed, the last with: {error}. "
        f"{step.consequence}",
        stops=step.stops,
    )


def _own_errors(workers: Sequence[Worker]) -> Iterator[Finding]:
    defects = [worker.health.defects for worker in workers if worker.health.defects is not None]
    if defects:
        count = _rounded(sum(each.failed for each in defects))
        yield Finding(
            Problem.BRIDGES_FAILING,
            f"{len(defects)} of {len(workers)} bridges failed in their own code in the last minute ({count} times), "
            f"the last time by {defects[0].error}. Claims are given back and tried again. It is a defect of this "
            "version: read the bridges' logs, and report it.",
        )
    refusals = [worker.health.refusal for worker in workers if worker.health.refusal]
    if refusals:
        yield Finding(
            Problem.BRIDGES_FAILING,
            f"DB1 refuses {len(refusals)} of {len(workers)} bridges: {refusals[0]}. Claims wait in the queue.",
            stops=len(refusals) == len(workers),
        )


def _state(worker: Worker, dependency: str) -> DependencyHealth | None:
    return worker.health.ledger if dependency == "ledger" else worker.health.validator


def _rounded(count: int) -> str:
    """A number of the last minute, down to its first digit: a condition that changes each second is noise."""
    if count < 10:
        return str(count)
    power = 10 ** (len(str(count)) - 1)
    return f"about {count // power * power}"
