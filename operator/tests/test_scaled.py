"""The scaler's annotation on the bridges' Deployment: an operator that was restarted knows as much as before."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import given
import pytest
from given import CLOSES, OPENS, Given
from intake_operator import names
from intake_operator.act import Actor
from intake_operator.decide.scaling import COOLDOWN, LOOK_BACK
from intake_operator.decide.steps import ScaleBridges
from intake_operator.model.observed import Manifest
from planning import GOOD_PROOF, SECOND, Decided


@dataclass
class Bridges:
    """The Deployment as the API server keeps it, with the fields of the scaler; a new operator for each pass."""

    sale: Given
    written: Manifest = field(default_factory=dict)

    async def apply(self, manifest: Manifest, field_manager: str, **_: str) -> Manifest:
        assert (manifest["kind"], field_manager) == ("Deployment", names.SCALER_FIELD_MANAGER)
        self.written = manifest
        return manifest

    @property
    def replicas(self) -> int:
        """How many bridges are wanted."""
        return int(self.written["spec"]["replicas"]) if self.written else 0

    def see(self, depth: int, peak: int | None, **status: Any) -> Given:
        """What the next pass observes."""
        seen = self.sale.says(queue={"depth": depth}, peakDepth=peak, **status)
        if not self.written:
            return seen
        seen = seen.bridges(self.replicas)
        deployment = seen.observed.children["Deployment", "taylor-drop-bridge"]
        deployment["metadata"]["annotations"] = self.written["metadata"]["annotations"]
        return seen

    async def once(self, seen: Given, now: datetime) -> Decided:
        """One pass, which does nothing but scale."""
        decided = seen.at(now).plan()
        actor = Actor(self, None, None, None, None, None)  # type: ignore[arg-type]
        for step in decided.all(ScaleBridges):
            await actor.act(step, seen.event, seen.observed, now)
        return decided


@pytest.fixture
def bridges() -> Bridges:
    """No bridge yet; at most eight, one for a thousand intents."""
    return Bridges(given.selling(spec={"bridge": {"minReplicas": 1, "maxReplicas": 8, "backlogPerReplica": 1000}}))


async def test_bridges_are_removed_when_db1_s_peak_and_their_annotation_allow_it(bridges: Bridges) -> None:
    await bridges.once(bridges.see(8000, None), OPENS)
    assert bridges.replicas == 8
    await bridges.once(bridges.see(0, 0), OPENS + LOOK_BACK - SECOND)
    assert bridges.replicas == 8, "the last change is not five minutes old"
    now = OPENS + LOOK_BACK
    await bridges.once(bridges.see(0, 8000), now)
    assert bridges.replicas == 8, "as many were wanted in the last five minutes"
    await bridges.once(bridges.see(0, 2000), now)
    assert bridges.replicas == 6
    await bridges.once(bridges.see(0, 2000), now + COOLDOWN - SECOND)
    assert bridges.replicas == 6
    for step in range(1, 5):
        await bridges.once(bridges.see(0, 2000), now + step * COOLDOWN)
    assert bridges.replicas == 3, "two are enough, and a tenth is kept"
    await bridges.once(bridges.see(5000, 5000), now + 4 * COOLDOWN + SECOND)
    assert bridges.replicas == 5
    await bridges.once(bridges.see(0, 0), now + 5 * COOLDOWN + SECOND)
    assert bridges.replicas == 5


async def test_a_peak_that_db1_missed_is_in_the_annotation(bridges: Bridges) -> None:
    await bridges.once(bridges.see(3000, 0), OPENS)
    await bridges.once(bridges.see(3000, 0), OPENS + LOOK_BACK - SECOND)
    await bridges.once(bridges.see(0, 0), OPENS + LOOK_BACK + SECOND)
    assert bridges.replicas == 3


async def test_the_end_of_a_sale_does_not_wait_for_the_annotation(bridges: Bridges) -> None:
    await bridges.once(bridges.see(8000, 8000), CLOSES - SECOND)
    drained = bridges.see(0, 8000, sealed=True, windowState="closed").seen(proof=GOOD_PROOF)
    decided = await bridges.once(drained, CLOSES + 5 * SECOND)
    assert bridges.replicas == 8
    assert decided.after is not None
    assert decided.after["report"]["committed"] == 8
    await bridges.once(drained.after(decided), CLOSES + 6 * SECOND)
    assert bridges.replicas == 0
