"""A volume claim that somebody deleted: the API server takes no new finalizer on it, and a pass must not end there."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from given import UNUSED, pool_told, unmarked
from intake_operator import names
from intake_operator.children.bridge import Installation
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import Apply, Plan, ReplaceDatabasePod, Seal
from intake_operator.model.observed import DatabaseState, Event, Manifest, Observed
from planning import kinds

type Make[T] = Callable[..., T]

KEY = ("PersistentVolumeClaim", "data-taylor-drop-db-0")


def terminating(seen: Observed, finalizers: list[str]) -> Observed:
    """The same with a volume claim that is being deleted."""
    meta = seen.children[KEY]["metadata"] | {"deletionTimestamp": "2026-12-01T18:00:00Z", "finalizers": finalizers}
    return replace(seen, children={**seen.children, KEY: {**seen.children[KEY], "metadata": meta}})


def sent(decided: Plan) -> Manifest:
    """The volume claim that is applied."""
    found: Manifest = next(s.manifest for s in decided.steps if isinstance(s, Apply) and s.manifest["kind"] == KEY[0])
    return found


def test_i11_the_volume_claim_is_held_as_soon_as_claims_may_exist(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
) -> None:
    e = event(status=pool_told())
    seen = observed(e, database=DatabaseState(reachable=True, identity="7251"), pool=UNUSED)
    fresh = replace(seen, children=unmarked(seen.children))
    assert sent(plan(e, fresh, installation, opens))["metadata"].get("finalizers") == [names.FINALIZER]
    waits = plan(e, replace(fresh, pool=None), installation, opens)
    assert "finalizers" not in sent(waits)["metadata"], "nothing was sold, so nothing holds it"


@pytest.mark.parametrize("deleted", [False, True])
def test_no_finalizer_is_put_on_a_volume_claim_that_is_being_deleted(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime, deleted: bool
) -> None:
    """Else that step is refused for ever, and nothing after it is done: no scaling, no seal, no drain."""
    e = event(deleted_at=opens if deleted else None)
    decided = plan(e, terminating(observed(e), ["kubernetes.io/pvc-protection"]), installation, opens)
    assert "finalizers" not in sent(decided)["metadata"]
    assert any(isinstance(s, Seal) for s in decided.steps) is deleted
    held = plan(e, terminating(observed(e), [names.FINALIZER]), installation, opens)
    assert sent(held)["metadata"].get("finalizers") == [names.FINALIZER], "one that it has stays"


def test_i11_nothing_is_sold_from_a_volume_whose_claim_is_being_deleted_and_both_are_made_anew(
    event: Make[Event], observed: Make[Observed], installation: Installation, opens: datetime
) -> None:
    e = event(status=pool_told())
    seen = observed(e, database=DatabaseState(reachable=True, identity="7251"), pool=UNUSED)
    going = terminating(replace(seen, children=unmarked(seen.children)), ["kubernetes.io/pvc-protection"])
    decided = plan(e, going, installation, opens - timedelta(hours=1))
    assert "Seed" not in kinds(decided)
    assert "database" not in decided.status
    assert [s.pod for s in decided.steps if isinstance(s, ReplaceDatabasePod)] == ["taylor-drop-database-0"]
    # Once it was claimable its pod is left alone: it is the last that speaks for these bytes.
    sold = plan(e, terminating(observed(e), [names.FINALIZER]), installation, opens)
    assert not any(isinstance(s, ReplaceDatabasePod) for s in sold.steps)
