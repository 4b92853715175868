"""An event whose window is far away: nothing runs, the shop can be deployed, and what the sale needs is checked."""

from datetime import timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.installation import Installation
from intake_operator.decide import desired, preflight, status
from intake_operator.decide.facts import Facts
from intake_operator.decide.stage import lead_time
from intake_operator.decide.steps import AddFinalizer, CheckAhead, Plan, Step

SOON: Final = timedelta(seconds=1)
# No watch tells of Secrets. An event may wait for weeks, and a thousand may wait beside it.
WHILE_WAITING: Final = timedelta(minutes=5)


def wait(facts: Facts, installation: Installation) -> Plan:
    """Secrets, Services and the anchor, so that web back ends can be deployed; nothing that runs."""
    event = facts.event
    assert event.spec is not None
    if names.FINALIZER not in event.finalizers:
        return Plan((AddFinalizer(),), status.build(facts), SOON)
    todo: list[Step] = [CheckAhead()] if facts.observed.preflight_due else []
    todo += desired.children(facts, installation)
    left = event.spec.window.opens_at - (facts.now + lead_time(event.spec))
    rest = preflight.rest(facts.observed.preflight)
    again = min(WHILE_WAITING, rest) if desired.has_credentials(event, facts.observed) else SOON
    return Plan(tuple(todo), status.build(facts), min(again, left))
