"""A DB1 that was lost, made again from a real ledger: nothing is sold twice, requests are answered as before."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import INTAKE_SQL
from tests.sql.intake import POOL, Answer, Intake, empty, lose_unlogged
from tests.sql.ledger import Ledger

LABELS = [(UUID(int=n), f"A-{n}") for n in range(1, 13)]
PROOF = "SELECT committed, voided, slots, digest FROM "
PAGE = "SELECT to_jsonb(c) FROM ledger_claims(%s, %s, 3) c"


@pytest.fixture
def books(ledger_uri: str) -> Iterator[Ledger]:
    """The ledger, as the operator reads it."""
    with Ledger(ledger_uri) as client:
        yield client


class Sale:
    """A DB1 that sells into a ledger, is lost, and is made again."""

    def __init__(self, engine: Intake, books: Ledger, **settings: object) -> None:
        self.engine = engine
        self.books = books
        self.own = bool(settings.get("ownResources"))
        self.settings = settings
        self.asked: dict[tuple[str, str], list[Answer]] = {}
        self.provision()
        engine.seed()

    def provision(self) -> None:
        self.engine.configure(12, **self.settings)
        if self.own:
            self.engine.stock(1, LABELS)

    def claim(self, user: str, request: str, quantity: int = 1, seat: str | None = None) -> list[Answer]:
        """What a buyer is answered; asked again, the same."""
        if seat:
            told = [self.engine.claim_named(user, seat, request)]
        else:
            told = self.engine.claim_several(user, quantity, request)
        if {each.outcome for each in told} == {"claimed"}:
            self.asked[user, request] = told
        return told

    def commit(self, *users: str) -> None:
        """A bridge commits the claims of these users, and voids those of all others."""
        self.end(lambda user: "committed" if user in users else "voided")

    def end(self, fate: Callable[[str], str]) -> None:
        """The answer of the ledger for everything that is queued, as a bridge asks for it."""
        for message in [*self.engine.read(), *self.engine.read_releases()]:
            claim = self.engine.value("SELECT message FROM pgmq.q_intake_queue WHERE msg_id = %s", message["msg_id"])
            outcome, receipt = fate(claim["user_id"]), None
            if outcome == "committed":
                outcome, receipt = self.books.commit_with_receipt(claim)
            else:
                outcome = self.books.void(claim)
            given = self.engine.change("acknowledge", [message], [outcome], [Jsonb(receipt)])
            assert given == [message["msg_id"]]

    def lose(self) -> None:
        """The volume is gone, and a new one is there, as migrated and configured."""
        uri = self.engine.uri
        self.engine.connection.close()
        empty(uri)
        self.engine = Intake(uri)
        self.provision()

    def pages(self) -> Iterator[list[Any]]:
        after = None
        while page := [row for (row,) in self.books.rows(PAGE, POOL, after)]:
            yield page
            after = page[-1]["claim_id"]

    def restore(self) -> None:
        self.take(self.pages())
        self.engine.seed()

    def take(self, pages: Iterable[list[Any]]) -> None:
        """Pages in one transaction, and its end."""
        with self.engine.connection.transaction():
            for page in pages:
                assert self.engine.value("SELECT intake.restore(%s, %s)", POOL, Jsonb(page)) == len(page)
            self.engine.value("SELECT intake.end_restore(%s)", POOL)

    def sold(self) -> list[int]:
        """The slots that the ledger has sold."""
        return self.books.column("SELECT unnest(slot_nos) FROM ledger_claims(%s, NULL, 1000)", POOL)

    def agrees(self) -> bool:
        """Whether DB1 and the ledger say the same, and DB1 does not contradict itself."""
        assert self.engine.reconcile() == []
        return self.engine.rows(PROOF + "intake.proof(%s)", POOL) == self.books.rows(PROOF + "ledger_proof(%s)", POOL)


@pytest.fixture(params=["counted", "own resources", "limited"])
def sale(intake: Intake, books: Ledger, request: pytest.FixtureRequest) -> Iterator[Sale]:
    """Twelve slots. Committed: ann's, bob's of two, dan's. Voided: cy's. Released: eve's. Not yet there: fay's."""
    kinds: dict[str, dict[str, object]] = {"own resources": {"ownResources": True}, "limited": {"claimsPerUser": 3}}
    sale = Sale(intake, books, **kinds.get(request.param, {}))
    sale.claim("ann", "r1")
    sale.claim("cy", "r2")
    sale.claim("bob", "r3", quantity=2)
    (released,) = sale.claim("eve", "r4")
    assert intake.release(released.claim_id) == "released"
    del sale.asked["eve", "r4"]
    sale.claim("dan", "r5", seat="A-9" if sale.own else None)
    sale.commit("ann", "bob", "dan")
    lost = sale.claim("fay", "r6")
    assert lost[0].outcome == "claimed"
    del sale.asked["fay", "r6"]
    yield sale
    sale.engine.connection.close()


def test_i1_what_the_ledger_has_sold_is_not_sold_again(sale: Sale) -> None:
    before = sale.sold()
    sale.lose()
    sale.restore()
    assert sale.agrees()
    assert sale.engine.inventory() == (8, 0, 4)
    more = [sale.claim(f"new {n}", f"n{n}")[0] for n in range(8)]
    assert sorted(answer.slot_no for answer in more if answer.slot_no) == sorted(set(range(1, 13)) - set(before))
    assert sale.claim("late", "late")[0].outcome == "sold_out"
    assert sale.engine.inventory() == (0, 8, 4)
    sale.commit(*(f"new {n}" for n in range(8)))
    assert sale.sold() == list(range(1, 13))
    assert sale.agrees()


def test_i7_a_repeated_request_gets_the_first_answer_after_a_restore(sale: Sale) -> None:
    sale.lose()
    sale.restore()
    for (user, request), before in sale.asked.items():
        again = sale.claim(user, request, quantity=len(before))
        assert {answer.outcome for answer in again} == {"replayed"}, user
        told = [(answer.claim_id, answer.slot_no, answer.resource_id) for answer in again]
        assert told == [(answer.claim_id, answer.slot_no, answer.resource_id) for answer in before], user
        states = {row["state"] for row in sale.engine.request_status(user, request)}
        assert states == {"voided" if user == "cy" else "committed"}
        for answer in before:
            assert sale.engine.claim_status(answer.claim_id)["state"] == ("voided" if user == "cy" else "committed")
    # A request whose claim was not in the ledger yet is new.
    assert sale.claim("fay", "r6")[0].outcome == "claimed"


def test_a_voided_claim_is_restored_as_voided(sale: Sale) -> None:
    (before,) = sale.asked["cy", "r2"]
    sale.lose()
    sale.restore()
    status = sale.engine.status()
    assert (status["committed"], status["voided"], status["released"]) == (3, 1, 0)
    assert sale.engine.rows(
        "SELECT status, claim_id FROM intake.allocations WHERE slot_no = %s", before.slot_no
    ) == [("AVAILABLE", None)]  # fmt: skip


def test_a_restored_claim_is_stored_like_an_acknowledged_one(sale: Sale) -> None:
    def archived() -> dict[str, dict[str, Any]]:
        rows = sale.engine.rows(
            "SELECT message FROM pgmq.a_intake_queue WHERE message ->> 'outcome' IN ('committed', 'voided')"
        )
        return {message["claim_id"]: message for (message,) in rows}

    before = archived()
    sale.lose()
    sale.restore()
    # What a bridge noted on its way is of no use any more. What was asked for, and the receipts, stay in the ledger.
    passing = {"state", "failures", "last_error", "release", "receipt", "named"}
    assert archived().keys() == before.keys()
    for claim_id, message in archived().items():
        assert message.keys() >= before[claim_id].keys() - {"last_error", "release", "receipt", "named"}
        for key in message.keys() - passing - {"restored"}:
            assert message[key] == before[claim_id][key], key
        assert not message.keys() & {"receipt", "validation"}
        assert message["payload"] is None


@pytest.mark.parametrize("settings", [{}, {"ownResources": True}, {"claimsPerUser": 4}])
def test_a_claim_of_several_slots_comes_back_whole(intake: Intake, books: Ledger, settings: dict[str, Any]) -> None:
    """Three claims a page: none is split, whatever its slots are, and a repeated request is still one claim."""
    sale = Sale(intake, books, **settings)
    for n, quantity in enumerate((4, 1, 3, 2)):
        assert len({answer.claim_id for answer in sale.claim(f"u{n}", f"r{n}", quantity)}) == 1
    sale.commit("u0", "u1", "u3")
    before = {user: [answer.slot_no for answer in told] for (user, _), told in sale.asked.items()}
    sale.lose()
    sale.restore()
    assert sale.agrees()
    assert sale.engine.inventory() == (5, 0, 7)
    for n, quantity in enumerate((4, 1, 3, 2)):
        again = sale.claim(f"u{n}", f"r{n}", quantity)
        assert {answer.outcome for answer in again} == {"replayed"}
        assert [answer.slot_no for answer in again] == before[f"u{n}"][: 1 if n == 2 else quantity], (
            "the ledger has no slots of a claim that it has voided: its id has the first"
        )
        rows = sale.engine.claim_slots(again[0].claim_id)
        assert {(row["state"], row["receipt"]) for row in rows} == {("voided" if n == 2 else "committed", None)}
    placed = sale.engine.dicts("SELECT * FROM intake.settled_claims(%s, NULL, 100)", POOL)
    assert sorted(len(claim["slot_nos"]) for claim in placed if claim["state"] == "committed") == [1, 2, 4]


def test_the_limit_counts_what_the_ledger_has(intake: Intake, books: Ledger) -> None:
    sale = Sale(intake, books, claimsPerUser=2)
    sale.claim("ann", "r1")
    sale.claim("ann", "r2")
    sale.commit()  # both are voided, and no longer count
    sale.claim("ann", "r3")
    sale.commit("ann")
    sale.lose()
    sale.restore()
    assert [sale.claim("ann", f"more {n}")[0].outcome for n in range(2)] == ["claimed", "limit_reached"]
    assert sale.claim("ann", "r1")[0].outcome == "replayed"


def test_the_status_tells_of_a_restored_pool(sale: Sale) -> None:
    assert sale.engine.status()["restored"] is None
    sale.lose()
    sale.restore()
    restored = sale.engine.status()["restored"]
    assert restored.pop("at")
    assert restored == {"committed": 3, "voided": 1}, "claims"
    assert sale.engine.value("SELECT by_name FROM intake.pools"), (
        "a slot can be claimed before the sequence reaches its number"
    )
    entries = sale.engine.rows("SELECT action, reason, detail FROM intake.audit_log(%s)", POOL)
    assert entries == [("restore", "rebuilt from the ledger", {"committed": 3, "voided": 1})]


def test_a_crash_after_the_restore_loses_nothing(sale: Sale) -> None:
    sale.lose()
    sale.restore()
    assert sale.claim("new", "new")[0].outcome == "claimed"
    lose_unlogged(sale.engine.connection)
    sale.engine.housekeep()
    assert sale.agrees()
    assert sale.engine.inventory() == (7, 1, 4)
    assert sale.engine.status()["restored"]["committed"] == 3


def test_half_a_restore_leaves_nothing(sale: Sale) -> None:
    sale.lose()
    first, second, *_ = sale.pages()
    second[0]["slot_nos"] = [13]
    second[0]["state"] = "committed"
    with pytest.raises(psycopg.Error, match=second[0]["claim_id"]):
        sale.take([first, second])
    assert sale.engine.value("SELECT count(*) FROM intake.intents") == 0
    sale.restore()
    assert sale.agrees()


@pytest.mark.parametrize("before", ["seeded", "restored", "restored and seeded"])
def test_only_a_new_pool_is_restored(sale: Sale, before: str) -> None:
    sale.lose()
    if "restored" in before:
        sale.take(sale.pages())
    if "seeded" in before:
        sale.engine.seed()
    found = sale.engine.value("SELECT count(*) FROM intake.intents")
    assert code(sale.engine, "SELECT intake.restore(%s, '[]')", POOL) == "IE003"
    assert code(sale.engine, "SELECT intake.end_restore(%s)", POOL) == "IE003"
    assert sale.engine.value("SELECT count(*) FROM intake.intents") == found


def test_a_page_that_comes_twice_is_refused(sale: Sale) -> None:
    sale.lose()
    with pytest.raises(psycopg.Error, match="restored twice") as caught:
        sale.take([*sale.pages(), *sale.pages()])
    assert caught.value.sqlstate == "IE002"


def test_seed_waits_for_a_running_restore(sale: Sale) -> None:
    sale.lose()
    first, *_ = sale.pages()
    with sale.engine.connection.transaction(force_rollback=True), Intake(sale.engine.uri) as other:
        sale.engine.value("SELECT intake.restore(%s, %s)", POOL, Jsonb(first))
        other.connection.execute("SET lock_timeout = '50ms'")
        assert code(other, "SELECT intake.seed(%s)", POOL) == "55P03", "it waits for the lock"


def test_an_unknown_pool_is_refused(intake: Intake) -> None:
    assert code(intake, "SELECT intake.restore('nobody', '[]')") == "IE001"
    assert code(intake, "SELECT intake.end_restore('nobody')") == "IE001"


def code(intake: Intake, query: LiteralString, *arguments: object) -> str:
    """The SQLSTATE of a refusal; empty if there was none."""
    try:
        intake.rows(query, *arguments)
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


def claim(**changes: object) -> dict[str, Any]:
    """Slot 7 of the counted pool, as ledger_claims() has it."""
    known = {
        "claim_id": "01900000-0000-7000-8000-000000000007",
        "state": "committed",
        "user_id": "ann",
        "request_id": "r1",
        "claimed_at": "2026-12-01T18:00:00+00:00",
        "slot_nos": [7],
        "resource_ids": ["resource 7"],
    }
    return known | changes


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"slot_nos": [], "resource_ids": []}, "IE002"),
        ({"slot_nos": None}, "IE002"),
        ({"slot_nos": list(range(1, 102))}, "IE002"),
        ({"slot_nos": [7, 7], "resource_ids": ["resource 7", "resource 7"]}, "IE002"),
        ({"slot_nos": [7, 13], "resource_ids": ["resource 7", "resource 8"]}, "IE002"),
        ({"slot_nos": [7, None], "resource_ids": ["resource 7", "resource 8"]}, "IE002"),
        ({"slot_nos": [7, 8], "resource_ids": ["resource 8", "resource 7"]}, "IE006"),
        ({"slot_nos": [7, 8], "resource_ids": ["resource 7"]}, "IE006"),
        ({"slot_nos": [7], "resource_ids": ["resource 7", "resource 8"]}, "IE006"),
        ({"slot_nos": [13]}, "IE002"),
        ({"slot_nos": [0]}, "IE002"),
        ({"slot_nos": [None]}, "IE002"),
        ({"resource_ids": [str(uuid4())]}, "IE006"),
        ({"resource_ids": []}, "IE006"),
        ({"state": "queued"}, "IE002"),
        ({"state": None}, "IE002"),
        ({"state": "voided", "claim_id": "01900000-0000-7000-8000-00000000000d"}, "IE002"),  # slot 13
        ({"user_id": None}, "IE002"),
        ({"user_id": "x" * 201}, "IE002"),
        ({"request_id": ""}, "IE002"),
    ],
)
def test_a_claim_that_this_pool_cannot_have_sold_is_refused_by_its_id(
    intake: Intake, changes: dict[str, Any], code: str
) -> None:
    intake.configure(12)
    resources = {f"resource {n}": intake.value(RESOURCE, POOL, n) for n in (7, 8)}
    bad = claim(**changes)
    bad["resource_ids"] = [str(resources.get(each, each)) for each in bad["resource_ids"]]
    with pytest.raises(psycopg.Error) as caught:
        intake.value("SELECT intake.restore(%s, %s)", POOL, Jsonb([bad]))
    assert caught.value.sqlstate == code, caught.value
    assert str(bad["claim_id"]) in str(caught.value)
    assert intake.value("SELECT count(*) FROM intake.intents") == 0


RESOURCE = "SELECT intake_private.resource_of(intake_private.resource_prefix_of(%s), %s)"


@pytest.mark.parametrize("rubbish", [None, "{}", '"x"', "[1]", '[{"claim_id": "x"}]', '[{"slot_nos": "7"}]', "[{}]"])
def test_a_malformed_page_is_refused(intake: Intake, rubbish: str | None) -> None:
    intake.configure(12)
    assert code(intake, "SELECT intake.restore(%s, %s::jsonb)", POOL, rubbish) == "IE002"


def test_another_inventory_than_was_sold_from_is_refused(intake: Intake, books: Ledger) -> None:
    sale = Sale(intake, books, ownResources=True)
    sale.claim("ann", "r1", seat="A-4")
    sale.commit("ann")
    sale.lose()
    sale.engine.connection.execute("TRUNCATE intake.inventory")
    sale.engine.stock(1, LABELS[1:])
    (page,) = sale.pages()
    assert code(sale.engine, "SELECT intake.restore(%s, %s)", POOL, Jsonb(page)) == "IE006"


def test_an_id_without_a_time_and_a_claim_without_one_are_restored(intake: Intake) -> None:
    intake.configure(12)
    resource = str(intake.value(RESOURCE, POOL, 7))
    page = [claim(resource_ids=[resource], claimed_at=None, request_id=None)]
    with intake.connection.transaction():
        assert intake.value("SELECT intake.restore(%s, %s)", POOL, Jsonb(page)) == 1
        intake.value("SELECT intake.end_restore(%s)", POOL)
    intake.seed()
    assert intake.inventory() == (11, 0, 1)
    assert intake.value("SELECT locked_at FROM intake.claimed_slots") is not None


@pytest.mark.parametrize(
    ("claimed", "passed"),
    [
        ([], 0),
        (range(1, 51), 50),
        ([n for n in range(1, 51) if n % 10], 49),  # of ten, one was voided
        ([99, 100], 0),  # by name, far away
        ([1, 2, 3, 90], 3),
        (range(51, 101), 100),
    ],
)
def test_numbers_begin_after_what_is_sold(intake: Intake, claimed: list[int], passed: int) -> None:
    """No claim skips thousands of claimed numbers, or waits until thousands of free ones are listed."""
    restore_slots(intake, claimed)
    assert intake.value("SELECT coalesce(pg_sequence_last_value('intake.numbers_1'), 0)") == passed
    free = set(range(1, 101)) - set(claimed)
    told = [intake.claim(f"u{n}", None) for n in range(len(free))]
    assert {answer.slot_no for answer in told} == free
    assert intake.claim("late").outcome == "sold_out"
    assert intake.reconcile() == []


def test_no_claim_has_to_skip_what_is_sold(intake: Intake) -> None:
    restore_slots(intake, range(1, 51))
    before = intake.value("SELECT last_value FROM intake.numbers_1")
    assert (before, intake.claim("ann").slot_no) == (50, 51)


def restore_slots(intake: Intake, claimed: Iterable[int]) -> None:
    """A pool of a hundred, of which the ledger has sold these."""
    intake.configure(100)
    page = [
        claim(
            claim_id=f"01900000-0000-7000-8000-{n:012x}",
            request_id=f"r{n}",
            slot_nos=[n],
            resource_ids=[str(intake.value(RESOURCE, POOL, n))],
        )
        for n in claimed
    ]
    with intake.connection.transaction():
        intake.value("SELECT intake.restore(%s, %s)", POOL, Jsonb(page))
        intake.value("SELECT intake.end_restore(%s)", POOL)
    intake.seed()


def test_what_a_restore_writes_is_logged() -> None:
    assert "UNLOGGED" not in (INTAKE_SQL / "0017_restore.sql").read_text(encoding="utf-8")
