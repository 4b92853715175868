"""From what is wanted and what was seen to what is done next: the whole operator, without I/O."""

from datetime import datetime
from typing import Final

from intake_operator.children.bridge import Installation
from intake_operator.decide import status
from intake_operator.decide.health import problems
from intake_operator.decide.serve import serve
from intake_operator.decide.stage import Stage, stage_of
from intake_operator.decide.status import Facts
from intake_operator.decide.steps import Plan
from intake_operator.decide.teardown import drain, keep, release
from intake_operator.model.observed import Event, Observed

# Seconds. What exists of an event that cannot be understood goes with its namespace, which is not watched.
WHILE_INVALID: Final = 10.0


def plan(event: Event, observed: Observed, by: Installation, now: datetime) -> Plan:
    """Decide the next steps for one event. Pure: the same arguments give the same plan."""
    stage = stage_of(event, observed, now)
    facts = Facts(event, observed, stage, now, problems=problems(event, observed, stage, now))
    match stage:
        case Stage.INERT:
            return Plan((), status.build(facts), None)
        case Stage.INVALID:
            return Plan((), status.build(facts), WHILE_INVALID if observed.children else None)
        case Stage.SERVE:
            return serve(facts, by)
        case Stage.DRAIN:
            return drain(facts, by)
        case Stage.KEEP:
            return keep(facts, by)
        case Stage.RELEASE:
            return release(facts)
