"""Who pays for a refusal, with broken bridges, too; bridge/tests/test_bridge_alike.py has the cases."""

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from mutants import ALL_ALIKE, MUTANTS, SOME_BAD
from nursery import Nursery
from refusing import BREAKS, RAISING
from scene import POOL, Scene, Templates

from tests.patience import MUTANT_SECONDS


def _variants(test: str) -> list[ParameterSet]:
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(None, id="as-written")] + [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == test
    ]


def _environment(scene: Scene) -> dict[str, str]:
    return scene.environment(INTAKE_HTTP_PORT="0", INTAKE_LEDGER_URI=scene.ledger_uri)


@pytest.mark.parametrize("mutant", _variants(ALL_ALIKE))
async def test_a_ledger_that_refuses_everybody_is_told_and_nobody_pays(
    templates: Templates, tmp_path: Path, mutant: str | None
) -> None:
    async with templates.scene_with_ledger(RAISING, *BREAKS) as scene, Nursery(tmp_path, mutant) as nursery:
        if mutant:
            scene.patience = MUTANT_SECONDS
        await scene.configure(maxRetries=0, batchSize=1)
        await scene.claim(5)
        await nursery.start(_environment(scene))
        await scene.until_health("ledger", "down", "different claims failed alike")
        probed = sum(row["read_ct"] for row in (await scene.queue()).values()) + 8

        async def probes() -> bool:
            return sum(row["read_ct"] for row in (await scene.queue()).values()) >= probed

        await scene.until(probes, "it is probed")
        assert await scene.dead() == {}
        await scene.ledger.execute("ALTER TABLE sold ALTER till DROP NOT NULL")
        await scene.until_drained()
        assert (await scene.status())["committed"] == 5


@pytest.mark.parametrize("mutant", _variants(SOME_BAD))
async def test_claims_that_failed_among_good_ones_end_though_nothing_else_is_left(
    templates: Templates, tmp_path: Path, mutant: str | None
) -> None:
    async with templates.scene_with_ledger(RAISING) as scene, Nursery(tmp_path, mutant) as nursery:
        if mutant:
            scene.patience = MUTANT_SECONDS
        await scene.configure(maxRetries=2)
        for number in range(10):
            await scene.rows("SELECT FROM intake.claim_resource(%s, %s)", POOL, f"bad-{number}")
        await scene.claim(10)
        await nursery.start(_environment(scene))
        await scene.until_drained()
        assert len(await scene.dead()) == 10
        assert (await scene.status())["committed"] == 10
