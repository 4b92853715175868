"""An event whose sale is ahead or under way: provision, open, scale."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.installation import Installation
from intake_operator.decide import desired, status
from intake_operator.decide.consistency import comparison
from intake_operator.decide.facts import Facts
from intake_operator.decide.steps import AddFinalizer, Plan
from intake_operator.model.spec import IntakeEventSpec

# Bridges start this long before the window opens, so that the first buyer does not wait for an image.
WARM_UP: Final = timedelta(seconds=60)

# How often to look again. No watch tells of DB1's numbers and of Secrets.
SOON: Final = timedelta(seconds=1)
WHILE_OPEN: Final = timedelta(seconds=2)
WHILE_SCHEDULED: Final = timedelta(seconds=10)


def serve(facts: Facts, installation: Installation) -> Plan:
    """Everything that the sale needs, in order."""
    event, observed, now = facts.event, facts.observed, facts.now
    assert event.spec is not None
    if names.FINALIZER not in event.finalizers:
        return Plan((AddFinalizer(),), status.build(facts), SOON)
    facts = replace(facts, claimable=desired.claimable(event, event.spec, observed))
    todo = [*comparison(event, observed), *desired.children(facts, installation), *desired.database_steps(facts)]
    # Added to now: some users write Go's zero time, 0001-01-01, for `at once`, and nothing can be subtracted from it.
    near = now + WARM_UP >= event.spec.window.opens_at
    warm = near or bool(observed.database.depth or observed.database.held)
    if observed.database.ready and warm:
        decision, bridges = desired.bridges(facts, installation)
        facts = replace(facts, scaling=decision)
        todo += bridges
    if observed.database.ready:
        todo += desired.appended_sql(facts)
    if not observed.database.ready:
        again = SOON
    elif now >= event.spec.window.opens_at:
        again = WHILE_OPEN
    else:
        again = min(WHILE_SCHEDULED, max(_next_boundary(event.spec, now) - now, timedelta(0)))
    return Plan(tuple(todo), status.build(facts), again)


def _next_boundary(spec: IntakeEventSpec, now: datetime) -> datetime:
    boundaries = (spec.window.opens_at - WARM_UP, spec.window.opens_at, spec.window.closes_at)
    return min((b for b in boundaries if b > now), default=now)
