"""The stage of an event. It follows from the event, what its status remembers, its children and the clock."""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from intake_operator import names
from intake_operator.children import kinship
from intake_operator.decide import memory
from intake_operator.model.observed import Event, Observed
from intake_operator.model.spec import IntakeEventSpec


class Stage(Enum):
    """The seven ways an event can be treated."""

    INERT = auto()
    """The window has passed and no child exists: Git may apply such an event again and again."""
    INVALID = auto()
    """The spec is invalid. Existing objects are left as they are."""
    WAIT = auto()
    """The window is further away than the lead time: nothing runs, and what the sale needs is checked."""
    SERVE = auto()
    """Provision, open, scale."""
    DRAIN = auto()
    """No more claims: every claim gets settled, and the proof is made."""
    KEEP = auto()
    """The report is written. DB1 stays for a while, sealed, and answers questions about claims."""
    REMOVE = auto()
    """The report is written, or there was never anything to prove: remove everything."""


# The kinds of the children of an event that waits. Whatever else it has, provisioning has begun.
WHILE_WAITING: Final = frozenset({kinship.ANCHOR, "Secret", "Service"})


def stage_of(event: Event, observed: Observed, now: datetime) -> Stage:
    """The stage of an event. Once its status has the report, it never drains again.

    An event that is abandoned and deleted needs no report: the report would be deleted with the event.
    """
    if event.deleting and abandoned(event):
        return Stage.REMOVE
    if memory.report(event) is not None:
        kept = is_kept(event, now) and ("StatefulSet", names.database(event.name)) in observed.children
        return Stage.KEEP if kept else Stage.REMOVE
    sealed = observed.database.sealed  # final: moving closesAt does not reopen it
    over = event.deleting or sealed or (event.spec is not None and now >= event.spec.window.closes_at)
    if not over:
        if event.spec is None:
            return Stage.INVALID
        return Stage.WAIT if _is_early(event.spec, now) and not begun(event, observed) else Stage.SERVE
    untouched = not observed.children and names.FINALIZER not in event.finalizers
    if untouched and not event.deleting:
        return Stage.INERT
    return Stage.DRAIN if has_to_be_proven(event, observed, now) else Stage.REMOVE


def begun(event: Event, observed: Observed) -> bool:
    """Whether provisioning has begun. It is never undone, however far away the window is moved.

    A DB1 that starts may be claimable in the next moment, and one that has sold has an identity that is remembered. To
    take one away because it is early would save a pod, and could lose a claim.
    """
    made = any(kind not in WHILE_WAITING for kind, _ in observed.children)
    return made or bool(observed.pods) or was_claimable(event, observed)


def lead_time(spec: IntakeEventSpec) -> timedelta:
    """How long before the window opens DB1 is provisioned."""
    return timedelta(minutes=spec.provisioning.lead_time_minutes)


def provision_at(spec: IntakeEventSpec) -> datetime:
    """When DB1 is provisioned, as planned. Only of an event that waits: its window is not in the year 1."""
    return spec.window.opens_at - lead_time(spec)


def _is_early(spec: IntakeEventSpec, now: datetime) -> bool:
    # Added to now: some users write Go's zero time, 0001-01-01, for `at once`, and nothing can be subtracted from it.
    return now + lead_time(spec) < spec.window.opens_at


def was_claimable(event: Event, observed: Observed) -> bool:
    """Whether DB1 was ever seeded, so that claims were possible as soon as its window opened."""
    return bool(memory.identity(event, observed))


def has_to_be_proven(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether a claim may ever have been acknowledged."""
    return was_claimable(event, observed) and not memory.never_open(event, observed, now)


def is_kept(event: Event, now: datetime) -> bool:
    """Whether DB1 is still kept after its window has closed as planned."""
    if event.spec is None or event.deleting or abandoned(event):
        return False
    # Subtracted from now: a window may close with the last second of the calendar, and nothing can be added to that.
    return now - keep_time(event.spec) < event.spec.window.closes_at


def keep_time(spec: IntakeEventSpec) -> timedelta:
    """How long DB1 is kept after the close."""
    return timedelta(minutes=spec.teardown.keep_minutes)


def keep_until(spec: IntakeEventSpec) -> datetime:
    """Until when DB1 is kept."""
    return spec.window.closes_at + keep_time(spec)


def abandoned(event: Event) -> bool:
    """The user gave up the proof, by an annotation with the event's own name."""
    return event.says(names.ABANDON_ANNOTATION)
