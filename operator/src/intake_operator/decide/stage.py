"""Where an event stands. Nothing is remembered: the stage follows from the event, its children and the clock."""

from datetime import datetime
from enum import Enum, auto

from intake_operator import names
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import ConditionType, Intake


class Stage(Enum):
    """The five ways an event can be treated."""

    INERT = auto()
    """The window has passed and there is nothing of it: Git may apply such an event for ever."""
    INVALID = auto()
    """The specification cannot be understood. What exists is left as it is."""
    SERVE = auto()
    """Provision, open, scale."""
    DRAIN = auto()
    """No more claims; every claim that there is gets its end, and the proof is made."""
    RELEASE = auto()
    """The proof is in hand, or there was never anything to prove: remove everything."""


def stage_of(event: Event, observed: Observed, now: datetime) -> Stage:
    """The stage of an event. Once the report is written there is no way back from RELEASE.

    An event that is abandoned and deleted needs no report: it would go with the event, and in a namespace that is being
    terminated it could not be written.
    """
    if observed.report is not None or (event.deleting and abandoned(event)):
        return Stage.RELEASE
    sealed = observed.engine.sealed  # for good: moving closesAt does not reopen it
    over = event.deleting or sealed or (event.spec is not None and now >= event.spec.window.closes_at)
    if not over:
        return Stage.SERVE if event.spec else Stage.INVALID
    untouched = not observed.children and not observed.secret_fingerprints and names.FINALIZER not in event.finalizers
    if untouched and not event.deleting:
        return Stage.INERT
    return Stage.DRAIN if was_claimable(event, observed) else Stage.RELEASE


def mark(event: Event, observed: Observed) -> str:
    """The identity of the DB1 that was made claimable; empty if none ever was.

    It is set on DB1's StatefulSet and volume before the engine is seeded.
    """
    children = (
        observed.children.get(("StatefulSet", names.database(event.name))),
        observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name))),
    )
    found = (
        (child["metadata"].get("annotations") or {}).get(names.CLAIMABLE_ANNOTATION) for child in children if child
    )
    return next((word for word in found if word), "")


def was_claimable(event: Event, observed: Observed) -> bool:
    """Whether a claim may ever have been acknowledged. Should both marks be gone, the status still tells."""
    opened = (c for c in event.status.get("conditions") or () if c["type"] == ConditionType.INTAKE_OPEN)
    return bool(mark(event, observed)) or any(
        c["status"] == "True" or c["reason"] == Intake.WINDOW_CLOSED for c in opened
    )


def volume_lost(event: Event, observed: Observed) -> bool:
    """DB1 answers, and it is not the one that acknowledged claims."""
    before = mark(event, observed)
    return bool(before and observed.engine.identity and observed.engine.identity != before)


def abandoned(event: Event) -> bool:
    """The user gave up the proof, by an annotation that carries the event's own name."""
    return event.annotations.get(names.ABANDON_ANNOTATION) == event.name
