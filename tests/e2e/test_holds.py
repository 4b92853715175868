"""Holds on a real cluster: a bridge ends them, though none is needed for a queue, and the drain waits for the last."""

from typing import Any, Final

from tests.e2e import account, events, sql
from tests.e2e.kube import Kube, condition, eventually

POOL: Final = "holds-pool"
SLOTS: Final = 10
HOLD_SECONDS: Final = 60
# Until a hold is over, then until the next housekeeping of the bridge and the next pass of the operator.
ENDED_SECONDS: Final = HOLD_SECONDS + 60.0


def test_a_hold_is_confirmed_or_ends_and_the_drain_waits_for_the_last(kube: Kube) -> None:
    few = {"minReplicas": 0, "maxReplicas": 1, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
    sale = events.window(opens_in=2, lasts=3600)
    checkout = {"holdSeconds": HOLD_SECONDS}
    kube.apply(events.event("holds", sale, inventorySize=SLOTS, batchSize=5, bridge=few, checkout=checkout))
    events.await_phase(kube, "holds", "Open", 60)
    eventually(lambda: _status(kube)["bridge"]["ready"] == 1, 60, "a bridge runs without a queue")

    ann, bob = _hold(kube, "ann", 2), _hold(kube, "bob", 3)
    eventually(lambda: (_status(kube)["held"], _slots(kube)["held"]) == (2, 5), 20, "two claims hold five slots")
    assert account.ledger_counts(kube, POOL) == (0, 0)
    assert _confirm(kube, "ann", ann) == "confirmed"
    eventually(lambda: account.ledger_counts(kube, POOL) == (1, 0), 60, "the confirmed claim is in the ledger")
    eventually(lambda: _status(kube)["expired"] == 1, ENDED_SECONDS, "the other has ended")
    eventually(lambda: _slots(kube)["available"] == SLOTS - 2, 20, "its slots are for sale again")
    assert _confirm(kube, "bob", bob) == "expired"

    cy, _ = _hold(kube, "cy", 1), _hold(kube, "dan", 4)
    events.close_now(kube, "holds")
    eventually(lambda: _drained(kube)["reason"] == "HoldsPending", 60, "the drain waits for the holds")
    assert "may still be confirmed" in _drained(kube)["message"]
    assert _status(kube)["nextTransitionTime"]
    assert _confirm(kube, "cy", cy) == "confirmed"

    events.await_phase(kube, "holds", "Completed", ENDED_SECONDS + 120)
    report = kube.get("intakeevent", "holds")["status"]["report"]
    ends = {name: report[name] for name in ("claims", "committed", "voided", "released", "expired")}
    assert ends == {"claims": 4, "committed": 2, "voided": 0, "released": 0, "expired": 2}
    assert (report["verified"], report["inventory"]["consumed"]) == (True, 3)
    assert account.ledger_counts(kube, POOL) == (2, 0)


def _hold(kube: Kube, user: str, slots: int) -> str:
    """Claim so many slots; returns the claim's id."""
    claimed = f"intake.claim_resources('{POOL}', '{user}', {slots}, 'r-{user}')"
    answer = sql.in_database(kube, "holds", f"SELECT DISTINCT outcome, claim_id FROM {claimed}")
    outcome, _, claim_id = answer.partition("|")
    assert outcome == "held", answer
    return claim_id


def _confirm(kube: Kube, user: str, claim_id: str) -> str:
    return sql.in_database(kube, "holds", f"SELECT intake.confirm_claim('{POOL}', '{claim_id}', '{user}')")


def _status(kube: Kube) -> dict[str, Any]:
    found: dict[str, Any] = kube.get("intakeevent", "holds")["status"]
    return found


def _slots(kube: Kube) -> dict[str, int]:
    found: dict[str, int] = _status(kube)["inventory"]
    return found


def _drained(kube: Kube) -> dict[str, Any]:
    return condition(kube.get("intakeevent", "holds"), "Drained")
