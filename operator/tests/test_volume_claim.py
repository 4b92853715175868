"""A volume claim that was deleted: the API server takes no new finalizer on it, and a pass must not end there."""

import given
import pytest
from given import OPENS, UNUSED, VOLUME_CLAIM, Given, pool_announced
from intake_operator import names
from intake_operator.decide.steps import ReplaceDatabasePod, Seal

PROTECTION = "kubernetes.io/pvc-protection"


def terminating(sale: Given, finalizer: str) -> Given:
    """The same with a volume claim that is being deleted."""
    claim = sale.observed.children[VOLUME_CLAIM]
    meta = claim["metadata"] | {"deletionTimestamp": OPENS.isoformat(), "finalizers": [finalizer]}
    return sale.child(VOLUME_CLAIM, claim | {"metadata": meta})


def unseeded() -> Given:
    """DB1 is reachable, and its pool may be sold."""
    sale = given.selling(status=pool_announced()).unmarked().seen(pool=UNUSED)
    return sale.new_db1(reachable=True, identity="7251")


def finalizers(sale: Given) -> list[str]:
    """The finalizers of the volume claim that is applied."""
    (claim,) = sale.plan().applied("PersistentVolumeClaim")
    return list(claim["metadata"].get("finalizers", []))


def test_i11_the_volume_claim_has_our_finalizer_as_soon_as_claims_may_exist() -> None:
    assert finalizers(unseeded()) == [names.FINALIZER]
    assert finalizers(unseeded().seen(pool=None)) == [], "nothing was sold, so no finalizer is needed"


@pytest.mark.parametrize("deleted_at", [None, OPENS], ids=["stays", "deleted"])
def test_no_finalizer_is_put_on_a_volume_claim_that_is_being_deleted(deleted_at: object) -> None:
    """Else the step would fail for ever, and no later step would be done: no scaling, no seal, no drain."""
    sale = terminating(given.selling(deleted_at=deleted_at), PROTECTION)
    assert finalizers(sale) == []
    assert bool(sale.plan().all(Seal)) is (deleted_at is not None)
    assert finalizers(terminating(sale, names.FINALIZER)) == [names.FINALIZER], "one that it has stays"


def test_i11_nothing_is_sold_from_a_volume_whose_claim_is_being_deleted_and_both_are_replaced() -> None:
    decided = terminating(unseeded(), PROTECTION).plan()
    assert "Seed" not in decided.kinds
    assert "database" not in decided.status
    assert [step.pod for step in decided.all(ReplaceDatabasePod)] == ["taylor-drop-database-0"]
    # Once DB1 was claimable, its pod is left alone: no other pod could mount this volume.
    assert not terminating(given.selling(), names.FINALIZER).plan().all(ReplaceDatabasePod)
