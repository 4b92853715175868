"""What is observed of a cluster whose objects were changed by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import given
import pytest
import yaml
from given import INSTALLATION, OPENS
from intake_operator import names
from intake_operator.children import access, common
from intake_operator.database.databases import Databases
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.client import ApiError
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.proof import Proofs
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Manifest
from intake_operator.observe import Observer
from intake_operator.preflight.checks import Checks, Hosts
from intake_operator.preflight.preflights import Preflights

type Make[T] = Callable[..., T]

OBSERVED = Path(__file__).parent / "observed"


class Objects:
    """A cluster of these objects."""

    def __init__(self, *objects: Manifest) -> None:
        self._objects = objects

    async def get(self, kind: str, _: str, name: str) -> Manifest | None:
        return next((o for o in self._objects if (o["kind"], o["metadata"]["name"]) == (kind, name)), None)

    async def list_everywhere(self, *_: object) -> list[Manifest]:
        return []

    async def events_about(self, *_: str) -> list[Manifest]:
        return [o for o in self._objects if o["kind"] == "Event"]

    async def list(self, kind: str, *_: str) -> list[Manifest]:
        return [o for o in self._objects if o["kind"] == kind]


def observer_of(cluster: Any) -> Observer:  # noqa: ANN401 - it has the methods that are called
    """An observer of these objects, without any database."""
    databases = Databases(())
    long_reads = LongReads(lambda _: None)
    ledgers, pools = LedgerChecks(lambda: 0.0), Pools(cluster, cluster, lambda: 0.0, long_reads)
    inventories = Inventories(cluster, databases, lambda: 0.0, long_reads)
    checks = Checks(cluster, ledgers, inventories, pools, INSTALLATION, Hosts())
    return Observer(
        cluster,
        databases,
        ledgers,
        inventories,
        ConsistencyChecks(lambda: 0.0, long_reads),
        Proofs(databases, lambda: 0.0, long_reads),
        pools,
        Preflights(checks, lambda: 0.0, lambda _: None, lambda: OPENS),
    )


@pytest.mark.parametrize("data", [None, {}, {"user": "cG9zdGdyZXM="}, {"password": ""}, {"password": "//79"}], ids=str)
async def test_a_superuser_secret_that_was_emptied_by_hand_is_reported_and_ends_no_pass(
    event: Make[Event], pod: Make[Manifest], opens: datetime, data: dict[str, str] | None
) -> None:
    e = event()
    secret = access.credentials(e, names.superuser_secret(e.name), names.SUPERUSER, "p")
    secret["metadata"] |= common.metadata(e, secret["metadata"]["name"], "database") | {"uid": "s"}
    secret["data"] = data
    running = pod(e, "database") | {"kind": "Pod"}
    seen = await observer_of(Objects(secret, running)).observe(e, opens)
    assert not seen.database.reachable
    assert "Secret taylor-drop-superuser has no password" in seen.database.error


class Refusing(Objects):
    """A cluster in which the operator may not list Events."""

    async def events_about(self, *_: str) -> list[Manifest]:
        raise ApiError(403, "Forbidden", "no")


def without_pod(opens: datetime) -> tuple[Event, Manifest]:
    """An event whose StatefulSet has no pod, as its status says since the window opened; and that StatefulSet."""
    ready = {"type": "DatabaseReady", "status": "False", "lastTransitionTime": opens.isoformat()}
    sale = given.selling(status={"conditions": [ready]})
    workload = sale.observed.children[given.DATABASE]
    meta = workload["metadata"] | {"uid": "stateful-set", "creationTimestamp": opens.isoformat()}
    return sale.event, workload | {"metadata": meta}


async def test_kubernetes_is_asked_why_the_database_has_no_pod_and_only_the_latest_words_count(opens: datetime) -> None:
    e, workload = without_pod(opens)
    said = yaml.safe_load((OBSERVED / "stateful-set-refused.yaml").read_text(encoding="utf-8"))["items"]
    cluster = Objects(workload, *(each | {"kind": "Event"} for each in said))
    seen = await observer_of(cluster).observe(e, opens)
    assert "exceeded quota: no-pods" in seen.refusal
    an_hour_later = opens + timedelta(hours=1)
    e, workload = without_pod(an_hour_later)
    cluster = Objects(workload, *(each | {"kind": "Event"} for each in said))
    assert (await observer_of(cluster).observe(e, an_hour_later)).refusal == "", "that was another time"


async def test_an_operator_that_may_not_list_events_says_so_and_goes_on(opens: datetime) -> None:
    e, workload = without_pod(opens)
    assert "may not list Events" in (await observer_of(Refusing(workload)).observe(e, opens)).refusal
