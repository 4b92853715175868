"""What the decisions of one pass are made of, and the status of the event with them."""

from dataclasses import dataclass
from datetime import datetime

from intake_operator.decide.health.finding import Finding
from intake_operator.decide.scaling import Decision
from intake_operator.decide.stage import Stage
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import DrainReason, Phase


@dataclass(frozen=True)
class Facts:
    """One event, what was observed of it, and what has been decided so far.

    The teardown sets `drain`. `scaling` is set once the event wants bridges. `claimable` is the identity of the DB1
    that is claimable from this pass on; empty while there is none.
    """

    event: Event
    observed: Observed
    stage: Stage
    now: datetime
    findings: tuple[Finding, ...] = ()
    drain: DrainReason = DrainReason.NOT_STARTED
    scaling: Decision | None = None
    claimable: str = ""

    @property
    def settled(self) -> bool:
        """Every claim is settled, or there is none: others may remove what is left."""
        return self.stage in {Stage.KEEP, Stage.REMOVE}

    @property
    def phase(self) -> Phase:
        """One word for the Phase column."""
        match self.stage:
            case Stage.INERT:
                return Phase.COMPLETED
            case Stage.INVALID:
                return Phase.FAILED
            case Stage.REMOVE:
                return Phase.COMPLETED if self.drain is DrainReason.COMPLETED else Phase.DRAINING
            case Stage.DRAIN | Stage.KEEP:
                return Phase.DRAINING
            case Stage.WAIT:
                return Phase.WAITING
            case Stage.SERVE:
                return self._serving_phase()

    def _serving_phase(self) -> Phase:
        assert self.event.spec is not None
        if not self.observed.children:
            return Phase.PENDING
        if not self.observed.database.ready:
            return Phase.PROVISIONING
        return Phase.OPEN if self.now >= self.event.spec.window.opens_at else Phase.SCHEDULED
