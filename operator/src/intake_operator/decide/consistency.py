"""Does the ledger agree with DB1? The condition LedgerConsistent, and when to compare the two."""

from collections.abc import Mapping
from typing import Any, Final

from intake_operator.decide import inputs, memory, steps
from intake_operator.decide.stage import Stage, abandoned
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import Event, Observed
from intake_operator.model.proof import LedgerAnswer, Proof
from intake_operator.reasons import ConsistencyReason

NO_QUESTION: Final = "a webhook ledger offers no way to ask what it holds"


def verdict(event: Event, observed: Observed, stage: Stage) -> Verdict:
    """What is known: from the report, else from the proof, else from the latest comparison."""
    if (report := memory.report(event)) is not None:
        return _reported(report)
    if event.deleting and abandoned(event):
        return Verdict(
            None, ConsistencyReason.NOT_COMPARED, "the event was abandoned, so the ledger was not asked at the end"
        )
    if stage in {Stage.INERT, Stage.REMOVE}:
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


def comparison(event: Event, observed: Observed) -> list[steps.Step]:
    """The step that starts a comparison, if one is due.

    A comparison reads every claim on both sides. So it waits until the queue is empty and some claim is settled, and it
    is left out where the proof has just found that the ledger agrees.
    """
    ledger, database, proof = event.spec and event.spec.commit_target.postgres, observed.database, observed.proof
    if not ledger or abandoned(event) or not observed.comparison_due:
        return []
    if database.status is None or not database.ready or database.depth:
        return []
    settled = database.status.committed or database.status.voided
    readable = all(each.ref.name in observed.input_fingerprints for each in inputs.of_postgres(ledger))
    if not settled or not readable or (proof and proof.ledger.accepted):
        return []
    return [steps.Compare(ledger)]


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
    answer = str(report["ledgerVerified"])
    if answer == LedgerAnswer.AGREES:
        message = f"the ledger agreed at the end: {report['committed']} claims committed, {report['voided']} voided"
        return Verdict(True, ConsistencyReason.LEDGER_AGREES, message)
    reason = ConsistencyReason.LEDGER_CANNOT_BE_ASKED if report["verified"] else ConsistencyReason.NOT_COMPARED
    return Verdict(None, reason, answer)
