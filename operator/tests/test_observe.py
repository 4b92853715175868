"""What is observed of a cluster whose objects were changed by hand."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from given import INSTALLATION, OPENS
from intake_operator import names
from intake_operator.children import access, common
from intake_operator.database.databases import Databases
from intake_operator.inventory.inventories import Inventories
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.proof import Proofs
from intake_operator.model.observed import Event, Manifest
from intake_operator.observe import Observer
from intake_operator.preflight.checks import Checks, Hosts
from intake_operator.preflight.preflights import Preflights

type Make[T] = Callable[..., T]


class Objects:
    """A cluster of these objects."""

    def __init__(self, *objects: Manifest) -> None:
        self._objects = objects

    async def get(self, kind: str, _: str, name: str) -> Manifest | None:
        return next((o for o in self._objects if (o["kind"], o["metadata"]["name"]) == (kind, name)), None)

    async def list_everywhere(self, *_: object) -> list[Manifest]:
        return []

    async def list(self, kind: str, *_: str) -> list[Manifest]:
        return [o for o in self._objects if o["kind"] == kind]


def observer_of(*objects: Manifest) -> Observer:
    """An observer of a cluster of these objects."""
    cluster: Any = Objects(*objects)
    databases = Databases(())
    ledgers, pools = LedgerChecks(lambda: 0.0), Pools(cluster, lambda: 0.0)
    inventories = Inventories(cluster, databases, lambda: 0.0)
    checks = Checks(cluster, ledgers, inventories, pools, INSTALLATION, Hosts())
    return Observer(
        cluster,
        databases,
        ledgers,
        inventories,
        ConsistencyChecks(lambda: 0.0, lambda _: None),
        Proofs(databases, lambda: 0.0),
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
    seen = await observer_of(secret, running).observe(e, opens)
    assert not seen.database.reachable
    assert "Secret taylor-drop-superuser has no password" in seen.database.error
