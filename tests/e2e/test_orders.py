"""An order on a real cluster: what the shop sends reaches the ledger, what the ledger says comes back, and no payload
is anywhere else."""

import json
from typing import Any, Final

from tests.e2e import events, namespaces, release, services, sql
from tests.e2e.kube import Kube, eventually

POOL: Final = "orders-pool"
# In every payload of this test, and nowhere else.
MARKER: Final = "Zq7-only-in-payloads"
SETTLED_SECONDS: Final = 60.0


def test_an_order_travels_to_the_ledger_and_its_payload_is_in_no_log_status_or_metric(kube: Kube) -> None:
    webhook = {"url": services.VALIDATOR_URL, "batch": True}
    sale = events.window(opens_in=3, lasts=3600)
    kube.apply(events.event("orders", sale, maxRetries=0, validation={"webhook": webhook}))
    events.await_phase(kube, "orders", "Open", 60)

    # One of them is a dead letter: its slot was sold by hand, and the ledger answers conflict.
    claimed = [_claim(kube, f"buyer-{n}", seats) for n, seats in enumerate([1, 2, 3, 4, 2])]
    _sell_by_hand(kube, slot_no=claimed[0][0]["slot_no"] + 100)
    _claim(kube, "unlucky", 4, after=claimed[0][0]["slot_no"] + 99)
    eventually(lambda: _settled(kube) == len(claimed) + 1, SETTLED_SECONDS, "every claim is settled or dead")

    for seats in claimed:
        ledger = json.loads(sql.in_ledger(kube, _as_the_ledger_has_it(seats[0]["claim_id"])))
        state = ledger.pop("state")
        assert state in {"committed", "voided"}
        if state == "committed":
            assert ledger["payload"]["email"] == MARKER
            assert ledger["validation"]["payment_id"].startswith("pay-")
            assert ledger["slots"] == [seat["slot_no"] for seat in seats]
            assert _receipts(kube, seats[0]["claim_id"]) == [ledger["receipt"]] * len(seats)
    assert _status(kube)["queue"]["deadLetters"] == 1

    found = [place for place, text in _everything_that_is_kept_or_shown(kube) if MARKER in text]
    assert found == []


def _claim(kube: Kube, user: str, seats: int, after: int = 0) -> list[dict[str, Any]]:
    """Claim so many slots with a payload; with `after` only once the sequence has come so far."""
    if after:
        sql.in_database(kube, "orders", f"SELECT setval('intake.numbers_1', {after})")
    payload = json.dumps({"email": MARKER, "payment_token": MARKER})
    script = (
        "SELECT to_jsonb(c) FROM intake.claim_resources("
        f"'{POOL}', '{user}', {seats}, 'r-{user}', payload => '{payload}') c ORDER BY c.slot_no"
    )
    rows = [json.loads(line) for line in sql.in_database(kube, "orders", script).splitlines()]
    assert {row["outcome"] for row in rows} == {"claimed"}
    return rows


def _sell_by_hand(kube: Kube, slot_no: int) -> None:
    sql.in_ledger(
        kube,
        "WITH by_hand AS (INSERT INTO ledger.claims (claim_id, state, pool_id, user_id)"
        f" VALUES (uuidv7(), 'committed', '{POOL}', 'by hand') RETURNING claim_id)"
        " INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id)"
        f" SELECT '{POOL}', {slot_no}, claim_id, uuidv7() FROM by_hand",
    )


def _as_the_ledger_has_it(claim_id: str) -> str:
    return (
        "SELECT jsonb_build_object('state', c.state, 'payload', c.payload, 'validation', c.validation,"
        " 'receipt', c.receipt, 'slots', (SELECT jsonb_agg(s.slot_no ORDER BY s.slot_no)"
        " FROM ledger.sold_slots s WHERE s.claim_id = c.claim_id))"
        f" FROM ledger.claims c WHERE c.claim_id = '{claim_id}'"
    )


def _receipts(kube: Kube, claim_id: str) -> list[Any]:
    script = f"SELECT receipt FROM intake.claim_status('{POOL}', '{claim_id}'::uuid)"
    return [json.loads(line) for line in sql.in_database(kube, "orders", script).splitlines()]


def _status(kube: Kube) -> dict[str, Any]:
    found: dict[str, Any] = kube.get("intakeevent", "orders")["status"]
    return found


def _settled(kube: Kube) -> int:
    status = _status(kube)
    return int(status.get("committed", 0) + status.get("voided", 0) + status.get("queue", {}).get("deadLetters", 0))


def _everything_that_is_kept_or_shown(kube: Kube) -> list[tuple[str, str]]:
    """Every object, Kubernetes event, log line and metric of the namespace and of the operator."""
    found = [("objects", namespaces.dump(kube)), ("describe", kube.kubectl("describe", "intakeevents"))]
    found += [(kind, kube.kubectl("get", kind, "-o", "yaml")) for kind in ("intakeevents", "events", "configmaps")]
    for pod in kube.items("pods"):
        name = pod["metadata"]["name"]
        found.append((f"log of {name}", kube.kubectl("logs", name, "--all-containers", "--prefix")))
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "bridge":
            found.append((f"metrics of {name}", _metrics(kube, name)))
    assert any(place.startswith("metrics of") for place, _ in found), "no bridge was asked for its metrics"
    for pod in release.pods(kube):
        operator = kube.within(pod["metadata"]["namespace"])
        found.append(("log of the operator", operator.kubectl("logs", pod["metadata"]["name"])))
        found.append(("metrics of the operator", _metrics(operator, pod["metadata"]["name"])))
    return found


def _metrics(kube: Kube, pod: str) -> str:
    port = kube.get("pod", pod)["spec"]["containers"][0]["ports"][0]["containerPort"]
    script = f"import urllib.request as u; print(u.urlopen('http://localhost:{port}/metrics').read().decode())"
    shown = kube.execute(pod, "python", "-c", script)
    assert "# HELP" in shown
    return shown
