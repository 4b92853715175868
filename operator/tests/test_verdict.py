"""Condition LedgerConsistent: by the report, by the proof that is being made, or by the latest comparison."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest
from intake_operator.children.installation import Installation
from intake_operator.decide import report
from intake_operator.decide.consistency import verdict
from intake_operator.decide.facts import Facts
from intake_operator.decide.plan import plan
from intake_operator.decide.stage import Stage
from intake_operator.model.consistency import Verdict, Violation
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import ConsistencyReason
from planning import make_proof

WELL = Verdict(True, ConsistencyReason.LEDGER_AGREES, "all is well")
MISSING = Violation("I2", "claim 7 of slot 7 is committed in DB1, and not in the ledger")
WRONG = Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, str(MISSING), (MISSING,))
DIFFERENT = "the ledger has 4 committed, 0 voided; the database 5 and 0"


def proof(answer: LedgerAnswer) -> Proof:
    details = {LedgerAnswer.DIFFERS: DIFFERENT, LedgerAnswer.NOT_ASKED: "the ledger cannot be asked: gone"}
    return make_proof(answer, details.get(answer, ""), claims=5, committed=5, voided=0, released=0)


@pytest.mark.parametrize(
    ("answer", "known", "said"),
    [
        (None, None, (None, ConsistencyReason.NOT_COMPARED)),
        (None, WELL, (True, ConsistencyReason.LEDGER_AGREES)),
        (None, WRONG, (False, ConsistencyReason.LEDGER_INCONSISTENT)),
        (LedgerAnswer.AGREES, None, (True, ConsistencyReason.LEDGER_AGREES)),
        (LedgerAnswer.AGREES, WRONG, (True, ConsistencyReason.LEDGER_AGREES)),
        (LedgerAnswer.NO_PROOF, None, (None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED)),
        (LedgerAnswer.NO_PROOF, WRONG, (False, ConsistencyReason.LEDGER_INCONSISTENT)),
        (LedgerAnswer.NOT_ASKED, WELL, (None, ConsistencyReason.COMPARISON_FAILED)),
        (LedgerAnswer.DIFFERS, None, (False, ConsistencyReason.LEDGER_INCONSISTENT)),
        (LedgerAnswer.DIFFERS, WELL, (False, ConsistencyReason.LEDGER_INCONSISTENT)),
        (LedgerAnswer.DIFFERS, WRONG, (False, ConsistencyReason.LEDGER_INCONSISTENT)),
    ],
)
def test_the_latest_answer_about_the_ledger_counts(
    event: Callable[..., Event],
    observed: Callable[..., Observed],
    answer: LedgerAnswer | None,
    known: Verdict | None,
    said: tuple[bool | None, ConsistencyReason],
) -> None:
    made = event()
    seen = observed(made, proof=proof(answer) if answer else None, consistency=known)
    found = verdict(made, seen, Stage.DRAIN)
    assert (found.agrees, found.reason) == said
    assert not (answer is LedgerAnswer.DIFFERS and known is WRONG) or found.violations, (
        "the claims are named once they are known"
    )


def test_a_webhook_cannot_be_asked(
    event: Callable[..., Event], spec: Callable[..., IntakeEventSpec], observed: Callable[..., Observed]
) -> None:
    made = event(spec=spec(commitTarget={"webhook": {"url": "https://ledger/commit"}}))
    assert verdict(made, observed(made), Stage.SERVE).reason is ConsistencyReason.LEDGER_CANNOT_BE_ASKED


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (proof(LedgerAnswer.AGREES), (True, ConsistencyReason.LEDGER_AGREES)),
        (proof(LedgerAnswer.NO_PROOF), (None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED)),
        (None, (None, ConsistencyReason.NOT_COMPARED)),
    ],
)
def test_after_the_end_the_report_says_whether_the_ledger_agreed(
    event: Callable[..., Event],
    observed: Callable[..., Observed],
    closes: datetime,
    last: Proof | None,
    said: tuple[bool | None, ConsistencyReason],
) -> None:
    made = event()
    facts = Facts(made, observed(made, proof=last), Stage.DRAIN, closes)
    final = report.proven(facts) if last else report.abandoned(facts)
    found = verdict(replace(made, status={"report": final.as_status()}), observed(made), Stage.REMOVE)
    assert (found.agrees, found.reason) == said


def test_a_contradiction_degrades_and_is_named_where_the_proof_fails(
    event: Callable[..., Event],
    observed: Callable[..., Observed],
    engine_status: Callable[..., EngineStatus],
    installation: Installation,
    closes: datetime,
) -> None:
    made = event()
    seen = observed(made, proof=proof(LedgerAnswer.DIFFERS), consistency=WRONG)
    sealed = engine_status(sealed=True, windowState="closed", claims=5, committed=5)
    seen = replace(seen, database=replace(seen.database, status=sealed))
    said = {c["type"]: c for c in plan(made, seen, installation, closes).status["conditions"]}
    assert (said["Drained"]["reason"], MISSING.detail in said["Drained"]["message"]) == ("ProofFailed", True)
    assert said["Degraded"]["reason"] == said["Ready"]["reason"] == said["LedgerConsistent"]["reason"]
    assert said["Ready"]["status"] == said["LedgerConsistent"]["status"] == "False"
