"""Who may have how many of DB1's connections."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from given import make_connections
from intake_bridge.adapters import database
from intake_operator.children.bridge import Installation
from intake_operator.children.database import DEFAULTS, FIXED
from intake_operator.decide import connections
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import ReserveConnections
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import ConditionType
from planning import condition, kinds

type Make[T] = Callable[..., T]


def test_a_bridge_s_share_is_what_it_opens_and_a_quarter_more() -> None:
    opens = database._CONNECTIONS + 1  # its pool, and the housekeeper
    # A Deployment that replaces them runs a quarter more, rounded up: docs of maxSurge.
    for bridges in range(1, 101):
        assert connections.BRIDGE * bridges + opens >= opens * (bridges + -(-bridges // 4))
    assert opens < connections.OTHERS


@pytest.mark.parametrize(
    ("most", "bridges", "left"),
    [(300, 4, 230), (300, 25, 20), (500, 10, 370), (1000, 4, 930), (300, 26, 20), (100, 50, 20), (50, 100, 18)],
)
def test_claimers_get_what_the_others_leave_and_never_nothing(
    spec: Make[Any], most: int, bridges: int, left: int
) -> None:
    known = make_connections(most=most)
    assert connections.claimer_limit(known, connections.for_others(spec(bridge={"maxReplicas": bridges}))) == left


def test_what_is_needed_is_what_the_crd_asks_for(spec: Make[Any]) -> None:
    known = make_connections(
        most=int(DEFAULTS["max_connections"]),
        superusers=int(FIXED["superuser_reserved_connections"]),
        reserved=int(FIXED["reserved_connections"]),
    )
    for bridges in (1, 4, 100):
        assert connections.needed(known, spec(bridge={"maxReplicas": bridges})) == 50 + 10 * bridges


def test_the_limit_follows_the_bridges_and_the_server(
    event: Make[Event], observed: Make[Observed], spec: Make[Any], installation: Installation, opens: datetime
) -> None:
    seen = observed(event())
    assert "ReserveConnections" not in kinds(plan(event(), seen, installation, opens))
    more = event(spec=spec(bridge={"maxReplicas": 5}))
    assert ReserveConnections(67) in plan(more, seen, installation, opens).steps
    for changed in ({"most": 400}, {"limit": -1}, {"limit": 231}):
        known = replace(seen.database, connections=make_connections(**changed))
        assert ReserveConnections(57) in plan(event(), replace(seen, database=known), installation, opens).steps


@pytest.mark.parametrize(("claimers", "told"), [(229, False), (230, True), (231, True)])
def test_claimers_at_their_limit_are_told_and_not_degraded(
    event: Make[Event],
    observed: Make[Observed],
    installation: Installation,
    opens: datetime,
    claimers: int,
    told: bool,
) -> None:
    seen = observed(event())
    known = replace(seen.database, connections=make_connections(claimers=claimers, taken=claimers + 1))
    decided = plan(event(), replace(seen, database=known), installation, opens)
    assert ("all 230 connections" in condition(decided, ConditionType.DATABASE_READY)["message"]) is told
    assert condition(decided, ConditionType.DEGRADED)["status"] == "False"
