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
    over = event.deleting or (event.spec is not None and now >= event.spec.window.closes_at)
    if not over:
        return Stage.SERVE if event.spec else Stage.INVALID
    if was_claimable(event, observed):
        return Stage.DRAIN
    untouched = not observed.children and not observed.secret_fingerprints and names.FINALIZER not in event.finalizers
    return Stage.INERT if untouched and not event.deleting else Stage.RELEASE


def was_claimable(event: Event, observed: Observed) -> bool:
    """Whether a claim may ever have been acknowledged.

    The mark is set on DB1's StatefulSet and volume before the engine is seeded. Should both be gone, the status still
    tells.
    """
    marks = (
        observed.children.get(("StatefulSet", names.database(event.name))),
        observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name))),
    )
    if any(m and names.CLAIMABLE_ANNOTATION in (m["metadata"].get("annotations") or {}) for m in marks):
        return True
    opened = (c for c in event.status.get("conditions") or () if c["type"] == ConditionType.INTAKE_OPEN)
    return any(c["status"] == "True" or c["reason"] == Intake.WINDOW_CLOSED for c in opened)


def abandoned(event: Event) -> bool:
    """The user gave up the proof, by an annotation that carries the event's own name."""
    return event.annotations.get(names.ABANDON_ANNOTATION) == event.name
