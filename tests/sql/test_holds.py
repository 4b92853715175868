"""Hold, then confirm: what each function answers, and where a held claim is and is not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.intake import POOL, Answer, Intake, Request, lose_unlogged, window

HOLD, EXTEND = 60, 30
NONE = {"claims": 0, "lastEndsAt": None}


@pytest.fixture
def pool(intake: Intake) -> Intake:
    return intake.open(10, holdSeconds=HOLD, extendSeconds=EXTEND)


def refused(intake: Intake, claim_id: UUID | None, user: str, payload: object) -> str | None:
    """The SQLSTATE with which a confirmation is refused; None if it is not."""
    try:
        intake.confirm(claim_id, user, payload)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def state(intake: Intake, answer: Answer) -> str:
    """What claim_status says of the claim."""
    return str(intake.claim_status(answer.claim_id)["state"])


def proof(intake: Intake) -> dict[str, Any]:
    """The counts of claims in the proof that are not 0."""
    (found,) = intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
    return {key: count for key, count in found.items() if count and key not in {"slots", "digest"}}


def ends_in(seconds: float, at: datetime | None) -> bool:
    """Whether a time is that far away, with some patience for a slow machine."""
    assert at is not None
    return timedelta(seconds=seconds - 30) < at - datetime.now(UTC) <= timedelta(seconds=seconds)


# The hold.


def test_no_bridge_reads_a_hold(pool: Intake) -> None:
    held = [
        pool.claim("ann", "r1"),
        *pool.claim_several("bob", 2, "r1"),
        *pool.claim_requests([Request("cid", "r1")])[0],
    ]
    assert {answer.outcome for answer in held} == {"held"}
    assert all(ends_in(HOLD, answer.expires_at) for answer in held)
    assert pool.read() == pool.read_releases() == pool.read_quarantined() == []
    assert {state(pool, answer) for answer in held} == {"held"}
    (row,) = pool.claim_slots(held[0].claim_id)
    assert (row["slot_no"], row["resource_id"]) == (held[0].slot_no, held[0].resource_id)
    assert (row["expires_at"], row["receipt"]) == (held[0].expires_at, None)


def test_a_pool_without_checkout_claims_at_once(intake: Intake) -> None:
    answer = intake.open(3).claim("ann", "r1", {"card": 1})
    assert (answer.outcome, answer.expires_at) == ("claimed", None)
    assert intake.confirm(answer.claim_id, "ann") == "replayed"
    assert refused(intake, answer.claim_id, "ann", {"card": 2}) == "IE009"
    assert intake.status()["holds"] == NONE


def test_holds_are_counted_apart_from_the_queue(pool: Intake) -> None:
    held = [*pool.claim_several("ann", 3), pool.claim("bob")]
    pool.confirm(pool.claim("cid").claim_id, "cid")
    status = pool.status()
    assert status["inventory"] == {"size": 10, "available": 5, "held": 4, "withheld": 0, "reserved": 1, "consumed": 0}
    assert (status["queue"]["depth"], status["queue"]["inFlight"]) == (1, 0), "a hold is no depth"
    assert (status["claims"], status["held"]) == (3, 2)
    assert status["holds"]["claims"] == 2
    assert datetime.fromisoformat(status["holds"]["lastEndsAt"]) == max(a.expires_at for a in held if a.expires_at)
    assert proof(pool) == {"claims": 3, "held": 2, "queued": 1}
    pool.value("SELECT intake.record_metrics(%s)", POOL)
    assert pool.rows("SELECT available, held, reserved, depth, claims FROM intake.engine_metrics") == [(5, 4, 1, 1, 3)]


def test_the_limit_counts_holds(intake: Intake) -> None:
    intake.open(10, holdSeconds=HOLD, claimsPerUser=2)
    first = intake.claim("ann")
    assert intake.claim("ann").outcome == "held"
    assert intake.claim("ann").outcome == "limit_reached"
    assert [a.outcome for a in intake.claim_batch([("ann", "r9")])] == ["limit_reached"]
    assert intake.release(first.claim_id) == "released"
    assert intake.claim("ann").outcome == "held"
    intake.expire_holds()
    intake.housekeep()
    assert intake.claim_several("ann", 2)[0].outcome == "held"


def test_a_crash_and_a_rebuild_keep_holds(pool: Intake) -> None:
    held, given, late = pool.claim_several("ann", 2, "r1"), pool.claim("bob", "r1"), pool.claim("cid", "r1")
    pool.release(given.claim_id)
    lose_unlogged(pool.connection)
    assert pool.confirm(held[0].claim_id, "ann") == "not_ready"
    assert pool.extend_hold(held[0].claim_id, "ann") == ("not_ready", None)
    assert pool.status()["inventory"]["held"] == 3, "counted in what is LOGGED"
    pool.seed()
    assert pool.reconcile() == []
    assert [state(pool, a) for a in (held[0], given, late)] == ["held", "released", "held"]
    assert pool.claim_several("ann", 2, "r1")[0].expires_at == held[0].expires_at
    assert pool.confirm(held[0].claim_id, "ann") == "confirmed"
    pool.expire_holds()
    pool.housekeep()
    assert state(pool, late) == "expired"
    assert pool.reconcile() == []


# The confirmation.


def test_a_confirmation_puts_the_claim_on_its_way(pool: Intake) -> None:
    first, _ = pool.claim_several("ann", 2, "r1", {"seats": "together"})
    assert pool.confirm(first.claim_id, "ann", {"card": "tok_1"}) == "confirmed"
    assert state(pool, first) == "queued"
    assert pool.claim_status(first.claim_id)["expires_at"] is None
    (message,) = pool.read()
    assert (message["claim_id"], message["request_id"], message["payload"]) == (first.claim_id, "r1", {"card": "tok_1"})
    assert [seat["slot_no"] for seat in message["seats"]] == [1, 2]
    pool.acknowledge([message], "committed")
    assert pool.confirm(first.claim_id, "ann", {"card": "tok_1"}) == "replayed"
    assert (state(pool, first), pool.inventory(), pool.reconcile()) == ("committed", (8, 0, 2), [])
    assert proof(pool) == {"claims": 1, "committed": 1}


def test_the_age_of_the_queue_counts_from_the_confirmation(pool: Intake) -> None:
    first, second = pool.claim("ann"), pool.claim("bob")
    pool.confirm(second.claim_id, "bob")
    pool.connection.execute("UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour'")
    pool.confirm(first.claim_id, "ann")
    assert pool.status()["queue"]["oldestSeconds"] > 3000, "the oldest is not the one that was held longest"
    assert [m["claim_id"] for m in pool.read(1)] == [second.claim_id]


def test_i7_a_confirmation_is_the_same_again_or_refused(pool: Intake) -> None:
    answer = pool.claim("ann", "r1", {"a": 1})
    assert pool.confirm(answer.claim_id, "ann", {"card": 1}) == "confirmed"
    assert pool.confirm(answer.claim_id, "ann", {"card": 1.0}) == "replayed", "equal as jsonb"
    assert pool.confirm(answer.claim_id, "ann") == "replayed", "no payload: nothing that could differ"
    assert refused(pool, answer.claim_id, "ann", {"card": 2}) == "IE009"
    assert refused(pool, answer.claim_id, "ann", {"a": 1}) == "IE009", "the payload of the claim is replaced"
    assert [m["payload"] for m in pool.read()] == [{"card": 1}]


def test_a_confirmation_without_a_payload_keeps_that_of_the_claim(pool: Intake) -> None:
    given, none = pool.claim("ann", "r1", {"a": 1}), pool.claim("bob", "r1")
    assert pool.confirm(given.claim_id, "ann") == pool.confirm(none.claim_id, "bob") == "confirmed"
    assert pool.confirm(given.claim_id, "ann", {"a": 1}) == "replayed"
    assert refused(pool, given.claim_id, "ann", {"a": 2}) == refused(pool, none.claim_id, "bob", {"a": 1}) == "IE009"
    assert [m["payload"] for m in pool.read()] == [{"a": 1}, None]


def test_i7_a_repeated_claim_is_compared_with_its_own_payload(pool: Intake) -> None:
    first = pool.claim("ann", "r1", {"a": 1})
    again = pool.claim("ann", "r1", {"a": 1})
    assert (again.outcome, again.claim_id, again.expires_at) == ("replayed", first.claim_id, first.expires_at)
    pool.confirm(first.claim_id, "ann", {"card": 1})
    ((again,),) = pool.claim_requests([Request("ann", "r1", 1, {"a": 1})])
    assert (again.outcome, again.claim_id, again.expires_at) == ("replayed", first.claim_id, None)
    ((batched,),) = pool.claim_requests([Request("ann", "r1", 1, {"card": 1})])
    assert (batched.outcome, batched.differs) == ("different", "payload")
    with pytest.raises(psycopg.Error, match="another payload") as caught:
        pool.claim("ann", "r1", {"card": 1})
    assert caught.value.sqlstate == "IE009"


@pytest.mark.parametrize(("payload", "why"), [([1], "object, not array"), ("x", "string"), ({"a": "x" * 300}, "bytes")])
def test_a_confirmation_checks_its_payload(intake: Intake, payload: object, why: str) -> None:
    answer = intake.open(3, holdSeconds=HOLD, maxPayloadBytes=200).claim("ann", "r1", {"a": 1})
    with pytest.raises(psycopg.Error, match=f"confirm_claim: payload .*{why}") as caught:
        intake.confirm(answer.claim_id, "ann", payload)
    assert caught.value.sqlstate == "IE002"
    assert "xxx" not in str(caught.value), "a payload is not quoted"
    assert state(intake, answer) == "held", "nothing half-taken"
    assert intake.confirm(answer.claim_id, "ann", {"card": 1}) == "confirmed"


def test_a_claim_of_another_user_is_unknown(pool: Intake) -> None:
    answer = pool.claim("ann", "r1")
    for claim_id, user in ((answer.claim_id, "bob"), (uuid4(), "ann"), (None, "ann"), (answer.claim_id, "")):
        assert pool.confirm(claim_id, user) == "unknown"
        assert pool.extend_hold(claim_id, user) == ("unknown", None)
    pool.confirm(answer.claim_id, "ann")
    assert pool.confirm(answer.claim_id, "bob") == "unknown"
    with Intake(pool.uri, "other") as other:
        other.open(3, holdSeconds=HOLD, extendSeconds=EXTEND)
        mine = pool.claim("ann", "r2")
        assert other.confirm(mine.claim_id, "ann") == "unknown", "another pool"
        assert other.extend_hold(mine.claim_id, "ann") == ("unknown", None)
        assert other.release(mine.claim_id) == "unknown"
        with pytest.raises(psycopg.Error, match="none") as caught:
            pool.value("SELECT intake.confirm_claim('none', %s, 'ann')", mine.claim_id)
        assert caught.value.sqlstate == "IE001"


def test_a_claim_confirmed_and_then_settled_is_replayed(pool: Intake) -> None:
    voided, given = pool.claim("ann"), pool.claim("bob")
    for answer, user in ((voided, "ann"), (given, "bob")):
        pool.confirm(answer.claim_id, user, {"card": 1})
    assert pool.release(given.claim_id) == "released", "no bridge has read it"
    pool.acknowledge(pool.read(), "voided")
    for answer, user, now in ((voided, "ann", "voided"), (given, "bob", "released")):
        assert pool.confirm(answer.claim_id, user, {"card": 1}) == "replayed"
        assert pool.extend_hold(answer.claim_id, user) == ("confirmed", None)
        assert state(pool, answer) == now
    assert (pool.inventory(), pool.reconcile()) == ((10, 0, 0), [])


def test_a_confirmation_needs_a_durable_commit(pool: Intake) -> None:
    answer = pool.claim("ann")
    pool.connection.execute("SET synchronous_commit = off")
    assert refused(pool, answer.claim_id, "ann", None) == "IE002"
    with pytest.raises(psycopg.Error, match="synchronous_commit"):
        pool.extend_hold(answer.claim_id, "ann")


# The end of a hold.


def test_a_hold_ends_by_the_clock_of_db1(pool: Intake) -> None:
    """Before housekeeping has ended it, too; its slot is free once housekeeping has."""
    several, named = pool.claim_several("ann", 2, "r1", {"a": 1}), pool.claim("bob", "r1")
    pool.expire_holds()
    for answer, user in ((several[0], "ann"), (named, "bob")):
        assert pool.confirm(answer.claim_id, user) == "expired", "the clock decides, not housekeeping"
        assert pool.extend_hold(answer.claim_id, user) == ("expired", None)
        assert (pool.release(answer.claim_id), state(pool, answer)) == ("expired", "expired")
    assert (pool.status()["inventory"]["held"], proof(pool)) == (3, {"claims": 2, "held": 2})
    pool.housekeep()
    assert (pool.inventory(), pool.reconcile()) == ((10, 0, 0), [])
    assert pool.status()["holds"] == NONE
    for answer, user in ((several[0], "ann"), (named, "bob")):
        assert pool.confirm(answer.claim_id, user) == "expired"
        assert pool.extend_hold(answer.claim_id, user) == ("expired", None)
        assert (pool.release(answer.claim_id), state(pool, answer)) == ("expired", "expired")
    assert [row["slot_no"] for row in pool.claim_slots(several[0].claim_id)] == [1, 2]
    assert [row["state"] for row in pool.request_status("ann", "r1")] == ["expired"] * 2
    assert [a.outcome for a in pool.claim_several("ann", 2, "r1", {"a": 1})] == ["replayed"] * 2, "I7"
    assert proof(pool) == {"claims": 2, "expired": 2}
    assert pool.status()["expired"] == 2
    assert len({pool.claim(f"u{n}").slot_no for n in range(10)}) == 10, "all slots are on sale again"
    assert pool.claim("late").outcome == "sold_out"
    assert pool.reconcile() == []


def test_housekeeping_ends_only_holds_that_are_over(pool: Intake) -> None:
    over, held, confirmed = (pool.claim(user) for user in ("ann", "bob", "cid"))
    pool.confirm(confirmed.claim_id, "cid")
    pool.connection.execute(
        "UPDATE intake.holds SET expires_at = clock_timestamp() - interval '1 s' WHERE claim_id = %s", [over.claim_id]
    )
    pool.housekeep()
    assert [state(pool, answer) for answer in (over, held, confirmed)] == ["expired", "held", "queued"]
    assert pool.status()["inventory"]["held"] == 1
    pool.expire_holds()
    pool.housekeep()
    assert state(pool, confirmed) == "queued", "a confirmed claim has no end"
    assert pool.inventory() == (9, 1, 0)


def test_release_frees_a_hold_at_once(pool: Intake) -> None:
    first, _ = pool.claim_several("ann", 2, "r1")
    assert pool.release(first.claim_id, "sold elsewhere") == "released"
    assert (pool.inventory(), pool.reconcile()) == ((10, 0, 0), [])
    assert (pool.release(first.claim_id), state(pool, first)) == ("released", "released")
    assert pool.confirm(first.claim_id, "ann") == "released"
    assert pool.extend_hold(first.claim_id, "ann") == ("released", None)
    assert pool.value("SELECT message -> 'release' ->> 'reason' FROM intake.holds") == "sold elsewhere"
    assert proof(pool) == {"claims": 1, "released": 1}
    assert [pool.status()[key] for key in ("released", "expired", "held")] == [1, 0, 0]


def test_a_seat_that_was_held_is_claimed_by_name_again(intake: Intake) -> None:
    intake.configure(3, ownResources=True, holdSeconds=HOLD)
    intake.stock(1, [(uuid4(), f"A{n}") for n in range(1, 4)])
    intake.seed()
    first, _ = intake.claim_seats("ann", ["A1", "A3"])
    assert [(a.outcome, a.label) for a in intake.claim_seats("bob", ["A3", "A2", "A1"])] == [
        ("taken", "A1"),
        ("taken", "A3"),
    ]
    intake.release(first.claim_id)
    taken = intake.claim_seats("bob", ["A3", "A2", "A1"])
    assert [(a.outcome, a.label) for a in taken] == [("held", "A3"), ("held", "A2"), ("held", "A1")]
    assert intake.confirm(taken[0].claim_id, "bob") == "confirmed"
    (message,) = intake.read()
    assert [seat["label"] for seat in message["seats"]] == ["A3", "A2", "A1"]
    assert intake.reconcile() == []


# More time.


def test_a_hold_is_extended_once(pool: Intake) -> None:
    answer = pool.claim("ann", "r1")
    assert answer.expires_at is not None
    later = answer.expires_at + timedelta(seconds=EXTEND)
    assert pool.extend_hold(answer.claim_id, "ann") == ("extended", later)
    assert pool.extend_hold(answer.claim_id, "ann") == ("replayed", later)
    assert pool.claim_status(answer.claim_id)["expires_at"] == later
    assert pool.claim("ann", "r1").expires_at == later
    assert datetime.fromisoformat(pool.status()["holds"]["lastEndsAt"]) == later
    lose_unlogged(pool.connection)
    pool.seed()
    assert pool.extend_hold(answer.claim_id, "ann") == ("replayed", later)
    assert pool.confirm(answer.claim_id, "ann") == "confirmed"
    assert pool.extend_hold(answer.claim_id, "ann") == ("confirmed", None)


def test_a_pool_without_extend_seconds_extends_nothing(intake: Intake) -> None:
    answer = intake.open(3, holdSeconds=HOLD).claim("ann")
    with pytest.raises(psycopg.Error, match="extends no holds") as caught:
        intake.extend_hold(answer.claim_id, "ann")
    assert caught.value.sqlstate == "IE002"
    intake.configure(3, holdSeconds=HOLD, extendSeconds=5)  # live
    assert intake.extend_hold(answer.claim_id, "ann")[0] == "extended"


def test_hold_seconds_are_live_for_later_holds(pool: Intake) -> None:
    before = pool.claim("ann")
    pool.configure(10, holdSeconds=HOLD * 10, extendSeconds=EXTEND)
    after = pool.claim("bob")
    assert ends_in(HOLD, pool.claim_status(before.claim_id)["expires_at"])
    assert ends_in(HOLD * 10, after.expires_at)
    with pytest.raises(psycopg.Error, match="with and without a hold") as caught:
        pool.configure(10)
    assert caught.value.sqlstate == "IE004"


# Pause, the end of the window, and the seal.


def test_people_may_confirm_while_the_pool_is_paused_and_holds_end(pool: Intake) -> None:
    kept, late, more = (pool.claim(user) for user in ("ann", "bob", "cid"))
    pool.configure(10, holdSeconds=HOLD, extendSeconds=EXTEND, paused=True)
    assert pool.claim("new").outcome == "paused"
    assert pool.extend_hold(more.claim_id, "cid")[0] == "extended"
    assert pool.confirm(kept.claim_id, "ann") == "confirmed"
    assert pool.release(more.claim_id) == "released"
    assert pool.read() == [], "no bridge works meanwhile"
    pool.expire_holds()
    pool.housekeep()
    assert [state(pool, answer) for answer in (kept, late)] == ["queued", "expired"]
    assert pool.inventory() == (9, 1, 0)


def test_a_hold_is_confirmed_after_the_window_has_closed(pool: Intake) -> None:
    kept, late, more = (pool.claim(user, "r1") for user in ("ann", "bob", "cid"))
    pool.configure(10, holdSeconds=HOLD, extendSeconds=EXTEND, **window(closes=timedelta(seconds=-1)))
    assert pool.claim("new").outcome == "closed"
    assert pool.confirm(kept.claim_id, "ann") == "confirmed"
    pool.value("SELECT intake.seal(%s, 'over')", POOL)
    assert (pool.claim("new").outcome, pool.claim("cid", "r1").outcome) == ("closed", "replayed")
    assert pool.extend_hold(more.claim_id, "cid")[0] == "extended"
    assert pool.confirm(more.claim_id, "cid") == "confirmed"
    assert proof(pool) == {"claims": 3, "held": 1, "queued": 2}, "the drain waits for it"
    pool.expire_holds()
    pool.housekeep()
    assert pool.confirm(late.claim_id, "bob") == "expired"
    pool.acknowledge(pool.read(), "committed")
    assert proof(pool) == {"claims": 3, "committed": 2, "expired": 1}
    assert pool.reconcile() == []


# Speed.


def test_a_hold_is_found_by_its_claim_among_many(intake: Intake) -> None:
    """Also in a session whose plans are from the first minute, without statistics: they do not read all holds."""
    many = 400
    intake.open(many + 20, holdSeconds=HOLD, extendSeconds=EXTEND)
    requests = [Request(f"u{n}", "r1") for n in range(many)]
    held = [answers[0] for answers in intake.claim_requests(requests)]

    def rows_read() -> int:
        intake.value("SELECT pg_stat_force_next_flush()")
        return int(
            intake.value(
                "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname IN ('holds', 'claimed_slots')"
            )
        )

    before = rows_read()
    for n in range(8):
        assert intake.extend_hold(held[n].claim_id, f"u{n}")[0] == "extended"
        assert intake.confirm(held[n].claim_id, f"u{n}") == "confirmed"
    assert rows_read() - before < many
