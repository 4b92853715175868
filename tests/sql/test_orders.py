"""One claim with several slots: all or none, in every order of events; and what the caller sends along."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.intake import Answer, Intake, Request, error_of, lose_unlogged

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD = {"e-mail": "ann@example.org", "price": 12.5, "seats": [{"x": None}]}
LAST: LiteralString = "SELECT max(resource_id::text) FROM intake.allocations WHERE status = 'AVAILABLE'"
NONE = Answer("", None, None, None)


def hall(intake: Intake, seats: int, **settings: object) -> list[UUID]:
    """Named seats with attributes, on sale; their ids."""
    intake.configure(seats, ownResources=True, **settings)
    ids = [uuid4() for _ in range(seats)]
    intake.stock(1, [(resource, f"Café {n}") for n, resource in enumerate(ids, 1)])
    intake.connection.execute(
        "UPDATE intake.inventory SET attributes = jsonb_build_object('row', slot_no) WHERE slot_no % 2 = 0"
    )
    intake.seed()
    return ids


def test_a_claim_is_one_message_with_all_its_seats_and_what_the_caller_sends(intake: Intake) -> None:
    ids = hall(intake, 9)
    for answers in (
        intake.claim_several("ann", 3, "r1", PAYLOAD),
        intake.claim_seats("bob", ["Café 6", "Café 5"], "r1", PAYLOAD),
        *intake.claim_requests([Request("cid", "r1", 2, PAYLOAD), Request("dan", "r1", 1, PAYLOAD)]),
    ):
        assert len({answer.claim_id for answer in answers}) == 1
        message = intake.value(
            "SELECT message FROM pgmq.q_intake_queue WHERE message ->> 'claim_id' = %s::text", answers[0].claim_id
        )
        assert message["payload"] == PAYLOAD
        for answer, seat in zip(answers, message["seats"], strict=True):
            assert answer.slot_no
            assert answer.resource_id == ids[answer.slot_no - 1]
            assert answer.label == f"Café {answer.slot_no}"
            assert answer.attributes == (None if answer.slot_no % 2 else {"row": answer.slot_no})
            given = (seat["slot_no"], UUID(seat["resource_id"]), seat["label"], seat["attributes"])
            assert given == (answer.slot_no, answer.resource_id, answer.label, answer.attributes)
    counts = intake.status()
    assert (counts["inventory"]["reserved"], counts["queue"]["depth"], counts["claims"]) == (8, 4, 4)
    assert intake.reconcile() == []


def test_the_limit_counts_slots(intake: Intake) -> None:
    intake.open(40, claimsPerUser=4)
    several = intake.claim_several

    def outcome(user: str, quantity: int, request: str) -> str:
        return several(user, quantity, request)[0].outcome

    assert [outcome("ann", 3, "r1"), outcome("ann", 2, "r2"), outcome("ann", 1, "r3")] == [
        "claimed",
        "limit_reached",
        "claimed",
    ]
    assert outcome("ann", 1, "r4") == "limit_reached"
    assert outcome("bob", 5, "r1") == "limit_reached"
    assert outcome("bob", 4, "r2") == "claimed"
    asked = [Request("cid", "a", 3), Request("cid", "b", 2), Request("cid", "c", 1), Request("dan", None, 5)]
    told = intake.claim_requests([*asked, Request("dan", None, 4), Request("dan")])
    assert [(each[0].outcome, len(each)) for each in told] == [
        ("claimed", 3),
        ("limit_reached", 1),
        ("claimed", 1),
        ("limit_reached", 1),
        ("claimed", 4),
        ("limit_reached", 1),
    ]
    message = [each for each in intake.read() if each["user_id"] == "ann" and len(each["seats"]) == 3]
    intake.acknowledge(message, "voided")
    assert outcome("ann", 4, "r5") == "limit_reached"
    assert outcome("ann", 3, "r5") == "claimed", "a voided claim of three gives three back"
    assert intake.reconcile() == []


def test_seats_are_taken_all_or_none_and_those_that_are_taken_are_named(intake: Intake) -> None:
    ids = hall(intake, 9)
    first = intake.claim_seats("ann", ["Café 7", "Café 2", str(ids[4])], "r1")
    assert [(each.outcome, each.slot_no) for each in first] == [("claimed", 7), ("claimed", 2), ("claimed", 5)]
    told = intake.claim_seats("bob", ["Café 8", "Café 7", "Café 1", "Café 5"], "r1")
    taken = {answer.slot_no: answer for answer in first}
    assert told == [replace(taken[n], outcome="taken", claim_id=None) for n in (5, 7)]
    assert intake.status()["inventory"]["available"] == 6
    assert intake.claim_seats("bob", ["Café 8", "Café 1"], "r1")[0].outcome == "claimed", "it made no claim before"
    assert intake.claim_seats("ann", ["Café 7", "Café 2", "Café 5"], "r1") == [
        replace(each, outcome="replayed") for each in first
    ]
    assert intake.reconcile() == []


def test_a_seat_is_found_by_its_id_in_any_spelling_and_by_its_label_however_it_is_composed(intake: Intake) -> None:
    ids = hall(intake, 5)
    spellings = [str(ids[0]).upper(), "{" + str(ids[1]) + "}", ids[2].hex, "Cafe\u0301 4"]
    assert [each.slot_no for each in intake.claim_seats("ann", spellings)] == [1, 2, 3, 4]
    for twice in (["Café 5", "Cafe\u0301 5"], [str(ids[4]), ids[4].hex], ["Café 5", str(ids[4]).upper()]):
        with pytest.raises(psycopg.Error, match="named twice") as caught:
            intake.claim_seats("bob", twice)
        assert caught.value.sqlstate == "IE002"
    assert intake.status()["inventory"]["available"] == 1


def test_named_seats_are_never_answered_with_the_next_ones(intake: Intake) -> None:
    """Not either while the pool is rebuilt."""
    hall(intake, 5)
    lose_unlogged(intake.connection)
    assert intake.claim_seats("ann", ["Café 3"]) == [replace(NONE, outcome="not_ready")]
    intake.seed()
    assert intake.claim_seats("ann", ["Café 3"])[0].slot_no == 3


def test_seats_that_could_not_be_had_go_back_where_they_were(intake: Intake) -> None:
    """Slots on the free list stay there; slots that the sequence has not reached are not put there."""
    hall(intake, 6, claimsPerUser=3)
    intake.release(intake.claim("ann").claim_id)
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [1]
    intake.claim_seats("bob", ["Café 4"])
    assert intake.claim_seats("cid", ["Café 5", "Café 1", "Café 4"])[0].outcome == "taken"
    assert intake.claim_seats("bob", ["Café 5", "Café 1", "Café 6"])[0].outcome == "limit_reached"
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == [1]
    assert intake.reconcile() == []
    assert [each.slot_no for each in intake.claim_several("dan", 3)] == [2, 3, 5]
    assert {each.slot_no for each in intake.claim_several("eve", 2)} == {1, 6}
    assert intake.claim("late").outcome == "sold_out"


def test_a_claim_in_a_batch_has_all_its_slots_or_leaves_none(intake: Intake) -> None:
    """The numbers 1 and 2 are drawn for the first, 3 and 4 for the second; 2 and 3 are claimed already."""
    ids = hall(intake, 9)
    intake.claim_seats("bob", [str(ids[1]), str(ids[2])], "r1")
    told = intake.claim_requests([Request("ann", "r1", 2, PAYLOAD), Request("cid", None, 2), Request("dan", "r1", 3)])
    slots = [{answer.slot_no for answer in each} for each in told]
    assert [(each[0].outcome, len(each)) for each in told] == [("claimed", 2), ("claimed", 2), ("claimed", 3)]
    assert not set.union(*slots) & {2, 3}
    assert intake.inventory() == (0, 9, 0)
    assert len(intake.column("SELECT claim_id FROM intake.claimed_slots")) == 9
    assert intake.column("SELECT slot_no FROM intake.free_numbers") == []
    assert intake.reconcile() == []
    assert intake.claim_requests([Request("ann", "r1", 2, PAYLOAD)])[0][0].outcome == "replayed"


@pytest.mark.parametrize("settings", [{}, {"claimsPerUser": 4}, {"holdSeconds": 60}])
def test_the_last_slots_of_a_batch(intake: Intake, settings: dict[str, Any]) -> None:
    """More than are left are asked for: nobody gets a part, and what is left is for those who want less."""
    intake.open(10, **settings)
    requests = [Request(f"u{n}", "r1", 3 if n < 4 else 1, PAYLOAD) for n in range(6)]
    told = intake.claim_requests(requests)
    won = "held" if "holdSeconds" in settings else "claimed"
    assert [(each[0].outcome, len(each)) for each in told] == [
        (won, 3),
        (won, 3),
        (won, 3),
        ("too_few", 1),
        (won, 1),
        ("sold_out", 1),
    ]
    assert intake.status()["inventory"]["available"] == 0
    assert intake.reconcile() == []
    again = intake.claim_requests(requests)
    assert [each[0].outcome for each in again] == ["replayed"] * 3 + ["sold_out", "replayed", "sold_out"]
    assert [each[0].claim_id for each in again] == [each[0].claim_id for each in told]


def test_a_payload_has_a_limit_that_can_be_changed(intake: Intake) -> None:
    """The bytes of the text of the jsonb: `{"x": "…"}` has nine more than its text."""
    intake.open(60)
    for most in (4096, 9, 65536):
        intake.configure(60, **({} if most == 4096 else {"maxPayloadBytes": most}))
        fits, large = {"x": "y" * (most - 9)}, {"x": "y" * (most - 8)}
        calls: tuple[Callable[[str, object], Answer], ...] = (
            lambda user, payload: intake.claim(user, None, payload),
            lambda user, payload: intake.claim_several(user, 2, None, payload)[0],
            lambda user, payload: intake.claim_requests([Request("first"), Request(user, None, 2, payload)])[1][0],
            lambda user, payload: intake.claim_seats(user, [intake.value(LAST)], None, payload)[0],
        )
        for call in calls:
            before = intake.status()["inventory"]
            error = error_of(partial(call, "ann", large))
            assert (error.sqlstate, f"payload has {most + 1} bytes" in str(error)) == ("IE002", True)
            assert "yy" not in str(error)
            assert intake.status()["inventory"] == before
            assert call("ann", fits).outcome == "claimed"
    with pytest.raises(psycopg.Error, match="out of range"):
        intake.configure(60, maxPayloadBytes=65537)
    with pytest.raises(psycopg.Error, match="request 2 of the batch"):
        intake.claim_requests([Request("ann"), Request("bob", payload={"x": "y" * 70000}), Request("cid")])


# What PostgreSQL refuses when it reads the parameter, before our function is called.
UNREADABLE = {
    '{"x": "\\u0000"}': "22P05",
    '{"x": "\\ud800"}': "22P02",
    '{"x": "\\udc00\\ud800"}': "22P02",
    '{"x": "\\ud800y"}': "22P02",
    '{"x": 1': "22P02",
    '{"x": NaN}': "22P02",
    "": "22P02",
    '{"x": "a\nb"}': "22P02",
}


def refused_everywhere(intake: Intake, payload: str, sqlstate: str) -> list[str]:
    """Every function refuses it and takes nothing. What is said to the batch, whose second request has it."""
    hall(intake, 9)
    said = []
    for call in (
        "claim_resource('drop', 'ann', 'r1', %s)",
        "claim_resources('drop', 'ann', 2, 'r1', %s)",
        "claim_seats('drop', 'ann', '{Café 1,Café 2}', 'r1', %s)",
        "claim_batch('drop', '{bob,ann}', '{r1,r1}', '{1,2}', ARRAY[NULL, %s]::jsonb[])",
    ):
        statement = f"SELECT * FROM intake.{call}".encode()
        error = error_of(partial(intake.connection.execute, statement, [payload]))
        assert error.sqlstate == sqlstate
        said.append(str(error))
    assert intake.inventory() == (9, 0, 0)
    assert intake.claim("ann", "r1", {}).slot_no == 1, "no number was drawn"
    return said


@pytest.mark.parametrize("payload", UNREADABLE)
def test_a_payload_that_cannot_be_read_takes_nothing(intake: Intake, payload: str) -> None:
    refused_everywhere(intake, payload, UNREADABLE[payload])


@pytest.mark.parametrize("payload", ["null", "true", "1", '"x"', "[]", '[{"x": 1}]'])
def test_a_payload_is_an_object_or_nothing(intake: Intake, payload: str) -> None:
    assert "request 2 of the batch" in refused_everywhere(intake, payload, "IE002")[-1]


def test_a_nul_byte_in_a_payload_takes_nothing(intake: Intake) -> None:
    """A driver that lets it through is refused by the server."""
    intake.open(3)
    with pytest.raises(psycopg.DataError):
        intake.value("SELECT intake.claim_resource('drop', 'ann', 'r1', %s::jsonb)", '{"x": "\x00"}')
    raw = b'{"x": "\x00"}'
    with pytest.raises(psycopg.Error) as caught:
        intake.value("SELECT intake.claim_resource('drop', 'ann', 'r1', convert_from(%s, 'UTF8')::jsonb)", raw)
    assert caught.value.sqlstate == "22021"
    assert intake.inventory() == (3, 0, 0)
