"""The stage of an event. It follows from the event, what its status remembers, its children and the clock."""

from datetime import datetime, timedelta
from enum import Enum, auto

from intake_operator import names
from intake_operator.decide import memory
from intake_operator.model.observed import Event, Observed
from intake_operator.model.spec import IntakeEventSpec


class Stage(Enum):
    """The six ways an event can be treated."""

    INERT = auto()
    """The window has passed and no child exists: Git may apply such an event again and again."""
    INVALID = auto()
    """The spec is invalid. Existing objects are left as they are."""
    SERVE = auto()
    """Provision, open, scale."""
    DRAIN = auto()
    """No more claims: every claim gets settled, and the proof is made."""
    KEEP = auto()
    """The report is written. DB1 stays for a while, sealed, and answers questions about claims."""
    REMOVE = auto()
    """The report is written, or there was never anything to prove: remove everything."""


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
        return Stage.SERVE if event.spec else Stage.INVALID
    untouched = not observed.children and names.FINALIZER not in event.finalizers
    if untouched and not event.deleting:
        return Stage.INERT
    return Stage.DRAIN if has_to_be_proven(event, observed, now) else Stage.REMOVE


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
