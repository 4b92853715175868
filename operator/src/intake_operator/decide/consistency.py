"""Does the ledger agree? The word of condition LedgerConsistent."""

from collections.abc import Mapping
from typing import Any, Final

from intake_operator.decide import memory
from intake_operator.decide.stage import Stage, abandoned
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from intake_operator.reasons import ConsistencyReason

NO_QUESTION: Final = "a webhook ledger offers no way to ask what it holds"


def verdict(event: Event, observed: Observed, stage: Stage) -> Verdict:
    """What is known: by the report, by the proof that is being made, or by the latest look."""
    if (report := memory.report(event)) is not None:
        return _reported(report)
    if event.deleting and abandoned(event):
        return Verdict(
            None, ConsistencyReason.NOT_COMPARED, "the event was abandoned: nobody asked the ledger at the end"
        )
    if stage in {Stage.INERT, Stage.RELEASE}:
        return Verdict(None, ConsistencyReason.NOT_COMPARED, "nothing was sold, so there is nothing to compare")
    if event.spec is not None and event.spec.commit_target.postgres is None:
        return Verdict(None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, NO_QUESTION)
    if observed.proof is not None and (proven := _proven(observed.proof, observed.consistency)):
        return proven
    return observed.consistency or Verdict(
        None,
        ConsistencyReason.NOT_COMPARED,
        f"compared when the queue is empty, and on demand: intake-admin reconcile {event.name}",
    )


def _proven(proof: Proof, known: Verdict | None) -> Verdict | None:
    message = proof.ledger_message
    match proof.ledger:
        case LedgerAnswer.AGREES:
            return Verdict(True, ConsistencyReason.LEDGER_AGREES, message)
        case LedgerAnswer.NO_PROOF:
            return known or Verdict(
                None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, f"{message} (ledger_proof, docs/ledger.md)"
            )
        case LedgerAnswer.NOT_ASKED:
            return Verdict(None, ConsistencyReason.COMPARISON_FAILED, message)
        case LedgerAnswer.DIFFERS:
            named = known and known.agrees is False
            return known if named else Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, message)


def _reported(report: Mapping[str, Any]) -> Verdict:
    word = str(report["ledgerVerified"])
    if word == LedgerAnswer.AGREES:
        told = f"the ledger agreed at the end: {report['committed']} claims committed, {report['voided']} voided"
        return Verdict(True, ConsistencyReason.LEDGER_AGREES, told)
    reason = ConsistencyReason.LEDGER_CANNOT_BE_ASKED if report["verified"] else ConsistencyReason.NOT_COMPARED
    return Verdict(None, reason, word)
