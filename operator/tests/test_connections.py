"""How DB1's connections are shared."""

import given
import pytest
from given import make_connections, make_spec
from intake_bridge.adapters import database
from intake_operator.children.database import DEFAULTS, FIXED
from intake_operator.decide import connections
from intake_operator.decide.steps import LimitClaimers
from intake_operator.reasons import ConditionType


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
def test_claimers_get_what_the_others_leave_and_never_nothing(most: int, bridges: int, left: int) -> None:
    known = make_connections(most=most)
    assert connections.claimer_limit(known, connections.for_others(make_spec(bridge={"maxReplicas": bridges}))) == left


def test_what_is_needed_is_what_the_crd_asks_for() -> None:
    known = make_connections(
        most=int(DEFAULTS["max_connections"]),
        superusers=int(FIXED["superuser_reserved_connections"]),
        reserved=int(FIXED["reserved_connections"]),
    )
    for bridges in (1, 4, 100):
        assert connections.needed(known, make_spec(bridge={"maxReplicas": bridges})) == 50 + 10 * bridges


def test_the_limit_follows_the_bridges_and_the_server() -> None:
    assert "LimitClaimers" not in given.selling().plan().kinds
    assert LimitClaimers(67) in given.selling(spec={"bridge": {"maxReplicas": 5}}).plan().steps
    for changed in ({"most": 400}, {"limit": -1}, {"limit": 231}):
        sale = given.selling().db1(connections=make_connections(**changed))
        assert LimitClaimers(57) in sale.plan().steps


@pytest.mark.parametrize(("claimers", "full"), [(229, False), (230, True), (231, True)])
def test_claimers_at_their_limit_are_reported_and_no_problem(claimers: int, full: bool) -> None:
    known = make_connections(claimers=claimers, taken=claimers + 1)
    decided = given.selling().db1(connections=known).plan()
    assert ("all 230 connections" in decided.message(ConditionType.DATABASE_READY)) is full
    assert decided.condition(ConditionType.DEGRADED)["status"] == "False"
