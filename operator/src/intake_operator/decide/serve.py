"""An event whose sale is ahead or under way: provision, open, scale."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.bridge import Installation
from intake_operator.decide import status, wanted
from intake_operator.decide.status import Facts
from intake_operator.decide.steps import AddFinalizer, Plan
from intake_operator.model.spec import IntakeEventSpec

# Bridges start this long before the window opens, so that the first buyer does not wait for an image.
WARM_UP: Final = timedelta(seconds=60)

# How soon to look again, in seconds, where no watch event would tell: DB1's numbers and Secrets are only seen by
# looking.
SOON: Final = 1.0
WHILE_OPEN: Final = 2.0
WHILE_SCHEDULED: Final = 10.0


def serve(facts: Facts, by: Installation) -> Plan:
    """Everything that the sale needs, in its order."""
    event, observed, now = facts.event, facts.observed, facts.now
    assert event.spec is not None
    if names.FINALIZER not in event.finalizers:
        return Plan((AddFinalizer(),), status.build(facts), SOON)
    facts = replace(facts, claimable=wanted.claimable(event, event.spec, observed))
    steps = [*wanted.children(facts, by), *wanted.database_steps(facts)]
    # Added to now: Go's zero time, 0001-01-01, is a way to say `at once`, and nothing can be taken from it.
    warm = now + WARM_UP >= event.spec.window.opens_at or bool(observed.database.depth)
    if observed.database.ready and warm:
        decision, bridges = wanted.bridges(facts, by)
        facts = replace(facts, scaling=decision)
        steps += bridges
    if not observed.database.ready:
        again = SOON
    elif now >= event.spec.window.opens_at:
        again = WHILE_OPEN
    else:
        again = min(WHILE_SCHEDULED, _seconds_until(_next_boundary(event.spec, now), now))
    return Plan(tuple(steps), status.build(facts), again)


def _next_boundary(spec: IntakeEventSpec, now: datetime) -> datetime:
    boundaries = (spec.window.opens_at - WARM_UP, spec.window.opens_at, spec.window.closes_at)
    return min((b for b in boundaries if b > now), default=now)


def _seconds_until(moment: datetime, now: datetime) -> float:
    return max((moment - now).total_seconds(), 0.0)
