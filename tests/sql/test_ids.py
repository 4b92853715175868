"""Ids in whatever type a driver sends them: users and requests are texts, claims are UUIDs."""

from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from tests.sql.intake import POOL, Intake

ANN = UUID("a0000000-0000-4000-8000-000000000001")
ORDER = UUID("b0000000-0000-4000-8000-000000000001")
# psycopg and JDBC send a UUID with its type, JDBC sends a string as varchar; node-postgres names no types, nor does
# psycopg for a str.
KINDS: dict[str, tuple[LiteralString, type]] = {
    "uuid": ("%s", UUID),
    "uuid, also said": ("%s::uuid", str),
    "text": ("%s::text", str),
    "varchar": ("%s::varchar", str),
    "unknown": ("%s", str),
}


class Driver:
    """Calls with ids of one type, as the claimer."""

    def __init__(self, intake: Intake, kind: str) -> None:
        self.intake = intake
        self.hole, self.type = KINDS[kind]

    def call(self, query: LiteralString, *arguments: object) -> list[dict[str, Any]]:
        """A call; {} in it is an id."""
        values = [self.type(str(each)) if isinstance(each, UUID) else each for each in arguments]
        values = [[self.type(str(x)) for x in each] if isinstance(each, list) else each for each in values]
        return self.intake.dicts(query.replace("{}[]", self._array()).replace("{}", self.hole), *values)

    def _array(self) -> LiteralString:
        return self.hole + "[]" if "::" in self.hole else self.hole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 20])
def test_every_function_of_a_claimer_takes_users_and_requests_as_they_come(
    intake: Intake, limit: int | None, kind: str
) -> None:
    intake.open(30, claimsPerUser=limit, holdSeconds=60, extendSeconds=60)
    driver = Driver(intake, kind)
    seat = intake.value("SELECT resource_id FROM intake.slots WHERE slot_no = 20")
    one, several, seats = uuid4(), uuid4(), uuid4()
    for outcome in ("held", "replayed"):
        assert driver.call("SELECT * FROM intake.claim_resource(%s, {}, {})", POOL, ANN, one)[0]["outcome"] == outcome
        rows = driver.call("SELECT * FROM intake.claim_resources(%s, {}, 2, {})", POOL, ANN, several)
        assert [row["outcome"] for row in rows] == [outcome] * 2
        rows = driver.call("SELECT * FROM intake.claim_seats(%s, {}, {}[], {})", POOL, ANN, [seat], seats)
        assert [(row["outcome"], row["slot_no"]) for row in rows] == [(outcome, 20)]
        rows = driver.call(
            "SELECT * FROM intake.claim_batch(%s, {}[], {}[], '{2,1}')", POOL, [ANN, seat], [ORDER, ORDER]
        )
        assert [row["outcome"] for row in rows] == [outcome] * 3
    for request in (one, several, seats, ORDER):
        assert driver.call("SELECT * FROM intake.claim_status(%s, {}, {})", POOL, ANN, request)[0]["state"] == "held"
    users = intake.column("SELECT DISTINCT user_id FROM intake.claimed_slots")
    assert users == sorted([str(ANN), str(seat)]), "in their usual spelling"
    claim_id = rows[0]["claim_id"]
    user = UUID(intake.value("SELECT user_id FROM intake.claimed_slots WHERE claim_id = %s", claim_id))
    calls = (
        ("SELECT (intake.extend_hold(%s, %s, {})).outcome AS said", "extended"),
        ("SELECT intake.confirm_claim(%s, %s, {}) AS said", "confirmed"),
    )
    for query, said in calls:
        assert driver.call(query, POOL, str(claim_id), user) == [{"said": said}]
    assert intake.reconcile() == []


@pytest.mark.parametrize("send", [UUID, str])
def test_a_claim_is_asked_for_and_given_up_by_its_id(intake: Intake, send: type) -> None:
    """claim_status() has two forms, told apart by the number of arguments."""
    claim_id = intake.open(3).claim("ann", "r1").claim_id
    for named in ("SELECT state FROM intake.claim_status(%s, %s)",
                  "SELECT state FROM intake.claim_status(pool_id => %s, claim_id => %s)"):  # fmt: skip
        assert intake.rows(named, POOL, send(str(claim_id))) == [("queued",)]
    assert intake.rows("SELECT intake.release_claim(%s, %s, 'ill')", POOL, send(str(claim_id))) == [("released",)]
    assert intake.rows("SELECT state FROM intake.claim_status(%s, 'ann', 'r1')", POOL) == [("released",)]
