"""A deleted child is created again, and the sale goes on."""

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
    ("deployment", "heal-bridge"),
    # Together: no watch tells of them, and they are read once a minute.
    ("secret", "heal-app,heal-bridge,heal-superuser"),
    ("statefulset", "heal-db"),
]


@pytest.fixture(scope="module")
def healing(shared_kube: Kube) -> Iterator[tuple[Kube, list[Object]]]:
    """An open sale and the answers that its crowds got. At the end it drains, and every claim is settled."""
    kube, answers = shared_kube, list[Object]()
    kube.apply(events.event("heal", events.window(opens_in=2, lasts=3600), inventorySize=1000))
    events.await_phase(kube, "heal", "Open", 60)
    yield kube, answers
    kube.delete("intakeevent", "heal")
    eventually(lambda: kube.find("intakeevent", "heal") is None, 90, "the event is drained and gone")
    settled = account.of_pool(kube, POOL, answers)
    assert (settled.lost, settled.duplicated) == (0, 0), settled.line()
    assert account.violations(kube, POOL, answers) == ""


@pytest.mark.parametrize(("kind", "names"), CHILDREN)
def test_a_deleted_child_is_created_again_and_the_sale_goes_on(
    healing: tuple[Kube, list[Object]], kind: str, names: str
) -> None:
    kube, answers = healing
    before = {name: kube.get(kind, name)["metadata"]["uid"] for name in names.split(",")}
    for name in before:
        release.delete_as_operator(kube, kind, name)

    def created_again() -> bool:
        found = [kube.find(kind, name) for name in before]
        assert all(found), "one does not exist"
        uids = {each["metadata"]["uid"] for each in found if each}
        assert uids.isdisjoint(before.values()), "one is the former object"
        return not any("deletionTimestamp" in each["metadata"] for each in found if each)

    eventually(created_again, 30, f"{kind} {names} exists again")

    ten_more_are_sold(kube, answers, f"{kind}-{names.replace(',', '-')}")


def test_what_a_claimer_changed_in_its_own_role_is_reset_and_the_sale_goes_on(
    healing: tuple[Kube, list[Object]],
) -> None:
    kube, answers = healing
    sql.in_database(
        kube,
        "heal",
        "SET ROLE claimer; ALTER ROLE claimer SET default_transaction_read_only = on;"
        " ALTER ROLE claimer IN DATABASE intake SET statement_timeout = 1; ALTER ROLE claimer PASSWORD 'mine'",
    )
    wrong = "SELECT (SELECT count(*) FROM intake.altered_roles()) + 2 - (SELECT count(*) FROM intake.known_logins())"
    eventually(
        lambda: sql.in_database(kube, "heal", wrong) == "0", 15, "the settings and the password of the role are reset"
    )
    ten_more_are_sold(kube, answers, "altered-role")


def ten_more_are_sold(kube: Kube, answers: list[Object], prefix: str) -> None:
    """Ten buyers claim with the credentials published now, and the ledger gets their claims."""
    pod = f"buyers-{prefix}"
    plan = crowd.Plan(buyers=10, connections=2, patience=60, prefix=prefix, hang_up_percent=0)
    crowd.start(kube, "heal", POOL, plan, pod=pod)
    answers += crowd.answers(kube, 75, pod=pod)
    sold = account.of_pool(kube, POOL, answers).acknowledged
    assert sold == len({answer["user_id"] for answer in answers}), "every buyer has a claim"
    eventually(lambda: account.of_pool(kube, POOL, answers).committed == sold, 60, "all claims are committed")
