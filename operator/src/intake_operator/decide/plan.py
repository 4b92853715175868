"""From what was observed to what is done next: the whole operator without I/O."""

from datetime import datetime, timedelta
from typing import Final

from intake_operator.children.installation import Installation
from intake_operator.decide import status
from intake_operator.decide.facts import Facts
from intake_operator.decide.health.findings import findings
from intake_operator.decide.serve import serve
from intake_operator.decide.stage import Stage, stage_of
from intake_operator.decide.steps import Plan
from intake_operator.decide.teardown import drain, keep, remove
from intake_operator.decide.wait import wait
from intake_operator.model.observed import Event, Observed

# The children of an invalid event go with its namespace, which is not watched.
WHILE_INVALID: Final = timedelta(seconds=10)


def plan(event: Event, observed: Observed, installation: Installation, now: datetime) -> Plan:
    """Decide the next steps for one event. Pure: the same arguments give the same plan.

    The first pass over a new event:

        decided = plan(event, Observed(), installation, datetime.now(UTC))
        decided.steps  # (AddFinalizer(),)
        decided.status["phase"]  # "Pending"
        decided.requeue_after  # timedelta(seconds=1)
    """
    stage = stage_of(event, observed, now)
    facts = Facts(event, observed, stage, now, findings=findings(event, observed, stage, now))
    match stage:
        case Stage.INERT:
            return Plan((), status.build(facts), None)
        case Stage.INVALID:
            return Plan((), status.build(facts), WHILE_INVALID if observed.children else None)
        case Stage.WAIT:
            return wait(facts, installation)
        case Stage.SERVE:
            return serve(facts, installation)
        case Stage.DRAIN:
            return drain(facts, installation)
        case Stage.KEEP:
            return keep(facts, installation)
        case Stage.REMOVE:
            return remove(facts)
