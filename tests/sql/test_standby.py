"""A synchronous standby: what was answered is there after the primary is lost, and nothing is answered before."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.postgres import REPOSITORY
from tests.sql.intake import POOL, Answer, Intake, empty
from tests.sql.ledger import sale
from tests.sql.mutants.catalogue import MUTANTS
from tests.sql.rush import Wanted, ask_for, check_history, claimed, outcomes_of, retry_until_answered, rush, singly
from tests.standby import Pair, until

type Tell = Callable[[Intake, Answer], Any]


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two servers with sql/intake, or with the mutant of it that this test must catch."""
    mutant: str | None = getattr(request, "param", None)
    with Pair(MUTANTS[mutant].patch if mutant else None) as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=16) as pool:
        yield pool


# Fixtures of servers come after the threads: calls that still wait for the standby after a failure end first.
@pytest.fixture
def pair(threads: ThreadPoolExecutor, migrated: Pair) -> Iterator[Pair]:
    """Both servers well, and DB1 as migrated."""
    empty(migrated.uri())
    yield migrated
    if not migrated.hears():
        migrated.hear()


@pytest.fixture
def doomed(threads: ThreadPoolExecutor) -> Iterator[Pair]:
    """Two servers of its own: one of them is lost."""
    with Pair() as made:
        yield made


def unheard(pair: Pair, threads: ThreadPoolExecutor, call: Callable[[Intake], Any]) -> None:
    """Make a call whose connection ends while it waits for the standby: it has committed, and was never answered."""
    with Intake(pair.uri("claimer")) as buyer:
        answer = threads.submit(call, buyer)
        pair.terminate(pair.wait_until_waiting(answer.done))
        with pytest.raises(psycopg.OperationalError):
            answer.result()


def ended(pair: Pair, threads: ThreadPoolExecutor) -> Answer:
    """A claim that was answered, and given up without an answer."""
    with Intake(pair.uri("claimer")) as buyer:
        answer = buyer.claim("ann", "r1")
    pair.deafen()
    unheard(pair, threads, lambda buyer: buyer.release(answer.claim_id))
    return answer


def begun(pair: Pair, threads: ThreadPoolExecutor, seat: str | None = None) -> Answer:
    """A claim that was never answered."""
    pair.deafen()
    unheard(pair, threads, lambda buyer: buyer.claim_named("ann", seat, "r1") if seat else buyer.claim("ann", "r1"))
    with Intake(pair.uri()) as owner:
        (row,) = owner.rows("SELECT 'claimed', claim_id, NULL::uuid, slot_no FROM intake.claimed_slots")
    return Answer(*row)


RETRIES: dict[str, Tell] = {
    "claim_resource": lambda buyer, _: buyer.claim("ann", "r1").outcome,
    "claim_resources": lambda buyer, _: buyer.claim_several("ann", 1, "r1")[0].outcome,
    "claim_seats": lambda buyer, _: buyer.claim_named("ann", "seat 2", "r1").outcome,
    "claim_batch": lambda buyer, _: buyer.claim_batch([("ann", "r1")])[0].outcome,
}
LOOKS: dict[str, tuple[Callable[[Pair, ThreadPoolExecutor], Answer], Tell, Any]] = {
    "status of a claim": (begun, lambda buyer, claim: buyer.claim_status(claim.claim_id)["state"], "queued"),
    "status of a request": (begun, lambda buyer, _: buyer.request_status("ann", "r1")[0]["state"], "queued"),
    "status of what has ended": (ended, lambda buyer, claim: buyer.claim_status(claim.claim_id)["state"], "released"),
    "release of what has ended": (ended, lambda buyer, claim: buyer.release(claim.claim_id), "released"),
}


@pytest.mark.parametrize("retry", RETRIES)
def test_i7_a_retry_is_answered_when_the_standby_has_its_claim(
    pair: Pair, threads: ThreadPoolExecutor, retry: str
) -> None:
    with Intake(pair.uri()) as owner:
        stocked(owner)
    claim = begun(pair, threads, "seat 2" if retry == "claim_seats" else None)
    told_when_the_standby_knows(pair, threads, claim, RETRIES[retry], "replayed")


@pytest.mark.parametrize("look", LOOKS)
def test_i2_claim_status_answers_when_the_standby_has_the_claim(
    pair: Pair, threads: ThreadPoolExecutor, look: str
) -> None:
    before, tell, told = LOOKS[look]
    with Intake(pair.uri()) as owner:
        stocked(owner)
    told_when_the_standby_knows(pair, threads, before(pair, threads), tell, told)


def told_when_the_standby_knows(pair: Pair, threads: ThreadPoolExecutor, claim: Answer, tell: Tell, told: str) -> None:
    """Ask for what only the primary knows: the answer waits."""
    with Intake(pair.uri("claimer")) as buyer:
        answer = threads.submit(tell, buyer, claim)
        pair.wait_until_waiting(answer.done)
        early = answer.done()
        pair.hear()
        assert answer.result() == told
        assert not early, f"answered {told} from what only the primary had"
        pair.catch_up()
        with Intake(pair.standby.uri("intake")) as standby:
            assert standby.column("SELECT (message ->> 'claim_id')::uuid FROM intake.intents") == [claim.claim_id]


