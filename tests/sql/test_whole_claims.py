"""A claim of several slots is one claim for the bridge: one message, one fate, and its slots move together."""

from typing import Any
from uuid import UUID

import pytest

from tests.sql.intake import POOL, Intake, lose_unlogged, slots
from tests.sql.ledger import Ledger
from tests.sql.mixed import CLAIMS, PAYMENT, RECEIPT, SLOTS, mixed


@pytest.fixture
def queue(intake: Intake) -> Intake:
    """Twelve slots; claims of one to four slots: 1, 2 to 3, 4 to 6, 7 to 10."""
    intake.open(12, visibilityTimeoutSeconds=3600)
    for n in range(1, 5):
        assert len(intake.claim_several(f"u{n}", n, "r", {"order": n})) == n
    return intake


def allocated(queue: Intake) -> dict[int, str]:
    """The slots that are not free, and their status."""
    return dict(queue.rows("SELECT slot_no, status FROM intake.allocations WHERE status <> 'AVAILABLE'"))


def letters(queue: Intake) -> list[dict[str, Any]]:
    """The dead letters."""
    return queue.dicts("SELECT * FROM intake.dead_letters(%s)", POOL)


def rebuilt(queue: Intake) -> None:
    """A crash changes nothing that a claim can see."""
    before = queue.rows("SELECT * FROM intake.claimed_slots ORDER BY slot_no")
    assert queue.reconcile() == []
    lose_unlogged(queue.connection)
    queue.housekeep()
    assert queue.rows("SELECT * FROM intake.claimed_slots ORDER BY slot_no") == before
    assert queue.reconcile() == []


