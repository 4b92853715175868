"""I13: the same request with other content is refused, whatever has become of its claim, and never answered as it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, LiteralString

import pytest
from psycopg.types.json import Jsonb

from tests.sql.intake import POOL, Answer, Intake, Request, error_of, lose_unlogged, wait_until_blocked

USER, REQUEST, MARK = "telltale-user", "telltale-request", "telltale-payload"
PAYLOAD = {"card": MARK, "price": 12}
TEXTS: LiteralString = "SELECT outcome FROM intake.claim_resource(%s, %s, %s, %s::jsonb)"

REPEAT: LiteralString = (
    "SELECT outcome, differs FROM intake.claim_batch(%s, ARRAY[%s], ARRAY[%s], NULL, ARRAY[%s]::jsonb[])"
)


def refused(intake: Intake, call: Callable[[], object], differs: str) -> None:
    """IE009 that says which, quotes nothing and changes nothing."""
    before = intake.rows("SELECT * FROM intake.intents"), intake.value("SELECT last_value FROM intake.numbers_1")
    error = error_of(call)
    assert error.sqlstate == "IE009"
    assert f"another {differs}" in str(error)
    said = [getattr(error.diag, name) for name in dir(error.diag) if name.startswith(("message", "cont"))]
    assert "telltale" not in " ".join(filter(None, [*said, str(error)]))
    assert error.diag.message_hint
    assert before == (
        intake.rows("SELECT * FROM intake.intents"),
        intake.value("SELECT last_value FROM intake.numbers_1"),
    )


def release(intake: Intake) -> None:
    intake.value("SELECT count(intake.release_claim(%s, (message ->> 'claim_id')::uuid, 'ill')) FROM intake.intents",
                 POOL)  # fmt: skip


def die(intake: Intake) -> list[int]:
    messages = intake.read()
    return intake.change("dead_letter", messages, ["why"] * len(messages))


def discard(intake: Intake) -> None:
    die(intake)
    intake.rows("SELECT intake.discard(%s, ARRAY(SELECT msg_id FROM intake.dead_letters(%s)), 'me', 'x')", POOL, POOL)


def crash(intake: Intake) -> None:
    intake.acknowledge(intake.read(1), "committed")
    intake.acknowledge(intake.read(1), "voided")
    lose_unlogged(intake.connection)
    intake.seed()


FATES: dict[str, Callable[[Intake], object]] = {
    "queued": lambda intake: None,
    "leased": lambda intake: intake.read(),
    "committed": lambda intake: intake.acknowledge(intake.read(), "committed"),
    "voided": lambda intake: intake.acknowledge(intake.read(), "voided"),
    "released": release,
    "dead": die,
    "discarded": discard,
    "rebuilt": crash,
    "paused": lambda intake: intake.configure(40, claimsPerUser=30, paused=True),
    "sealed": lambda intake: intake.value("SELECT intake.seal(%s, 'over')", POOL),
}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("limit", [None, 30])
def test_i13_a_repeat_with_other_content_is_refused_whatever_became_of_the_claim(
    intake: Intake, limit: int | None, fate: str
) -> None:
    intake.open(40, claimsPerUser=limit)
    seats = [str(each) for (each,) in intake.rows("SELECT resource_id FROM intake.slots ORDER BY slot_no")]
    calls: dict[str, Callable[..., list[Answer]]] = {
        "one": lambda payload: [intake.claim(USER, f"{REQUEST} 1", payload)],
        "two": lambda payload, quantity=2: intake.claim_several(USER, quantity, f"{REQUEST} 2", payload),
        "named": lambda payload, first=30: intake.claim_seats(USER, [seats[first], seats[28]], f"{REQUEST} 3", payload),
    }
    first = {name: call(PAYLOAD) for name, call in calls.items()}
    assert [len(answers) for answers in first.values()] == [1, 2, 2]
    FATES[fate](intake)
    for name, call in calls.items():
        assert call(dict(reversed(PAYLOAD.items()))) == [replace(each, outcome="replayed") for each in first[name]]
        for other in (PAYLOAD | {"price": 13}, PAYLOAD | {"more": None}, {"card": MARK}, {}, None):
            refused(intake, partial(call, other), "payload")
    refused(intake, lambda: calls["two"](PAYLOAD, 3), "quantity")
    refused(intake, lambda: calls["two"](PAYLOAD, 1), "quantity")
    refused(intake, lambda: intake.claim(USER, f"{REQUEST} 2", PAYLOAD), "quantity")
    refused(intake, lambda: calls["named"](PAYLOAD, 29), "seats")
    refused(intake, lambda: intake.claim_several(USER, 2, f"{REQUEST} 3", PAYLOAD), "seats")
    refused(intake, lambda: intake.claim_seats(USER, [seats[0]], f"{REQUEST} 1", PAYLOAD), "seats")
    refused(intake, lambda: intake.claim_seats(USER, seats[1:3], f"{REQUEST} 2", PAYLOAD), "seats")
    assert intake.claim_seats(USER, [seats[28], seats[30]], f"{REQUEST} 3", PAYLOAD) == [
        replace(each, outcome="replayed") for each in first["named"]
    ], "in whatever order they are named now"
    assert intake.reconcile() == []


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("limit", [None, 30])
def test_i13_in_a_batch_only_the_caller_with_other_content_is_told(
    intake: Intake, limit: int | None, fate: str
) -> None:
    intake.open(40, claimsPerUser=limit)
    requests = [Request(f"u{n}", "r1", 1 + n % 2, PAYLOAD if n % 3 else None) for n in range(6)]
    first = intake.claim_requests(requests)
    seat = str(intake.value("SELECT resource_id FROM intake.slots WHERE slot_no = 30"))
    intake.claim_seats("u6", [seat], "r1")
    FATES[fate](intake)
    other = [
        requests[0],
        replace(requests[1], payload=PAYLOAD | {"price": 13}),
        replace(requests[2], quantity=2),
        replace(requests[3], payload={}),
        replace(requests[4], payload=None),
        requests[5],
        Request("u6", "r1"),
        Request("new", "r1", 2, PAYLOAD),
        Request("new", "r1", 2),
    ]
    told = intake.claim_requests(other)
    assert [each[0].differs for each in told[:7]] == [None, "payload", "quantity", "payload", "payload", None, "seats"]
    for each in told[1:5] + told[6:7]:
        assert each == [replace(Answer("different", None, None, None), differs=each[0].differs)]
    for place in (0, 5):
        assert told[place] == [replace(each, outcome="replayed") for each in first[place]]
    if fate in {"paused", "sealed"}:
        assert [each[0].outcome for each in told[7:]] == ["closed" if fate == "sealed" else "paused"] * 2
    else:
        assert [each[0].outcome for each in told[7:]] == ["claimed", "different"], "also within one batch"
        assert len(told[7]) == 2
    assert intake.reconcile() == []


SAME = [
    ('{"a": 1, "b": {"c": [1, 2]}}', '{ "b" :{"c":[1.0, 2.00]},"a":1e0}'),
    ('{"a": 1}', '{"a": 2, "a": 1}'),
    ('{"a": 0}', '{"a": -0}'),
    ('{"a": "\\u00e9"}', '{"a": "é"}'),
    ("{}", "{ }"),
    (None, None),
]
OTHER = [
    ('{"a": 1}', '{"a": "1"}'),
    ('{"a": 1}', '{"a": 1.01}'),
    ('{"a": [1, 2]}', '{"a": [2, 1]}'),
    ('{"a": null}', "{}"),
    ('{"a": 1}', '{"A": 1}'),
    ('{"a": "\\u00e9"}', '{"a": "e\\u0301"}'),
    ("{}", None),
    (None, "{}"),
    (None, '{"a": 1}'),
    ('{"a": 1}', None),
]


def test_i13_payloads_are_the_same_by_what_they_say(intake: Intake) -> None:
    intake.open(len(SAME))
    for n, (one, same) in enumerate(SAME):
        assert intake.value(TEXTS, POOL, "ann", f"r{n}", one) == "claimed"
        told = intake.rows(REPEAT, POOL, "ann", f"r{n}", same)
        assert told == [("replayed", None)], (one, same)


def test_i13_payloads_differ_by_what_they_say(intake: Intake) -> None:
    intake.open(len(OTHER))
    for n, (one, other) in enumerate(OTHER):
        assert intake.value(TEXTS, POOL, "ann", f"r{n}", one) == "claimed"
        refused(intake, partial(intake.value, TEXTS, POOL, "ann", f"r{n}", other), "payload")
        told = intake.rows(REPEAT, POOL, "ann", f"r{n}", other)
        assert told == [("different", "payload")], (one, other)


def test_i13_a_request_belongs_to_its_user_and_its_pool(intake: Intake) -> None:
    intake.open(3).claim("ann", "r1", PAYLOAD)
    assert intake.claim("bob", "r1", {"price": 1}).outcome == "claimed"
    with Intake(intake.uri, "other") as other:
        assert other.open(3).claim("ann", "r1", {"price": 1}).outcome == "claimed"


def test_i13_a_claim_is_repeated_with_its_own_payload_after_another_was_confirmed(intake: Intake) -> None:
    intake.open(9, holdSeconds=60)
    for user, payload in (("ann", PAYLOAD), ("bob", None)):
        held = intake.claim_several(user, 2, "r1", payload)
        assert {answer.outcome for answer in held} == {"held"}
        assert intake.confirm(held[0].claim_id, user, {"token": MARK}) == "confirmed"
        (again,) = intake.claim_requests([Request(user, "r1", 2, payload)])
        assert again == [replace(each, outcome="replayed", expires_at=None) for each in held]
        refused(intake, partial(intake.claim_several, user, 2, "r1", {"token": MARK}), "payload")
    assert intake.reconcile() == []


def test_i13_of_two_different_orders_sent_at_once_under_one_key_one_is_refused(intake: Intake) -> None:
    """A back end that gives two orders one key, on two connections: one transaction after the other."""
    intake.open(9)
    with Intake(intake.uri) as one, Intake(intake.uri) as other, ThreadPoolExecutor() as threads:
        with one.connection.transaction():
            first = one.claim_several("ann", 2, "r1", PAYLOAD)
            requests = [Request("ann", "r1", 3, PAYLOAD), Request("bob", "r1")]
            pending = threads.submit(other.claim_requests, requests)
            wait_until_blocked(intake, pending)
        told = pending.result()
    assert first[0].outcome == "claimed"
    assert [each[0].outcome for each in told] == ["different", "claimed"]
    assert intake.status()["inventory"]["reserved"] == 3
    assert intake.housekeep() == 0
    assert intake.reconcile() == []


def test_i13_a_restored_claim_is_compared_by_what_the_ledger_kept(intake: Intake) -> None:
    """Quantity and seats; the ledger's pages have no payload, and no slots of a voided claim."""
    intake.configure(9)
    claim = {
        "claim_id": "01900000-0000-7000-8000-000000000003",
        "state": "committed",
        "user_id": "ann",
        "request_id": "r1",
        "claimed_at": "2026-01-01T00:00:00Z",
        "slot_nos": [3, 4],
    }
    voided = claim | {
        "claim_id": "01900000-0000-7000-8000-000000000007",
        "state": "voided",
        "user_id": "bob",
        "slot_nos": [],
        "resource_ids": [],
    }
    prefix = intake.value("SELECT intake_private.resource_prefix_of(%s)", POOL)
    ids: list[Any] = intake.column("SELECT intake_private.resource_of(%s, n) FROM generate_series(3, 4) n", prefix)
    with intake.connection.transaction():
        intake.value(
            "SELECT intake.restore(%s, %s)", POOL, Jsonb([claim | {"resource_ids": [str(x) for x in ids]}, voided])
        )
        intake.value("SELECT intake.end_restore(%s)", POOL)
    intake.seed()
    for payload in (None, PAYLOAD):
        assert [each.outcome for each in intake.claim_several("ann", 2, "r1", payload)] == ["replayed"] * 2
    refused(intake, lambda: intake.claim_several("ann", 3, "r1"), "quantity")
    assert {each.outcome for each in intake.claim_seats("ann", [str(x) for x in ids], "r1")} == {"replayed"}
    other = str(intake.value("SELECT intake_private.resource_of(%s, 5)", prefix))
    refused(intake, lambda: intake.claim_seats("ann", [str(ids[0]), other], "r1"), "seats")
    for quantity in (1, 3):
        assert {each.outcome for each in intake.claim_several("bob", quantity, "r1")} == {"replayed"}