def test_a_refusal_waits_for_nobody(pair: Pair) -> None:
    """It promises nothing that a failover could break."""
    with Intake(pair.uri()) as owner:
        stocked(owner, 1).claim("ann", "r1")
        with Intake(pair.uri("claimer")) as buyer:
            assert buyer.claim("bob", "r0").outcome == "sold_out"
            pair.deafen()
            assert buyer.claim("bob", "r0").outcome == "sold_out"
            assert [answer.outcome for answer in buyer.claim_batch([("bob", "r1"), ("cid", "r1")])] == ["sold_out"] * 2
            assert buyer.claim("ann", "r2").outcome == "limit_reached"
            assert buyer.claim_named("bob", "seat 1").outcome == "taken"
            assert buyer.request_status("bob", "r1") == []
            assert buyer.claim_status(owner.value("SELECT uuidv7()"))["state"] == "unknown"
            assert buyer.release(owner.value("SELECT uuidv7()")) == "unknown"


def test_i2_nothing_is_answered_where_a_commit_does_not_wait_for_the_standby(pair: Pair) -> None:
    with Intake(pair.uri()) as owner:
        stocked(owner)
        claim = owner.claim("ann", "r1")
        (message,) = owner.read()
        before = owner.rows("SELECT * FROM intake.intents")
        calls: tuple[Callable[[], object], ...] = (
            lambda: owner.claim("bob", "r1"),
            lambda: owner.claim("ann", "r1"),
            lambda: owner.claim_several("bob", 2),
            lambda: owner.claim_named("bob", "seat 2"),
            lambda: owner.claim_batch([("bob", "r1")]),
            lambda: owner.claim_status(claim.claim_id),
            lambda: owner.request_status("ann", "r1"),
            lambda: owner.release(claim.claim_id),
            # A bridge takes to the ledger what it has read, and acts on what it has marked.
            owner.read,
            owner.read_releases,
            lambda: owner.change("mark_validated", [message]),
            lambda: owner.change("mark_committing", [message]),
            lambda: owner.acknowledge([message], "committed"),
        )
        for setting in ("off", "local"):
            owner.value("SELECT set_config('synchronous_commit', %s, false)", setting)
            assert [refusal(call) for call in calls] == [("IE002", f"synchronous_commit is {setting}")] * len(calls)
        assert owner.rows("SELECT * FROM intake.intents") == before
        for setting in ("remote_write", "on", "remote_apply"):
            owner.value("SELECT set_config('synchronous_commit', %s, false)", setting)
            assert owner.claim(setting).outcome == "claimed"


def test_claim_status_works_in_a_transaction_that_only_reads(pair: Pair) -> None:
    with Intake(pair.uri()) as owner:
        claim = stocked(owner).claim("ann", "r1")
    with Intake(pair.uri("claimer")) as buyer:
        buyer.connection.execute("SET default_transaction_read_only = on")
        assert buyer.claim_status(claim.claim_id)["state"] == "queued"
        assert [row["claim_id"] for row in buyer.request_status("ann", "r1")] == [claim.claim_id]


def test_a_claim_whose_wait_was_cancelled_is_answered_with_a_warning(pair: Pair, threads: ThreadPoolExecutor) -> None:
    """What sql/README.md says clients can check."""
    with Intake(pair.uri()) as owner:
        stocked(owner)
    warnings: list[tuple[str | None, str | None]] = []
    pair.deafen()
    with Intake(pair.uri("claimer")) as buyer:
        buyer.connection.add_notice_handler(lambda said: warnings.append((said.sqlstate, said.source_function)))
        answer = threads.submit(buyer.claim, "ann", "r1")
        pair.cancel(pair.wait_until_waiting(answer.done))
        assert answer.result().outcome == "claimed"
        assert warnings == [("01000", "SyncRepWaitForLSN")]


