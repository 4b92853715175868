"""Each child that somebody deletes comes back, and the sale goes on with what was sold."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e import account, stage
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
def healing(shared_theatre: Kube) -> Iterator[tuple[Kube, list[Object]]]:
    """An open sale, and the answers its fans have had; at the end it drains and every one of them is accounted for."""
    kube, answers = shared_theatre, list[Object]()
    kube.apply(stage.event("heal", stage.window(opens_in=2, lasts=3600), inventorySize=1000))
    stage.await_phase(kube, "heal", "Open", 60)
    yield kube, answers
    kube.delete("intakeevent", "heal")
    eventually(lambda: kube.find("intakeevent", "heal") is None, 90, "the event is drained and gone")
    settled = account.settle(kube, POOL, answers)
    assert (settled.lost, settled.duplicated) == (0, 0), settled.line()
    assert account.violations(kube, POOL, answers) == ""


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
def test_a_deleted_child_comes_back_and_the_sale_goes_on(
    healing: tuple[Kube, list[Object]], kind: str, name: str
) -> None:
    kube, answers = healing
    before = kube.get(kind, name)["metadata"]["uid"]
    stage.delete_as_operator(kube, kind, name)

    def back() -> bool:
        found = kube.find(kind, name)
        assert found is not None, "there is none"
        assert found["metadata"]["uid"] != before, "it is still the old one"
        return "deletionTimestamp" not in found["metadata"]

    eventually(back, 30, f"{kind}/{name} is back")

    # Ten fans with the credentials that are published now, and their claims all the way to the ledger.
    pod = f"fans-of-{kind}-{name}"
    plan = stage.CrowdPlan(fans=10, connections=2, patience=60, prefix=f"{kind}-{name}", hang_up_percent=0)
    stage.start_crowd(kube, "heal", POOL, plan, pod=pod)
    answers += stage.crowd_record(kube, 75, pod=pod)
    sold = account.settle(kube, POOL, answers).acknowledged
    assert sold == len({answer["user_id"] for answer in answers}), "every fan has a seat"
    eventually(
        lambda: account.settle(kube, POOL, answers).committed == sold, 60, "what was sold has reached the ledger"
    )