def test_a_message_has_all_slots_of_its_claim(queue: Intake) -> None:
    messages = queue.read()
    assert [slots(message) for message in messages] == [[1], [2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert [message["payload"] for message in messages] == [{"order": n} for n in range(1, 5)]
    resources = dict(queue.rows("SELECT slot_no, resource_id FROM intake.slots"))
    for message in messages:
        assert [UUID(seat["resource_id"]) for seat in message["seats"]] == [resources[n] for n in slots(message)]
    assert [queue.status()["queue"][name] for name in ("depth", "inFlight")] == [4, 4], "claims"


def test_i8_all_slots_of_a_claim_are_consumed_or_freed_together(queue: Intake) -> None:
    messages = queue.read()
    queue.change("acknowledge", messages, ["committed", "voided", "voided", "committed"])
    assert allocated(queue) == dict.fromkeys([1, 7, 8, 9, 10], "CONSUMED")
    assert queue.column("SELECT slot_no FROM intake.free_numbers") == [2, 3, 4, 5, 6]
    assert queue.inventory() == (7, 0, 5)
    rebuilt(queue)
    assert [answer.outcome for answer in queue.claim_several("u2", 2, "r", {"order": 2})] == ["replayed"] * 2
    assert sorted(answer.slot_no or 0 for answer in queue.claim_several("new", 7)) == [2, 3, 4, 5, 6, 11, 12]


def test_a_claim_that_is_given_back_keeps_all_its_slots(queue: Intake) -> None:
    messages = queue.read()
    queue.change("give_back", messages, [0.0] * 4, ["why"] * 4)
    assert allocated(queue) == dict.fromkeys(range(1, 11), "RESERVED")
    assert [(slots(m), m["failures"]) for m in queue.read()] == [(slots(m), 1) for m in messages]
    rebuilt(queue)


def test_a_dead_letter_keeps_all_its_slots_until_it_is_discarded(queue: Intake) -> None:
    queue.change("dead_letter", queue.read(), ["poison"] * 4)
    assert [slots(letter) for letter in letters(queue)] == [[1], [2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert not {"payload", "validation"} & letters(queue)[0].keys()
    assert queue.inventory() == (2, 10, 0)
    assert queue.status()["queue"]["deadLetters"] == 4, "claims"
    rebuilt(queue)
    ids = [letter["msg_id"] for letter in letters(queue)]
    queue.rows("SELECT intake.discard(%s, %s, 'ops', 'the ledger voided them')", POOL, ids[1:3])
    assert allocated(queue) == dict.fromkeys([1, 7, 8, 9, 10], "RESERVED")
    assert queue.column("SELECT slot_no FROM intake.free_numbers") == [2, 3, 4, 5, 6]
    rebuilt(queue)


def test_a_replayed_claim_moves_with_all_its_slots(queue: Intake) -> None:
    queue.change("dead_letter", queue.read(), ["poison"] * 4)
    ids = [letter["msg_id"] for letter in letters(queue)]
    queue.rows("SELECT intake.replay(%s, %s, 'ops', 'mended')", POOL, ids)
    assert queue.reconcile() == [], "every slot has the new message of its claim"
    messages = queue.read()
    assert [slots(message) for message in messages] == [[1], [2, 3], [4, 5, 6], [7, 8, 9, 10]]
    queue.change("acknowledge", messages, ["voided"] * 4)
    assert allocated(queue) == {}
    rebuilt(queue)


@pytest.mark.parametrize("read", [False, True])
def test_a_released_claim_frees_all_its_slots_and_no_part_of_it_can_be(queue: Intake, read: bool) -> None:
    claim = queue.claim_several("u4", 4, "r", {"order": 4})[0]
    if read:
        queue.read()
        assert queue.release(claim.claim_id) == "releasing"
        assert queue.inventory() == (2, 10, 0), "until the ledger has voided it"
        (message,) = queue.read_releases()
        assert slots(message) == [7, 8, 9, 10]
        queue.acknowledge([message], "voided")
    else:
        assert queue.release(claim.claim_id) == "released"
    assert queue.inventory() == (6, 6, 0)
    told = {"voided"} if read else {"released"}
    assert {row["state"] for row in queue.claim_slots(claim.claim_id)} == told
    assert [row["slot_no"] for row in queue.claim_slots(claim.claim_id)] == [7, 8, 9, 10]
    rebuilt(queue)
    assert {answer.claim_id for answer in queue.claim_several("u4", 4, "r", {"order": 4})} == {claim.claim_id}


def test_a_claim_that_times_out_is_voided_as_a_whole(intake: Intake) -> None:
    intake.open(5, claimTimeoutSeconds=60)
    intake.claim_several("ann", 3, "r")
    intake.connection.execute("UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour'")
    intake.housekeep()
    (message,) = intake.read_releases()
    assert slots(message) == [1, 2, 3]
    assert intake.inventory() == (2, 3, 0)
    intake.acknowledge([message], "voided")
    assert intake.inventory() == (5, 0, 0)
    rebuilt(intake)


@pytest.mark.parametrize("limit", [None, 1000])
def test_a_hundred_voided_slots_have_keys_of_their_own(intake: Intake, limit: int | None) -> None:
    """-(128 * msg_id + part_no): the claims of two messages that follow each other never meet."""
    query = "SELECT intake_private.voided_key(m, p) FROM generate_series(1, 5) m, generate_series(1, 100) p"
    assert len({*intake.column(query)}) == 500
    intake.open(100, claimsPerUser=limit)
    keys: list[int] = []
    for n in range(4):
        claim = intake.claim_several("house", 100, f"r{n}")
        assert len(claim) == 100
        (message,) = intake.read()
        if n == 3:
            intake.change("dead_letter", [message], ["why"])
            (letter,) = letters(intake)
            intake.rows("SELECT intake.discard(%s, %s, 'ops', 'why')", POOL, [letter["msg_id"]])
        else:
            intake.acknowledge([message], "voided")
        keys += [-(128 * message["msg_id"] + part_no) for part_no in range(1, 101)]
        assert intake.inventory() == (100, 0, 0)
    assert intake.column("SELECT slot_no FROM intake.claimed_slots") == sorted(keys)
    assert intake.column("SELECT was_slot_no FROM intake.claimed_slots") == sorted([*range(1, 101)] * 4)
    rebuilt(intake)
    for n in range(4):
        assert {answer.outcome for answer in intake.claim_several("house", 100, f"r{n}")} == {"replayed"}


@pytest.mark.parametrize("settings", [{}, {"claimsPerUser": 20}, {"ownResources": True}])
def test_i6_a_rebuild_knows_every_kind_of_claim(intake: Intake, settings: dict[str, object]) -> None:
    """Several slots, held, expired and released ones, withheld slots, receipts and validation data."""
    answers = mixed(intake, **settings)

    def known() -> list[object]:
        return [
            [intake.claim_slots(told[0].claim_id) for told in answers.values()],
            intake.rows("SELECT slot_no, status, locked_by, claim_id FROM intake.allocations ORDER BY slot_no"),
            intake.rows("SELECT * FROM intake.proof(%s)", POOL),
            intake.rows("SELECT * FROM intake.withheld_slots(%s)", POOL),
        ]

    before = known()
    rebuilt(intake)
    assert known() == before
    (committed,) = {str(row["receipt"]) for row in intake.claim_slots(answers["committed"][0].claim_id)}
    assert committed == str(RECEIPT)
    for fate, told in answers.items():
        again = intake.claim_several(fate, len(told), "r", {"by": fate})
        assert [(each.outcome, each.claim_id, each.slot_no) for each in again] == [
            ("replayed", each.claim_id, each.slot_no) for each in told
        ], fate
    (letter,) = intake.column("SELECT msg_id FROM intake.dead_letters(%s)", POOL)
    shown = intake.rows("SELECT payload, validation FROM intake.dead_letter_payloads(%s, %s, 'a', 'b')", POOL, [letter])
    assert shown == [({"by": "dead"}, PAYMENT)]


def test_i6_slots_and_claims_are_counted_apart_and_after_a_crash_alike(intake: Intake) -> None:
    mixed(intake)

    def counted() -> dict[str, Any]:
        status = intake.status()
        found = {name: status[name] for name in CLAIMS} | {"inventory": status["inventory"], "holds": status["holds"]}
        return found | {"queue": {name: status["queue"][name] for name in ("depth", "inFlight", "deadLetters")}}

    ready = counted()
    assert ready == CLAIMS | {
        "inventory": SLOTS,
        "holds": {"claims": 1, "lastEndsAt": ready["holds"]["lastEndsAt"]},
        "queue": {"depth": 2, "inFlight": 1, "deadLetters": 1},
    }
    (proof,) = intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
    del proof["digest"]
    assert proof == CLAIMS | {"queued": 2, "dead": 1, "slots": 2}
    lose_unlogged(intake.connection)
    lost = counted()
    assert lost["inventory"].pop("available") == 0, "nothing can be claimed while the pool is not ready"
    del ready["inventory"]["available"]
    assert lost == ready
    intake.housekeep()

    # Holds that ended are deleted after a while, and are claims for ever.
    intake.connection.execute("UPDATE intake.holds SET ended_at = ended_at - interval '1 hour'")
    intake.housekeep()
    assert intake.value("SELECT count(*) FROM intake.holds") == 1
    assert {name: intake.status()[name] for name in CLAIMS} == CLAIMS
    (later,) = intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
    assert later | proof == later
    lose_unlogged(intake.connection)
    assert {name: intake.status()[name] for name in CLAIMS} == CLAIMS


def test_metrics_count_as_the_status_does(intake: Intake) -> None:
    mixed(intake)
    intake.value("SELECT intake.record_metrics(%s)", POOL)
    (metrics,) = intake.dicts("SELECT * FROM intake.engine_metrics")
    slot_counts = {name: count for name, count in SLOTS.items() if name != "size"}
    claim_counts = {name: CLAIMS[name] for name in ("claims", "committed", "voided")}
    assert metrics | slot_counts | claim_counts | {"depth": 2, "in_flight": 1, "dead_letters": 1} == metrics


def test_the_comparison_has_whole_claims_page_by_page(intake: Intake) -> None:
    answers = mixed(intake)
    taken = {fate: sorted(answer.slot_no or 0 for answer in told) for fate, told in answers.items()}
    every: list[dict[str, Any]] = []
    after = None
    while page := intake.dicts("SELECT * FROM intake.settled_claims(%s, %s, 1)", POOL, after):
        every += page
        after = page[-1]["key"]
    assert [claim["key"] for claim in every] == sorted({claim["key"] for claim in every}), "each once, in order"
    states = {"committed": "committed", "voided": "voided", "discarded": "voided"}
    states |= {"released": "released", "expired": "expired"}
    assert {claim["user_id"]: (claim["state"], claim["slot_nos"]) for claim in every} == {
        user: (state, taken[user]) for user, state in states.items()
    }
    resources = dict(intake.rows("SELECT slot_no, resource_id FROM intake.slots"))
    ids = [told[0].claim_id for told in answers.values()]
    placed = intake.dicts("SELECT * FROM intake.claims_at(%s, %s)", POOL, [*ids, UUID(int=1)])
    assert {claim["user_id"]: (claim["state"], claim["slot_nos"]) for claim in placed} == {
        user: (states.get(user, user), numbers) for user, numbers in taken.items()
    }
    for claim in placed:
        assert claim["resource_ids"] == [resources[n] for n in claim["slot_nos"]]


def test_the_proof_of_claims_of_several_slots_agrees_with_the_ledger(queue: Intake, ledger: Ledger) -> None:
    claims = queue.column("SELECT jsonb_agg(message) FROM pgmq.q_intake_queue")[0]
    fates = ["committed", "committed", "voided", "committed"]
    for claim, fate in zip(claims, fates, strict=True):
        assert (ledger.commit(claim) if fate == "committed" else ledger.void(claim)) == fate
    queue.change("acknowledge", queue.read(), fates)
    (proof,) = queue.dicts("SELECT * FROM intake.proof(%s)", POOL)
    assert {name: proof[name] for name in ("claims", "committed", "voided", "slots")} == {
        "claims": 4, "committed": 3, "voided": 1, "slots": 7,
    }  # fmt: skip
    told = "SELECT committed, voided, slots, digest FROM "
    assert queue.rows(told + "intake.proof(%s)", POOL) == ledger.rows(told + "ledger_proof(%s)", POOL)
