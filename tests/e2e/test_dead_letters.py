"""What people do to dead letters, through the admin API and with the command; Kubernetes says who may."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.e2e import stage
from tests.e2e.kube import CALL_SECONDS, Kube, condition, eventually

EVENT: Final = "letters"
POOL: Final = "letters-pool"
SEATS: Final = 8
REFUSED: Final = 6

COMMAND: Final = Path(sys.executable).with_name("intake-admin")
OPERATOR: Final = ("-n", stage.OPERATOR_NAMESPACE)


@dataclass(frozen=True)
class Person:
    """A service account with one of Kubernetes' own roles, or none; its token is good for the admin API only."""

    kube: Kube
    token: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.read_text().strip()}"}

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run intake-admin as this person, from a laptop: exit code, and what it printed."""
        way = (f"--context={self.kube.context}", f"--namespace={self.kube.namespace}", f"--token-file={self.token}")
        done = subprocess.run(
            [COMMAND, *arguments, *way], capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )
        return done.returncode, done.stdout + done.stderr


def person(kube: Kube, folder: Path, name: str, role: str = "") -> Person:
    kube.kubectl("create", "serviceaccount", name)
    if role:
        account = f"--serviceaccount={kube.namespace}:{name}"
        kube.kubectl("create", "rolebinding", name, f"--clusterrole={role}", account)
    token = folder / name
    token.write_text(kube.kubectl("create", "token", name, "--audience=intake-engine.io"))
    return Person(kube, token)


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


@pytest.fixture
def refused(namespace: Kube) -> Kube:
    """A sale with two seats left, and six that the ledger refuses: there somebody has sold them by hand."""
    stage.start_ledger(namespace)
    stage.await_rollout(namespace, "statefulset/core-ledger")
    by_hand = (
        "INSERT INTO ledger.sales (claim_id, state, pool_id, user_id, slot_no, resource_id)"
        f" SELECT uuidv7(), 'committed', '{POOL}', 'by hand', n, uuidv7() FROM generate_series(1, {REFUSED}) n"
    )
    stage.ledger(namespace, by_hand)
    namespace.apply(stage.event(EVENT, stage.window(opens_in=0, lasts=3600), inventorySize=SEATS, batchSize=5))
    stage.await_phase(namespace, EVENT, "Open", 60)
    fans = (
        f"SELECT count(*) FROM generate_series(1, {REFUSED}) n, intake.claim_resource('{POOL}', 'fan-' || n, 'r' || n)"
    )
    stage.engine(namespace, EVENT, fans)
    eventually(lambda: degraded(namespace) == "DeadLetters", 60, "claims gave up")
    eventually(lambda: dead(namespace) == REFUSED, 60, "six claims gave up")
    return namespace


def test_dead_letters_are_replayed_and_discarded_by_those_who_may(refused: Kube, tmp_path: Path) -> None:
    editor, viewer = person(refused, tmp_path, "editor", "edit"), person(refused, tmp_path, "viewer", "view")
    stranger = person(refused, tmp_path, "stranger")

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

        stage.ledger(refused, "DELETE FROM ledger.sales WHERE user_id = 'by hand'")
        assert http.post(replay, headers=editor.headers, json=one).json()["replayed"] == ids[:1]
        again = http.post(replay, headers=editor.headers, json=one).json()
        assert (again["replayed"], again["gone"]) == ([], ids[:1])
    eventually(lambda: sold(refused) == [letters[0]["claimId"]], 30, "the claim that was replayed is committed")

    assert viewer.command("dead-letters", "list", EVENT)[0] == 0
    code, told = viewer.command("dead-letters", "discard", EVENT, str(ids[1]), "--reason=x")
    assert (code, "forbidden" in told) == (3, True), told
    code, told = editor.command("dead-letters", "discard", EVENT, str(ids[1]), str(ids[0]), "--reason=a bot")
    assert (code, told.splitlines()) == (1, ["1 discarded", f"not dead letters (any more): {ids[0]}"])
    assert stage.ledger(refused, "SELECT claim_id FROM ledger.sales WHERE state = 'voided'") == letters[1]["claimId"]
    code, told = editor.command("dead-letters", "replay", EVENT, "--all", "--reason=ledger mended")
    assert (code, told) == (0, f"{REFUSED - 2} replayed\n")
    eventually(lambda: len(sold(refused)) == REFUSED - 1, 30, "all the others are committed")
    eventually(lambda: degraded(refused) == "AsExpected", 20, "nothing is wrong any more")
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


def degraded(kube: Kube) -> str:
    return str(condition(kube.get("intakeevent", EVENT), "Degraded")["reason"])


def dead(kube: Kube) -> int:
    return int(stage.engine(kube, EVENT, f"SELECT count(*) FROM intake.dead_letters('{POOL}')"))


def sold(kube: Kube) -> list[str]:
    return stage.ledger(kube, "SELECT claim_id FROM ledger.sales WHERE state = 'committed'").splitlines()
