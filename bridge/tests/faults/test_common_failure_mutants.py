"""Whose failure a refusal is, also with broken bridges; test_bridge_fails_for_all.py has the cases."""

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from mutants import ALL_ALIKE, MUTANTS, SOME_BAD
from refusing_ledger import BREAKS, RAISING
from sale import POOL, Sale, Templates
from worker_processes import WorkerProcesses

from tests.patience import MUTANT_SECONDS


def _variants(test: str) -> list[ParameterSet]:
    caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")
    return [pytest.param(None, id="as-written")] + [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), caught])
        for name, mutant in MUTANTS.items()
        if mutant.caught_by == test
    ]


def _environment(sale: Sale) -> dict[str, str]:
    return sale.environment(INTAKE_HTTP_PORT="0", INTAKE_LEDGER_URI=sale.ledger_uri)


@pytest.mark.parametrize("mutant", _variants(ALL_ALIKE))
async def test_when_a_ledger_fails_for_every_claim_no_failure_counts(
    templates: Templates, tmp_path: Path, mutant: str | None
) -> None:
    async with templates.sale_with_ledger(RAISING, *BREAKS) as sale, WorkerProcesses(tmp_path, mutant) as processes:
        if mutant:
            sale.patience = MUTANT_SECONDS
        await sale.configure(maxRetries=0, batchSize=1)
        await sale.claim(5)
        await processes.start(_environment(sale))
        await sale.until_health("ledger", "down", "different claims failed alike")
        probed = sum(row["read_ct"] for row in (await sale.queue()).values()) + 8

        async def probes() -> bool:
            return sum(row["read_ct"] for row in (await sale.queue()).values()) >= probed

        await sale.until(probes, "it is probed")
        assert await sale.dead() == {}
        await sale.ledger.execute("ALTER TABLE sold ALTER till DROP NOT NULL")
        await sale.until_drained()
        assert (await sale.status())["committed"] == 5


@pytest.mark.parametrize("mutant", _variants(SOME_BAD))
async def test_claims_that_failed_among_good_ones_end_when_no_other_claim_is_left(
    templates: Templates, tmp_path: Path, mutant: str | None
) -> None:
    async with templates.sale_with_ledger(RAISING) as sale, WorkerProcesses(tmp_path, mutant) as processes:
        if mutant:
            sale.patience = MUTANT_SECONDS
        await sale.configure(maxRetries=2)
        for number in range(10):
            await sale.rows("SELECT FROM intake.claim_resource(%s, %s)", POOL, f"bad-{number}")
        await sale.claim(10)
        await processes.start(_environment(sale))
        await sale.until_drained()
        assert len(await sale.dead()) == 10
        assert (await sale.status())["committed"] == 10