async def test_i1_i2_i7_a_lost_primary_takes_nothing_with_it_that_was_answered(
    doomed: Pair, threads: ThreadPoolExecutor
) -> None:
    inventory = 600
    with Intake(doomed.uri()) as owner:
        stocked(owner, inventory, claimsPerUser=3)
    wanted_calls = [Wanted(f"u{n % 200}", f"r{n}") for n in range(240)]
    calls = [*singly(wanted_calls[:160]), *(tuple(wanted_calls[n : n + 8]) for n in range(160, 240, 8))]
    history = await rush(doomed.uri("claimer"), 16, calls)
    assert outcomes_of(history) == {"claimed": 240}

    # The standby hears no more. Ten claims are committed on the primary alone, and their buyers ask again.
    doomed.deafen()
    for n in range(10):
        unheard(doomed, threads, lambda buyer, n=n: buyer.claim(f"late{n}", "r"))  # type: ignore[misc]
    asked: list[Future[Answer]] = []
    buyers = [Intake(doomed.uri("claimer")) for _ in range(10)]
    for n, buyer in enumerate(buyers):
        asked.append(threads.submit(buyer.claim, f"late{n}", "r"))
    until(lambda: len(doomed.waiting()) == 10 or any(each.done() for each in asked), "ten wait")
    doomed.fail_over()
    for each in asked:
        with pytest.raises(psycopg.OperationalError):
            pytest.fail(f"told before the standby knew: {each.result()}")

    promoted = doomed.standby.uri("intake")
    with Intake(promoted) as intake:
        assert intake.claim("early", "r").outcome == "not_ready"
        intake.seed()
        check_history(intake, history)
        async with await psycopg.AsyncConnection.connect(promoted, autocommit=True) as connection:
            again = [got for call in calls for got in await ask_for(connection, call)]
        assert outcomes_of(again) == {"replayed": 240}
        # Buyers without an answer claim anew; the sale goes on to its last slot, and no slot is sold twice.
        history += again
        history += await retry_until_answered(promoted, 8, singly(Wanted(f"late{n}", "r") for n in range(inventory)))
        assert len(claimed(history)) == inventory
        assert history[-1].outcome == "sold_out"
        check_history(intake, history)


def refusal(call: Callable[[], object]) -> tuple[str | None, str]:
    """The SQLSTATE of a refused call, and the beginning of its message."""
    try:
        call()
    except psycopg.Error as error:
        return error.sqlstate, (error.diag.message_primary or "").partition(":")[0]
    return None, "not refused"


def stocked(intake: Intake, inventory: int = 10, **settings: object) -> Intake:
    """A pool on sale whose seats have names."""
    intake.configure(inventory, **({"ownResources": True, "claimsPerUser": 1} | settings))
    rows = intake.rows("SELECT gen_random_uuid(), 'seat ' || n FROM generate_series(1, %s) n", inventory)
    intake.stock(1, [(resource, label) for resource, label in rows])
    intake.seed()
    return intake


COMMIT: LiteralString = """
    SELECT concat(a ->> 'outcome', CASE WHEN a -> 'receipt' ? 'order_no' THEN ' with a receipt' END)
    FROM finalize_transaction(%s) a"""
COMMIT_ALL: LiteralString = """
    SELECT concat(a.outcome, CASE WHEN a.receipt ? 'order_no' THEN ' with a receipt' END)
    FROM finalize_transactions(jsonb_build_array(%s::jsonb)) a"""
VOID: LiteralString = "SELECT void_claim(%s)"


@pytest.mark.parametrize(
    ("first", "again", "told"),
    [
        (COMMIT, COMMIT, "duplicate with a receipt"),
        (COMMIT, COMMIT_ALL, "duplicate with a receipt"),
        (COMMIT, VOID, "committed"),
        (VOID, VOID, "voided"),
        (VOID, COMMIT, "voided"),
        (VOID, COMMIT_ALL, "voided"),
    ],
)
def test_i3_the_ledger_repeats_an_outcome_when_its_standby_has_it(
    pair: Pair, threads: ThreadPoolExecutor, first: LiteralString, again: LiteralString, told: str
) -> None:
    """A bridge archives the claim after this answer: it would never be sent to the ledger again."""
    number = uuid4().int % 10**11
    claim = Jsonb(sale(number, number, 10**11 + number))
    uri = pair.primary.uri("ledger", "ledger_writer")
    pair.deafen()
    with Intake(uri) as bridge:
        answer = threads.submit(bridge.value, first, claim)
        pair.terminate(pair.wait_until_waiting(answer.done))
        with pytest.raises(psycopg.OperationalError):
            answer.result()
    with Intake(uri) as bridge:
        answer = threads.submit(bridge.value, again, claim)
        pair.wait_until_waiting(answer.done)
        early = answer.done()
        pair.hear()
        assert (answer.result(), early) == (told, False)


def test_the_crowd_of_the_demo_takes_a_cancelled_wait_for_no_answer(
    pair: Pair, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with Intake(pair.uri()) as owner:
        stocked(owner)
    (tmp_path / "uri").write_text(pair.uri("claimer"))
    arguments = ["--uri-file", str(tmp_path / "uri"), "--pool", POOL, "--buyers", "1"]
    pair.deafen()
    command = [sys.executable, str(REPOSITORY / "examples" / "demo" / "crowd.py"), *arguments, "--hang-up-percent", "0"]
    done = threads.submit(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    pair.cancel(pair.wait_until_waiting(done.done))
    pair.wait_until_waiting(done.done)  # its second press
    pair.hear()
    outcomes = [json.loads(line).get("outcome") for line in done.result().stdout.splitlines()]
    assert outcomes == ["error", "replayed", None]
