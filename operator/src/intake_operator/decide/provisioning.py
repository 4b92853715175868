"""When provisioning began, and whether that was late: what has begun is remembered in `status.provisioning`."""

from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator.decide.facts import Facts
from intake_operator.decide.stage import Stage, begun, lead_time, provision_at
from intake_operator.model.observed import Event
from intake_operator.model.spec import IntakeEventSpec

# A pass comes to the second. A restart of the operator, or a full work queue, takes less than this.
PUNCTUAL: Final = timedelta(minutes=1)


def record(facts: Facts) -> dict[str, Any] | None:
    """`status.provisioning`, to be written before the first step; None while the event waits.

    It stays unknown for an event whose status was lost after provisioning had begun.
    """
    event, known = facts.event, facts.event.status.get("provisioning")
    if facts.stage is Stage.WAIT:
        return None
    if facts.stage is not Stage.SERVE or known or begun(event, facts.observed):
        return known
    assert event.spec is not None
    due, now = _due(event, event.spec, facts.now), facts.now
    return {"dueAt": due.isoformat(timespec="seconds"), "beganAt": now.isoformat(timespec="seconds")}


def lateness(facts: Facts) -> str:
    """How late provisioning began, and why, as the end of a message; empty if it began in time."""
    known = record(facts)
    if facts.stage is not Stage.SERVE or not known:
        return ""
    due, began = (datetime.fromisoformat(known[name]) for name in ("dueAt", "beganAt"))
    if began - due <= PUNCTUAL:
        return ""
    return (
        f"; provisioning began {(began - due) // timedelta(minutes=1)} minutes late, at {known['beganAt']} instead of "
        f"{known['dueAt']}, because no pass came in time: the operator was down, or could not reach the API server"
    )


def _due(event: Event, spec: IntakeEventSpec, now: datetime) -> datetime:
    """When provisioning should have begun. When an edit was made that no pass has seen yet, nobody knows."""
    if event.status.get("observedGeneration", 1) != event.generation:
        return now
    early = event.created_at + lead_time(spec) < spec.window.opens_at
    return provision_at(spec) if early else event.created_at
