"""What stays as it is in a sale that is under way, though the operator is of another version by now.

docs/decisions/0003-an-event-keeps-its-version.md says why.
"""

from dataclasses import replace

from intake_operator import names
from intake_operator.children.installation import Installation
from intake_operator.decide import memory
from intake_operator.decide.database_pod import QUIET_BEFORE
from intake_operator.decide.facts import Facts
from intake_operator.decide.stage import Stage, was_claimable


def under_way(facts: Facts) -> bool:
    """Whether nothing may be replaced just because the operator is of another version.

    From a little before the window opens until every claim is settled.
    """
    event, observed = facts.event, facts.observed
    if facts.stage is Stage.DRAIN:
        return True
    if facts.stage is not Stage.SERVE or event.spec is None or not was_claimable(event, observed):
        return False
    sold = bool(observed.database.depth or observed.database.held)
    return sold or facts.now + QUIET_BEFORE >= event.spec.window.opens_at


def keeps_bridges(facts: Facts) -> bool:
    """Whether the bridges stay as they are. Only bridges that have run are worth it."""
    event, observed = facts.event, facts.observed
    if not memory.bridge_image(event, observed):
        return False
    version = observed.database.version
    if version and version.bridges_lack:
        return True
    return under_way(facts) and not event.says(names.UPGRADE_ANNOTATION)


def of_event(facts: Facts, installation: Installation) -> Installation:
    """The installation, with the bridges' image that the event keeps."""
    if not keeps_bridges(facts):
        return installation
    image = memory.bridge_image(facts.event, facts.observed)
    return replace(installation, bridge=replace(installation.bridge, name=image))
