"""The admin API and its command: dead letters, and the comparison with the ledger."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from tests.e2e import events, release, services, sql
from tests.e2e.admin_users import AdminUsers, create_admin_user
from tests.e2e.kube import Kube, await_rollout, condition, eventually

EVENT: Final = "letters"
POOL: Final = "letters-pool"
# What every buyer sends along. Only users with the right to payloads may see it.
MARKER: Final = "marker-letters@example.com"
SEATS: Final = 8
REFUSED: Final = 6

LEDGER_CONSISTENT: Final = "LedgerConsistent"

OPERATOR: Final = ("-n", release.NAMESPACE)


@contextmanager
def admin_api(kube: Kube) -> Iterator[str]:
    """The URL of the admin API, through `kubectl port-forward`."""
    command = ["kubectl", f"--context={kube.context}", *OPERATOR, "port-forward", f"deploy/{release.RELEASE}", ":8081"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            address = forward.stdout.readline().split()[2]
            yield f"http://{address}/v1alpha1/namespaces/{kube.namespace}/intakeevents"
        finally:
            forward.terminate()


@pytest.fixture(scope="module")
def kube(shared_namespace: Kube) -> Kube:
    """A namespace that the tests of this module share, with a ledger in it."""
    services.start_ledger(shared_namespace)
    await_rollout(shared_namespace, "statefulset/core-ledger")
    return shared_namespace


@pytest.fixture(scope="module")
def users(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> AdminUsers:
    """An administrator, an editor, a viewer, and a user without a role."""
    folder = tmp_path_factory.mktemp("tokens")
    roles = {"admin": "admin", "editor": "edit", "viewer": "view", "no-role": ""}
    return {name: create_admin_user(kube, folder, name, role) for name, role in roles.items()}


@pytest.fixture
def with_dead_letters(kube: Kube) -> Kube:
    """An open sale of eight slots with six dead letters: an administrator sold their slots in the ledger by hand."""
    by_hand = (
        "WITH by_hand AS (INSERT INTO ledger.claims (claim_id, state, pool_id, user_id, request_id)"
        f" SELECT uuidv7(), 'committed', '{POOL}', 'by hand', n FROM generate_series(1, {REFUSED}) n"
        " RETURNING claim_id, pool_id, request_id)"
        " INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id)"
        " SELECT pool_id, request_id::bigint, claim_id, uuidv7() FROM by_hand"
    )
    # After the opening, because a pool with rows in the ledger does not open.
    open_sale(kube, EVENT)
    sql.in_ledger(kube, by_hand)
    buy(kube, EVENT, REFUSED)
    eventually(lambda: dead(kube) == REFUSED, 60, "there are six dead letters")
    eventually(lambda: reason(kube, EVENT, "Degraded") == "DeadLetters", 60, "Degraded says so")
    return kube


def test_a_user_with_the_right_may_replay_and_discard_dead_letters(with_dead_letters: Kube, users: AdminUsers) -> None:
    editor, viewer, no_role = users["editor"], users["viewer"], users["no-role"]
    kube = with_dead_letters

    with admin_api(kube) as url, httpx.Client(base_url=url) as http:
        letters = http.get(f"{EVENT}/deadletters", headers=viewer.headers).json()["items"]
        assert [letter["state"] for letter in letters] == ["validated"] * REFUSED
        slots = sorted(seat["slot_no"] for letter in letters for seat in letter["seats"])
        assert slots == list(range(1, REFUSED + 1))
        assert MARKER not in json.dumps(letters)
        assert http.get(f"{EVENT}/deadletters", headers=viewer.headers).json()["items"] == letters
        ids = [letter["id"] for letter in letters]
        page = http.get(f"{EVENT}/deadletters?limit=4&continue={ids[1]}", headers=viewer.headers).json()
        assert ([each["id"] for each in page["items"]], page["metadata"]["continue"]) == (ids[2:6], str(ids[5]))

        one: dict[str, Any] = {"ids": ids[:1], "reason": "ledger repaired"}
        replay, discard = f"{EVENT}/deadletters/replay", f"{EVENT}/deadletters/discard"
        for path, headers, code in (
            (replay, {}, 401),
            (replay, {"Authorization": "Bearer rubbish"}, 401),
            (replay, no_role.headers, 403),
            (replay, viewer.headers, 403),
            (discard, viewer.headers, 403),
            (f"{EVENT}/deadletters/payloads", viewer.headers, 403),
            (f"{EVENT}/deadletters/payloads", editor.headers, 403),
            (replay, viewer.headers, 403),
        ):
            refusal = http.post(path, headers=headers, json=one)
            assert (refusal.status_code, refusal.json()["kind"]) == (code, "Status"), refusal.text
        assert http.get(f"{EVENT}/deadletters", headers=no_role.headers).status_code == 403
        assert "viewer' cannot update resource intakeevents/deadletters" in refusal.json()["message"]
        assert http.get("no-such-event/deadletters", headers=editor.headers).status_code == 404
        for body, named in (
            ({"ids": [1]}, "reason"),
            ({"ids": [], "reason": "x"}, "ids"),
            ({"ids": [1], "reason": "x", "actor": "another user"}, "actor"),
        ):
            refusal = http.post(replay, headers=editor.headers, json=body)
            assert (refusal.status_code, refusal.json()["details"]["causes"][0]["field"]) == (422, named)
        assert dead(kube) == REFUSED, "a kube call changed a dead letter"

        removed = _remove(kube, "by hand", POOL)
        assert len(removed.splitlines()) == REFUSED
        assert http.post(replay, headers=editor.headers, json=one).json()["replayed"] == ids[:1]
        again = http.post(replay, headers=editor.headers, json=one).json()
        assert (again["replayed"], again["gone"]) == ([], ids[:1])
    eventually(lambda: sold(kube) == [letters[0]["claimId"]], 60, "the claim that was replayed is committed")

    code, output = viewer.command("dead-letters", "list", EVENT)
    assert (code, [line.split()[0] for line in output.splitlines()][:2]) == (0, ["COUNT", str(REFUSED - 1)]), output
    code, output = viewer.command("dead-letters", "list", EVENT, "--wide")
    assert (code, len(output.splitlines()), "LABEL" in output) == (0, REFUSED, True), output
    payloads_are_for_administrators(users, ids[1])
    code, output = viewer.command("dead-letters", "discard", EVENT, str(ids[1]), "--reason=x")
    assert (code, "forbidden" in output) == (3, True), output
    # They are conflicts, whose slots would else be withheld.
    discarding = ("dead-letters", "discard", EVENT, str(ids[1]), str(ids[0]), "--return-conflicts")
    code, output = editor.command(*discarding, "--reason=a bot")
    assert (code, output.splitlines()) == (1, ["1 discarded", f"not dead letters (any more): {ids[0]}"])
    assert sql.in_ledger(kube, "SELECT claim_id FROM ledger.claims WHERE state = 'voided'") == letters[1]["claimId"]
    code, output = editor.command("dead-letters", "replay", EVENT, "--all", "--reason=ledger repaired")
    assert (code, output) == (0, f"{REFUSED - 2} replayed\n")
    eventually(lambda: len(sold(kube)) == REFUSED - 1, 60, "the other claims are committed")
    eventually(lambda: reason(kube, EVENT, "Degraded") == "AsExpected", 60, "the event is not degraded")
    assert kube.get("intakeevent", EVENT)["status"]["inventory"]["available"] == SEATS - REFUSED + 1

    code, output = viewer.command("audit", EVENT, "-o", "json")
    assert MARKER not in output + kube.kubectl(*OPERATOR, "logs", f"deploy/{release.RELEASE}")
    account = f"system:serviceaccount:{kube.namespace}:editor"
    administrator = f"system:serviceaccount:{kube.namespace}:admin"
    audit = [(entry["action"], entry["actor"], entry["reason"]) for entry in json.loads(output)["items"]]
    assert audit == [
        ("replay", account, "ledger repaired"),
        ("discard", account, "a bot"),
        ("show payloads", "intake-operator", f"sent to void_claim for {account}: a bot"),
        ("show payloads", administrator, "a refund"),
        ("replay", account, "ledger repaired"),
        ("replay", account, "ledger repaired"),
    ]


def test_a_claim_that_is_deleted_from_the_ledger_is_reported_until_it_is_restored(
    kube: Kube, users: AdminUsers
) -> None:
    open_sale(kube, "proven")
    buy(kube, "proven", 3)
    eventually(lambda: len(sold(kube, "proven-pool")) == 3, 60, "three claims are committed")
    # The operator compares by itself while the queue is empty.
    eventually(
        lambda: reason(kube, "proven", LEDGER_CONSISTENT) == "LedgerAgrees",
        60,
        "LedgerConsistent says that the ledger agrees",
    )
    assert users["viewer"].command("reconcile", "proven")[0] == 3, (
        "a viewer may not compare: it reads both databases whole"
    )
    code, output = users["editor"].command("reconcile", "proven")
    assert (code, output.split(":")[0]) == (0, "True LedgerAgrees"), output

    victim = _remove(kube, "buyer-2", "proven-pool")
    code, output = users["editor"].command("reconcile", "proven", "-o", "json")
    (violation,) = json.loads(output)["violations"]
    assert (code, violation["invariant"], victim in violation["detail"]) == (1, "I2", True), output
    eventually(lambda: reason(kube, "proven", "Degraded") == "LedgerInconsistent", 60, "Degraded says so")

    kube.patch("intakeevent", "proven", {"spec": {"window": {"closesAt": events.window(0, 0)["closesAt"]}}})
    eventually(lambda: reason(kube, "proven", "Drained") == "ProofFailed", 60, "the proof fails, so nothing is removed")
    assert victim in condition(kube.get("intakeevent", "proven"), "Drained")["message"]

    claim = sql.in_database(
        kube, "proven", f"SELECT message FROM intake.intents WHERE message->>'claim_id' = '{victim}'"
    )
    assert sql.in_ledger(kube, f"SELECT finalize_transaction('{claim}') ->> 'outcome'") == "committed"
    done = events.await_phase(kube, "proven", "Completed", 60)
    assert (condition(done, LEDGER_CONSISTENT)["status"], condition(done, "Degraded")["reason"]) == (
        "True",
        "AsExpected",
    )
    report = kube.get("configmap", "proven-report")["data"]
    assert [json.loads(line)["action"] for line in report["audit"].splitlines()] == ["seal"], (
        "the report keeps the audit log after DB1 is gone"
    )
    code, output = users["editor"].command("dead-letters", "list", "proven")
    assert (code, "in the report" in output) == (4, True), output


def payloads_are_for_administrators(users: AdminUsers, letter: int) -> None:
    """What came with a dead letter is shown to an administrator, and not to an editor."""
    code, output = users["editor"].command("dead-letters", "payloads", EVENT, str(letter), "--reason=curious")
    assert (code, "forbidden" in output, MARKER in output) == (3, True, False), output
    code, output = users["admin"].command("dead-letters", "payloads", EVENT, str(letter), "--reason=a refund")
    assert (code, output.split()[3:6]) == (0, [str(letter), '{"e-mail":', f'"{MARKER}"}}']), output


def open_sale(kube: Kube, event: str) -> None:
    """A small open sale."""
    kube.apply(events.event(event, events.window(opens_in=0, lasts=3600), inventorySize=SEATS, batchSize=5))
    events.await_phase(kube, event, "Open", 60)


def buy(kube: Kube, event: str, buyers: int) -> None:
    """Claim so many slots, each for another user."""
    claims = (
        f"SELECT count(*) FROM generate_series(1, {buyers}) n,"
        f" intake.claim_resource('{event}-pool', 'buyer-' || n, 'r' || n, '{{\"e-mail\": \"{MARKER}\"}}')"
    )
    sql.in_database(kube, event, claims)


def _remove(kube: Kube, user: str, pool: str) -> str:
    """Delete the claims of a user from the ledger, with their slots; return their ids."""
    return sql.in_ledger(
        kube,
        f"WITH gone AS (DELETE FROM ledger.claims WHERE user_id = '{user}' AND pool_id = '{pool}' RETURNING claim_id)"
        " DELETE FROM ledger.sold_slots s USING gone g WHERE s.claim_id = g.claim_id RETURNING s.claim_id",
    )


def reason(kube: Kube, event: str, kind: str) -> str:
    return str(condition(kube.get("intakeevent", event), kind)["reason"])


def dead(kube: Kube) -> int:
    return int(sql.in_database(kube, EVENT, f"SELECT count(*) FROM intake.dead_letters('{POOL}')"))


def sold(kube: Kube, pool: str = POOL) -> list[str]:
    query = f"SELECT claim_id FROM ledger.claims WHERE state = 'committed' AND pool_id = '{pool}'"
    return sql.in_ledger(kube, query).splitlines()
