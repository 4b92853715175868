"""Claims released by claimTimeoutSeconds or by release_claim are voided in the ledger; their slots are sold again."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Final

from tests.e2e import account, crowd, events, services, sql
from tests.e2e.kube import Kube, condition, eventually

POOL: Final = "timeout-pool"
SEATS: Final = 30

# What a web back end does, run in a pod that has psycopg: one statement with the credentials of the Secret.
QUERY: Final = (
    "import sys, psycopg\n"
    "with psycopg.connect(sys.argv[1], autocommit=True) as connection:\n"
    "    print(connection.execute(sys.argv[2], sys.argv[3:]).fetchone()[0])"
)


def test_released_claims_are_voided_in_the_ledger_and_their_slots_are_sold_again(kube: Kube) -> None:
    services.validator(kube, "/faults?mode=500")
    webhook = {"url": services.VALIDATOR_URL}
    sale = events.window(opens_in=5, lasts=3600)
    # Small batches: the validator's circuit breaker opens before every claim has been read once.
    kube.apply(events.event("timeout", sale, inventorySize=SEATS, batchSize=5, validation={"webhook": webhook}))
    events.await_phase(kube, "timeout", "Open", 60)
    crowd.start(kube, "timeout", POOL, crowd.Plan(buyers=SEATS + 5, hang_up_percent=0))
    answers = crowd.answers(kube, 60)
    assert account.outcomes(answers)["sold_out"] > 0
    eventually(lambda: _degraded(kube) == "ValidatorDown", 60, "Degraded says that the validator is down")

    for queued, answer in (("read_ct = 0 ORDER BY msg_id DESC", "released"), ("read_ct > 0", "releasing")):
        pick = f"SELECT message ->> 'claim_id' FROM pgmq.q_intake_queue WHERE {queued} LIMIT 1"
        claim_id = sql.in_database(kube, "timeout", pick)
        assert _as_claimer(kube, "SELECT intake.release_claim(%s, %s, 'ill')", POOL, claim_id) == answer
        answers.append({"claim_id": claim_id, "outcome": answer})

    kube.patch("intakeevent", "timeout", {"spec": {"claimTimeoutSeconds": 30}})
    voided = (0, SEATS - 1)  # all but the one that no bridge had read
    eventually(lambda: account.ledger_counts(kube, POOL) == voided, 90, "the ledger has voided all claims")
    eventually(lambda: _available(kube) == SEATS, 20, "every slot is available again")
    assert _degraded(kube) == "ValidatorDown", "a void needs no validator"

    services.validator(kube, "/faults?mode=ok")
    again = crowd.Plan(buyers=SEATS, prefix="second", hang_up_percent=0)
    crowd.start(kube, "timeout", POOL, again, pod="second-crowd")
    second = crowd.answers(kube, 60, pod="second-crowd")
    assert len({answer["claim_id"] for answer in second if answer["outcome"] == "claimed"}) == SEATS
    answers += second

    closes = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    kube.patch("intakeevent", "timeout", {"spec": {"window": {"closesAt": events.instant(closes)}}})
    events.await_phase(kube, "timeout", "Completed", 90)
    report = {key: value for key, value in kube.get("configmap", "timeout-report")["data"].items() if value.isdigit()}
    ends = {key: int(report[key]) for key in ("committed", "voided", "released")}
    assert (int(report["claims"]), ends["released"]) == (sum(ends.values()), 1)
    assert (ends["committed"], ends["voided"]) == account.ledger_counts(kube, POOL)
    settled = account.of_pool(kube, POOL, answers)
    assert (settled.acknowledged, settled.released, settled.lost, settled.duplicated) == (2 * SEATS, 1, 0, 0)
    assert account.violations(kube, POOL, answers) == ""


def _degraded(kube: Kube) -> str:
    return str(condition(kube.get("intakeevent", "timeout"), "Degraded")["reason"])


def _available(kube: Kube) -> int:
    return int(kube.get("intakeevent", "timeout")["status"]["inventory"]["available"])


def _as_claimer(kube: Kube, statement: str, *parameters: str) -> str:
    uri = base64.b64decode(kube.get("secret", "timeout-app")["data"]["uri"]).decode()
    return kube.execute("deploy/validator", "python", "-c", QUERY, uri, statement, *parameters).strip()
