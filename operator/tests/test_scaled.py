"""From what is seen to what stands on the bridges' Deployment, and back: an operator that begins anew knows as much."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest
from intake_operator import names
from intake_operator.act import Actor
from intake_operator.children import kinship
from intake_operator.children.bridge import Installation
from intake_operator.children.bridge import deployment as bridge_deployment
from intake_operator.decide.plan import plan
from intake_operator.decide.scaling import COOLDOWN, LOOK_BACK
from intake_operator.decide.steps import Plan, ScaleBridges
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.model.spec import IntakeEventSpec
from planning import GOOD_PROOF, SECOND, with_status

type Make[T] = Callable[..., T]


@dataclass
class Bridges:
    """The Deployment as the API server keeps it, with what the scaler alone writes; a new operator for each pass."""

    event: Event
    observed: Observed
    installation: Installation
    engine_status: Make[EngineStatus]
    written: Manifest = field(default_factory=dict)

    async def apply(self, manifest: Manifest, field_manager: str, **_: str) -> Manifest:
        assert (manifest["kind"], field_manager) == ("Deployment", names.SCALER_FIELD_MANAGER)
        self.written = manifest
        return manifest

    @property
    def replicas(self) -> int:
        """How many there are to be."""
        return int(self.written["spec"]["replicas"]) if self.written else 0

    def see(self, depth: int, peak: int | None, **status: Any) -> Observed:
        """The next look."""
        queue = {"depth": depth, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0}
        seen = with_status(self.observed, self.engine_status(queue=queue, peakDepth=peak, **status))
        if not self.written:
            return seen
        assert self.event.spec is not None
        anchor = seen.children["NetworkPolicy", names.database(self.event.name)]
        made = kinship.as_child(
            bridge_deployment(self.event, self.event.spec, self.installation, {}), self.event, anchor, "g"
        )
        made["spec"]["replicas"] = self.replicas
        made["metadata"]["annotations"] = self.written["metadata"]["annotations"]
        return replace(seen, children={**seen.children, ("Deployment", names.bridge(self.event.name)): made})

    async def once(self, seen: Observed, now: datetime) -> Plan:
        """One pass, of which only the scaling is carried out."""
        decided = plan(self.event, seen, self.installation, now)
        actor = Actor(self, None, None, None)  # type: ignore[arg-type]
        for step in decided.steps:
            if isinstance(step, ScaleBridges):
                await actor.act(step, self.event, seen, now)
        return decided


@pytest.fixture
def bridges(
    event: Make[Event],
    spec: Make[IntakeEventSpec],
    observed: Make[Observed],
    engine_status: Make[EngineStatus],
    installation: Installation,
) -> Bridges:
    """None yet; at most eight, one for a thousand."""
    e = event(spec=spec(bridge={"minReplicas": 1, "maxReplicas": 8, "backlogPerReplica": 1000}))
    return Bridges(e, observed(e), installation, engine_status)


async def test_bridges_stay_until_db1_and_what_is_written_on_them_let_them_go(
    bridges: Bridges, opens: datetime
) -> None:
    await bridges.once(bridges.see(8000, None), opens)
    assert bridges.replicas == 8
    await bridges.once(bridges.see(0, 0), opens + LOOK_BACK - SECOND)
    assert bridges.replicas == 8, "they have not been there for long"
    now = opens + LOOK_BACK
    await bridges.once(bridges.see(0, 8000), now)
    assert bridges.replicas == 8, "as many were wanted lately"
    await bridges.once(bridges.see(0, 2000), now)
    assert bridges.replicas == 6
    await bridges.once(bridges.see(0, 2000), now + COOLDOWN - SECOND)
    assert bridges.replicas == 6
    for step in range(1, 5):
        await bridges.once(bridges.see(0, 2000), now + step * COOLDOWN)
    assert bridges.replicas == 3, "two, and a tenth to spare"
    await bridges.once(bridges.see(5000, 5000), now + 4 * COOLDOWN + SECOND)
    assert bridges.replicas == 5
    await bridges.once(bridges.see(0, 0), now + 5 * COOLDOWN + SECOND)
    assert bridges.replicas == 5


async def test_what_db1_missed_is_written_on_them(bridges: Bridges, opens: datetime) -> None:
    await bridges.once(bridges.see(3000, 0), opens)
    await bridges.once(bridges.see(3000, 0), opens + LOOK_BACK - SECOND)
    await bridges.once(bridges.see(0, 0), opens + LOOK_BACK + SECOND)
    assert bridges.replicas == 3


async def test_the_end_of_a_sale_waits_for_no_bridge_that_rests(bridges: Bridges, closes: datetime) -> None:
    await bridges.once(bridges.see(8000, 8000), closes - SECOND)
    drained = replace(bridges.see(0, 8000, sealed=True, windowState="closed"), proof=GOOD_PROOF)
    decided = await bridges.once(drained, closes + 5 * SECOND)
    assert bridges.replicas == 8
    assert decided.after is not None
    assert decided.after["report"]["committed"] == GOOD_PROOF.account.ended.committed
    bridges.event = replace(bridges.event, status=decided.after)
    await bridges.once(drained, closes + 6 * SECOND)
    assert bridges.replicas == 0
