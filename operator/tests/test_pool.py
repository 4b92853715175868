"""Two events, one pool: which of them may sell it."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import given
import pytest
from given import Clock
from intake_operator import names
from intake_operator.addresses import Address
from intake_operator.decide.pool import LedgerKey, Rival, in_use, live, used_before
from intake_operator.ledger import pools as pools_module
from intake_operator.ledger.connection import ledger_key
from intake_operator.ledger.pools import Pools
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.proof import Account
from intake_operator.reasons import PoolReason

type Make[T] = Callable[..., T]

BOOKS = ("db.books", "5432", "core", "finalize_transaction")


def test_of_two_events_with_one_pool_and_ledger_exactly_one_may_sell(event: Make[Event]) -> None:
    older, younger = event(uid="b"), event(name="again", uid="a")
    younger = replace(younger, created_at=older.created_at + timedelta(seconds=1))
    twin = replace(younger, created_at=older.created_at)
    for one, other in ((older, younger), (older, twin)):
        first, second = in_use(one, BOOKS, [Rival(other, BOOKS)]), in_use(other, BOOKS, [Rival(one, BOOKS)])
        assert [verdict.reason for verdict in (first, second) if verdict] == [PoolReason.IN_USE]


def test_an_event_that_was_claimable_keeps_its_pool_from_an_older_one(event: Make[Event]) -> None:
    older, sold = event(), event(name="sold", uid="x", status={"database": {"systemIdentifier": "7251"}})
    sold = replace(sold, created_at=older.created_at + timedelta(days=1))
    found = in_use(older, BOOKS, [Rival(sold, BOOKS)])
    assert found is not None
    assert "tickets/sold" in found.message


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(BOOKS, (*BOOKS[:3], "other")), (BOOKS, None), (None, BOOKS), (("webhook", "https://a"), BOOKS)],
)
def test_another_ledger_is_another_pool(event: Make[Event], mine: LedgerKey | None, theirs: LedgerKey | None) -> None:
    rival = replace(event(uid="x"), created_at=event().created_at - timedelta(days=1))
    assert in_use(event(), mine, [Rival(rival, theirs)]) is None


@pytest.mark.parametrize(
    ("finalizers", "status", "lives"),
    [
        ([], {}, True),
        ([names.FINALIZER], {}, True),
        ([names.FINALIZER], {"report": {"verified": True}}, False),
        ([], {"conditions": [{"type": "Drained", "status": "True"}]}, False),
    ],
)
def test_an_event_that_is_over_does_not_reserve_its_pool(
    finalizers: list[str], status: dict[str, Any], lives: bool
) -> None:
    assert live({"metadata": {"finalizers": finalizers}, "status": status}) is lives


@pytest.mark.parametrize(("committed", "voided"), [(1, 0), (0, 1), (0, 0)])
def test_i1_a_pool_that_the_ledger_knows_was_used_before(event: Make[Event], committed: int, voided: int) -> None:
    check = used_before(event(), committed, voided)
    assert check.blocks is bool(committed or voided)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql://a:b@core/db", "postgresql://c:d@CORE.tickets.svc:5432/db", True),
        ("postgresql://a:b@core/db", "postgresql://a:b@core:5433/db", False),
        ("postgresql://a:b@core/db", "postgresql://a:b@core/other", False),
        ("host=core user=db", "postgresql://x@core/db", True),
        ("postgresql://a@core/db", "postgresql://a@core.tickets.svc.cluster.local./db", True),
        ("postgresql://a@[fd00::1]/db", "postgresql://a@[FD00:0:0::1]:5432/db", True),
        ("postgresql://a@[fd00::1]:5432,core:5433/db", "postgresql://a@core,[fd00::1]/db?port=5433,5432", True),
        ("postgresql://a@core/db?hostaddr=10.0.0.7", "postgresql://a@10.0.0.7/db", True),
        ("postgresql://a@core,spare/db", "postgresql://a@spare,other/db", True),
        ("postgresql://a@core,spare:5433/db", "postgresql://a@spare,other/db", False),
    ],
)
def test_a_ledger_is_identified_by_host_port_and_database_not_by_user(
    event: Make[Event], one: str, other: str, same: bool
) -> None:
    mine, theirs = (ledger_key(Address(uri, "tickets"), "f") for uri in (one, other))
    rival = replace(event(uid="x"), created_at=event().created_at - timedelta(days=1))
    assert (in_use(event(), mine, [Rival(rival, theirs)]) is not None) is same


async def test_an_old_answer_of_the_ledger_is_told_and_lets_nothing_be_seeded(
    event: Make[Event], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again outside of the pass, and the pass that this wakes decides."""

    async def unused(*_: object) -> Account:
        return Account(0, 0, 0, 0)

    class Objects:
        async def get(self, *_: str) -> None:
            return None

        async def list_everywhere(self, *_: object) -> list[Manifest]:
            return []

    monkeypatch.setattr(pools_module, "read_account", unused)
    woken: list[tuple[str, str]] = []
    reads = LongReads(woken.append)
    checks = Pools(Objects(), Objects(), clock, reads)

    async def look() -> tuple[PoolReason, bool]:
        found = await checks.check(event(), Address("postgresql://a@core/db", "tickets"), live=False)
        return found.reason, found.allows

    assert await look() == (PoolReason.WAITING, False)
    await given.ended(reads)
    assert woken == [("tickets", "taylor-drop")]
    assert await look() == (PoolReason.UNUSED, True)
    clock.now += pools_module.ACCOUNT_LASTS.total_seconds()
    assert await look() == (PoolReason.UNUSED, False), "the condition does not change while it is asked again"
    await given.ended(reads)
    assert await look() == (PoolReason.UNUSED, True)


