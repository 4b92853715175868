"""What people do with the admin API and its command: dead letters, and the comparison with the ledger."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from tests.e2e import stage
from tests.e2e.kube import Kube, condition, eventually
from tests.e2e.people import People, person

EVENT: Final = "letters"
POOL: Final = "letters-pool"
SEATS: Final = 8
REFUSED: Final = 6

LEDGER: Final = "LedgerConsistent"

OPERATOR: Final = ("-n", stage.OPERATOR_NAMESPACE)


@contextmanager
def admin_api(kube: Kube) -> Iterator[str]:
    """The URL of the admin API, through `kubectl port-forward`."""
    command = ["kubectl", f"--context={kube.context}", *OPERATOR, "port-forward", f"deploy/{stage.RELEASE}", ":8081"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            address = forward.stdout.readline().split()[2]
            yield f"http://{address}/v1alpha1/namespaces/{kube.namespace}/intakeevents"
        finally:
            forward.terminate()


@pytest.fixture(scope="module")
def books(shared: Kube) -> Kube:
    """A namespace with a ledger in it."""
    stage.start_ledger(shared)
    stage.await_rollout(shared, "statefulset/core-ledger")
    return shared


@pytest.fixture(scope="module")
def people(books: Kube, tmp_path_factory: pytest.TempPathFactory) -> People:
    """An editor, a viewer and a stranger."""
    folder = tmp_path_factory.mktemp("tokens")
    roles = {"editor": "edit", "viewer": "view", "stranger": ""}
    return {name: person(books, folder, name, role) for name, role in roles.items()}


@pytest.fixture
def refused(books: Kube) -> Kube:
    """A sale with two seats left, and six that the ledger refuses: there somebody has sold them by hand."""
    by_hand = (
        "WITH by_hand AS (INSERT INTO ledger.claims (claim_id, state, pool_id, user_id, request_id)"
        f" SELECT uuidv7(), 'committed', '{POOL}', 'by hand', n FROM generate_series(1, {REFUSED}) n"
        " RETURNING claim_id, pool_id, request_id)"
        " INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id)"
        " SELECT pool_id, request_id::bigint, claim_id, uuidv7() FROM by_hand"
    )
    # After the opening: a pool that the ledger knows already is not opened.
    open_sale(books, EVENT)
    stage.ledger(books, by_hand)
    buy(books, EVENT, REFUSED)
    eventually(lambda: dead(books) == REFUSED, 60, "six claims gave up")
    eventually(lambda: reason(books, EVENT, "Degraded") == "DeadLetters", 60, "it is said")
    return books


def test_dead_letters_are_replayed_and_discarded_by_those_who_may(refused: Kube, people: People) -> None:
    editor, viewer, stranger = people["editor"], people["viewer"], people["stranger"]

    with admin_api(refused) as url, httpx.Client(base_url=url) as http:
        letters = http.get(f"{EVENT}/deadletters", headers=viewer.headers).json()["items"]
        assert [letter["state"] for letter in letters] == ["validated"] * REFUSED
        assert http.get(f"{EVENT}/deadletters", headers=viewer.headers).json()["items"] == letters
        ids = [letter["id"] for letter in letters]
        page = http.get(f"{EVENT}/deadletters?limit=4&continue={ids[1]}", headers=viewer.headers).json()
        assert ([each["id"] for each in page["items"]], page["metadata"]["continue"]) == (ids[2:6], str(ids[5]))

        one: dict[str, Any] = {"ids": ids[:1], "reason": "ledger mended"}
        replay, discard = f"{EVENT}/deadletters/replay", f"{EVENT}/deadletters/discard"
        for path, headers, code in (
            (replay, {}, 401),
            (replay, {"Authorization": "Bearer rubbish"}, 401),
            (replay, stranger.headers, 403),
            (replay, viewer.headers, 403),
            (discard, viewer.headers, 403),
        ):
            refusal = http.post(path, headers=headers, json=one)
            assert (refusal.status_code, refusal.json()["kind"]) == (code, "Status"), refusal.text
        assert http.get(f"{EVENT}/deadletters", headers=stranger.headers).status_code == 403
        assert "viewer' cannot update resource intakeevents/deadletters" in refusal.json()["message"]
        assert http.get("nobody/deadletters", headers=editor.headers).status_code == 404
        for body, named in (
            ({"ids": [1]}, "reason"),
            ({"ids": [], "reason": "x"}, "ids"),
            ({"ids": [1], "reason": "x", "actor": "somebody else"}, "actor"),
        ):
            refusal = http.post(replay, headers=editor.headers, json=body)
            assert (refusal.status_code, refusal.json()["details"]["causes"][0]["field"]) == (422, named)
        assert dead(refused) == REFUSED, "nothing of this changed anything"

        removed = _remove(refused, "by hand", POOL)
        assert len(removed.splitlines()) == REFUSED
        assert http.post(replay, headers=editor.headers, json=one).json()["replayed"] == ids[:1]
        again = http.post(replay, headers=editor.headers, json=one).json()
        assert (again["replayed"], again["gone"]) == ([], ids[:1])
    eventually(lambda: sold(refused) == [letters[0]["claimId"]], 60, "the claim that was replayed is committed")

    code, told = viewer.command("dead-letters", "list", EVENT)
    assert (code, [line.split()[0] for line in told.splitlines()][:2]) == (0, ["COUNT", str(REFUSED - 1)]), told
    code, told = viewer.command("dead-letters", "list", EVENT, "--wide")
    assert (code, len(told.splitlines()), "LABEL" in told) == (0, REFUSED, True), told
    code, told = viewer.command("dead-letters", "discard", EVENT, str(ids[1]), "--reason=x")
    assert (code, "forbidden" in told) == (3, True), told
    code, told = editor.command("dead-letters", "discard", EVENT, str(ids[1]), str(ids[0]), "--reason=a bot")
    assert (code, told.splitlines()) == (1, ["1 discarded", f"not dead letters (any more): {ids[0]}"])
    assert stage.ledger(refused, "SELECT claim_id FROM ledger.claims WHERE state = 'voided'") == letters[1]["claimId"]
    code, told = editor.command("dead-letters", "replay", EVENT, "--all", "--reason=ledger mended")
    assert (code, told) == (0, f"{REFUSED - 2} replayed\n")
    eventually(lambda: len(sold(refused)) == REFUSED - 1, 60, "all the others are committed")
    eventually(lambda: reason(refused, EVENT, "Degraded") == "AsExpected", 60, "nothing is wrong any more")
    assert refused.get("intakeevent", EVENT)["status"]["inventory"]["available"] == SEATS - REFUSED + 1

    code, told = viewer.command("audit", EVENT, "-o", "json")
    account = f"system:serviceaccount:{refused.namespace}:editor"
    audit = [(entry["action"], entry["actor"], entry["reason"]) for entry in json.loads(told)["items"]]
    assert audit == [
        ("replay", account, "ledger mended"),
        ("discard", account, "a bot"),
        ("replay", account, "ledger mended"),
        ("replay", account, "ledger mended"),
    ]


def test_a_sale_that_somebody_removes_from_the_ledger_is_named_until_it_is_back(books: Kube, people: People) -> None:
    open_sale(books, "proven")
    buy(books, "proven", 3)
    eventually(lambda: len(sold(books, "proven-pool")) == 3, 60, "three claims are committed")
    # By itself, since the queue is empty.
    eventually(lambda: reason(books, "proven", LEDGER) == "LedgerAgrees", 60, "the ledger is said to agree")
    assert people["viewer"].command("reconcile", "proven")[0] == 3, "it reads all of two databases"
    code, told = people["editor"].command("reconcile", "proven")
    assert (code, told.split(":")[0]) == (0, "True LedgerAgrees"), told

    victim = _remove(books, "fan-2", "proven-pool")
    code, told = people["editor"].command("reconcile", "proven", "-o", "json")
    (violation,) = json.loads(told)["violations"]
    assert (code, violation["promise"], victim in violation["detail"]) == (1, "I2", True), told
    eventually(lambda: reason(books, "proven", "Degraded") == "LedgerInconsistent", 60, "the event says so")

    books.patch("intakeevent", "proven", {"spec": {"window": {"closesAt": stage.window(0, 0)["closesAt"]}}})
    eventually(lambda: reason(books, "proven", "Drained") == "ProofFailed", 60, "nothing is removed without a proof")
    assert victim in condition(books.get("intakeevent", "proven"), "Drained")["message"]

    claim = stage.engine(books, "proven", f"SELECT message FROM intake.intents WHERE message->>'claim_id' = '{victim}'")
    assert stage.ledger(books, f"SELECT finalize_transaction('{claim}')") == "committed"
    done = stage.await_phase(books, "proven", "Completed", 60)
    assert (condition(done, LEDGER)["status"], condition(done, "Degraded")["reason"]) == ("True", "AsExpected")
    report = books.get("configmap", "proven-report")["data"]
    assert [json.loads(line)["action"] for line in report["audit"].splitlines()] == ["seal"], "it outlives DB1"
    code, told = people["editor"].command("dead-letters", "list", "proven")
    assert (code, "its report" in told) == (4, True), told


def open_sale(kube: Kube, event: str) -> None:
    """A small open sale."""
    kube.apply(stage.event(event, stage.window(opens_in=0, lasts=3600), inventorySize=SEATS, batchSize=5))
    stage.await_phase(kube, event, "Open", 60)


def buy(kube: Kube, event: str, fans: int) -> None:
    """So many claims."""
    claims = (
        f"SELECT count(*) FROM generate_series(1, {fans}) n,"
        f" intake.claim_resource('{event}-pool', 'fan-' || n, 'r' || n)"
    )
    stage.engine(kube, event, claims)


def _remove(kube: Kube, user: str, pool: str) -> str:
    """What a hand does: the claims of a user are gone from the ledger, with their slots. Returns their ids."""
    return stage.ledger(
        kube,
        f"WITH gone AS (DELETE FROM ledger.claims WHERE user_id = '{user}' AND pool_id = '{pool}' RETURNING claim_id)"
        " DELETE FROM ledger.sold_slots s USING gone g WHERE s.claim_id = g.claim_id RETURNING s.claim_id",
    )


def reason(kube: Kube, event: str, kind: str) -> str:
    return str(condition(kube.get("intakeevent", event), kind)["reason"])


def dead(kube: Kube) -> int:
    return int(stage.engine(kube, EVENT, f"SELECT count(*) FROM intake.dead_letters('{POOL}')"))


def sold(kube: Kube, pool: str = POOL) -> list[str]:
    query = f"SELECT claim_id FROM ledger.claims WHERE state = 'committed' AND pool_id = '{pool}'"
    return stage.ledger(kube, query).splitlines()
