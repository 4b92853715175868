"""Each child that somebody deletes comes back, and the sale goes on with what was sold."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e import account, crowd, events, release, sql
from tests.e2e.kube import Kube, Object, eventually

POOL: Final = "heal-pool"
CHILDREN: Final = [
    ("networkpolicy", "heal-db"),
    ("poddisruptionbudget", "heal-db"),
    ("service", "heal-db"),
    ("service", "heal-rw"),
    ("secret", "heal-app"),
    ("secret", "heal-bridge"),
    ("deployment", "heal-bridge"),
    ("secret", "heal-superuser"),
    ("statefulset", "heal-db"),
]


@pytest.fixture(scope="module")
def healing(shared_kube: Kube) -> Iterator[tuple[Kube, list[Object]]]:
    """An open sale, and the answers its fans have had; at the end it drains and every one of them is accounted for."""
    kube, answers = shared_kube, list[Object]()
    kube.apply(events.event("heal", events.window(opens_in=2, lasts=3600), inventorySize=1000))
    events.await_phase(kube, "heal", "Open", 60)
    yield kube, answers
    kube.delete("intakeevent", "heal")
    eventually(lambda: kube.find("intakeevent", "heal") is None, 90, "the event is drained and gone")
    settled = account.of_pool(kube, POOL, answers)
    assert (settled.lost, settled.duplicated) == (0, 0), settled.line()
    assert account.violations(kube, POOL, answers) == ""


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
def test_a_deleted_child_comes_back_and_the_sale_goes_on(
    healing: tuple[Kube, list[Object]], kind: str, name: str
) -> None:
    kube, answers = healing
    before = kube.get(kind, name)["metadata"]["uid"]
    release.delete_as_operator(kube, kind, name)

    def back() -> bool:
        found = kube.find(kind, name)
        assert found is not None, "there is none"
        assert found["metadata"]["uid"] != before, "it is still the old one"
        return "deletionTimestamp" not in found["metadata"]

    eventually(back, 30, f"{kind}/{name} is back")

    ten_more_are_sold(kube, answers, f"{kind}-{name}")


def test_what_a_claimer_did_to_its_own_role_is_undone_and_the_sale_goes_on(healing: tuple[Kube, list[Object]]) -> None:
    kube, answers = healing
    sql.in_database(
        kube,
        "heal",
        "SET ROLE claimer; ALTER ROLE claimer SET default_transaction_read_only = on;"
        " ALTER ROLE claimer IN DATABASE intake SET statement_timeout = 1; ALTER ROLE claimer PASSWORD 'mine'",
    )
    wrong = "SELECT (SELECT count(*) FROM intake.altered_roles()) + 2 - (SELECT count(*) FROM intake.known_logins())"
    eventually(lambda: sql.in_database(kube, "heal", wrong) == "0", 15, "role and password are set again")
    ten_more_are_sold(kube, answers, "altered-role")


def ten_more_are_sold(kube: Kube, answers: list[Object], prefix: str) -> None:
    """Ten fans with the credentials that are published now, and their claims all the way to the ledger."""
    pod = f"fans-of-{prefix}"
    plan = crowd.Plan(fans=10, connections=2, patience=60, prefix=prefix, hang_up_percent=0)
    crowd.start(kube, "heal", POOL, plan, pod=pod)
    answers += crowd.answers(kube, 75, pod=pod)
    sold = account.of_pool(kube, POOL, answers).acknowledged
    assert sold == len({answer["user_id"] for answer in answers}), "every fan has a seat"
    eventually(
        lambda: account.of_pool(kube, POOL, answers).committed == sold, 60, "what was sold has reached the ledger"
    )
