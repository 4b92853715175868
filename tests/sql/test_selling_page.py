"""The functions of docs/selling.md, called as a shop would, with a bridge and a ledger behind them."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import REPOSITORY, PostgresServer
from tests.sql.intake import Intake

PAGE = REPOSITORY / "docs" / "selling.md"
POOL = "chamber-night-1"


@pytest.fixture
def page() -> dict[str, Any]:
    """What the page defines."""
    defined: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, defined)
    return defined


@pytest.fixture
def shop(server: PostgresServer, uri: str, intake: Intake) -> Iterator[psycopg.Connection[Any]]:
    """A back end's connection; two rows of four labelled seats are on sale."""
    with Intake(uri, POOL) as owner:
        owner.configure(8, ownResources=True, claimsPerUser=4, holdSeconds=600, extendSeconds=300)
        owner.stock(1, [(UUID(int=n), f"{row}-{n}") for n, row in enumerate("AAAABBBB", 1)])
        owner.seed()
    database = intake.connection.info.dbname
    with psycopg.connect(server.uri(database, "claimer"), autocommit=True) as connection:
        yield connection


def test_the_page_sells_two_seats_and_shows_the_order_number(
    page: dict[str, Any], shop: psycopg.Connection[Any], intake: Intake, uri: str
) -> None:
    held = page["hold_seats"](shop, "ann", ["A-3", "A-4"], "r-1")
    assert [(row["outcome"], row["label"]) for row in held] == [("held", "A-3"), ("held", "A-4")]
    claim_id = held[0]["claim_id"]
    assert [row["label"] for row in page["hold_seats"](shop, "bob", ["A-4", "B-5"], "r-1")] == ["A-4"]
    assert page["order"](shop, claim_id) == ("held", None)
    payload = {"payment_token": "tok_1"}
    assert [page["pay"](shop, "ann", claim_id, payload) for _ in range(2)] == ["confirmed", "replayed"]
    assert page["order"](shop, claim_id) == ("queued", None)
    with Intake(uri, POOL) as bridge:
        (message,) = bridge.read()
        assert message["payload"] == payload
        bridge.change("mark_validated", [message], [Jsonb({"payment_id": "pay_1"})])
        bridge.change("acknowledge", [message], ["committed"], [Jsonb({"order_no": 1017})])
    assert page["order"](shop, claim_id) == ("committed", {"order_no": 1017})


def test_the_page_names_every_state_and_outcome(intake: Intake) -> None:
    text = PAGE.read_text(encoding="utf-8")
    states = "held queued validated committing releasing committed voided released expired dead unknown not_ready"
    outcomes = "held claimed replayed taken too_few limit_reached sold_out closed not_open paused busy confirmed"
    assert [word for word in f"{states} {outcomes}".split() if f"`{word}`" not in text] == []