class Events:
    """A cluster as somebody sees it: these events, and a Secret of the ledger."""

    def __init__(self, *events: Manifest) -> None:
        self.events = events
        self.asked = 0

    async def get(self, *_: str) -> Manifest | None:
        uri = base64.b64encode(b"postgresql://a@core/db").decode()
        return {"metadata": {"name": "core-ledger"}, "data": {"uri": uri}}

    async def list_everywhere(self, *_: object) -> list[Manifest]:
        self.asked += 1
        return list(self.events)


def older(event: Event) -> Manifest:
    """An older event that sells the same pool into the same ledger."""
    spec = {
        "pool": event.pool,
        "inventorySize": 10,
        "window": {"opensAt": "2026-12-01T18:00:00Z", "closesAt": "2026-12-01T20:00:00Z"},
        "commitTarget": {"postgres": {"secretRef": {"name": "core-ledger"}}},
    }
    meta = {"namespace": "tickets", "name": "older", "uid": "o", "generation": 1}
    return {"metadata": meta | {"creationTimestamp": "2020-01-01T00:00:00Z"}, "spec": spec}


async def test_i1_what_seeds_asks_the_api_server_and_not_the_store(event: Make[Event]) -> None:
    """The store has not heard of an older event that sells the pool."""
    store, server = Events(), Events(older(event()))
    pools = Pools(store, server, lambda: 0.0, LongReads(lambda _: None))
    assert (await pools.check(event(), None, live=False)).reason is PoolReason.WAITING
    assert (await pools.check(event(), None, live=True)).reason is PoolReason.IN_USE
    assert (await pools.check(event(), None, live=False)).reason is PoolReason.IN_USE, "and remembers it"
    assert (store.asked, server.asked) == (1, 1)


@pytest.mark.parametrize("known", [True, False], ids=["the store knows the other event", "the store lags"])
async def test_i1_what_the_ledger_said_while_another_event_sold_the_pool_counts_for_nothing(
    event: Make[Event], clock: Clock, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """The other event commits its last claim after the ledger was asked, and is gone before the first seed."""
    sold = [0]

    async def account(*_: object) -> Account:
        return Account(sold[0], 0, sold[0], 0)

    monkeypatch.setattr(pools_module, "read_account", account)
    store, server, reads = Events(), Events(), LongReads(lambda _: None)
    checks, ledger = Pools(store, server, clock, reads), Address("postgresql://a@core/db", "tickets")

    async def look(*, live: bool = False) -> PoolReason:
        return (await checks.check(event(), ledger, live=live)).reason

    await look()
    await given.ended(reads)
    assert await look() is PoolReason.UNUSED
    if known:
        clock.now += pools_module.LASTS.total_seconds()
        store.events = (older(event()),)
        assert await look() is PoolReason.IN_USE
        clock.now += pools_module.LASTS.total_seconds()
        store.events = ()
    sold[0] = 1
    assert await look(live=True) is PoolReason.USED_BEFORE
    if known:
        assert await look() is PoolReason.WAITING, "the ledger is asked again"
        await given.ended(reads)
        assert await look() is PoolReason.USED_BEFORE
