"""Does the ledger agree? The word of condition LedgerConsistent."""

from collections.abc import Mapping
from typing import Any, Final

from intake_operator.decide import memory
from intake_operator.decide.stage import Stage, abandoned
from intake_operator.model.consistency import Verdict
from intake_operator.model.observed import LEDGER_AGREES, LEDGER_SILENT, LEDGER_UNASKED, Event, Observed
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
    if observed.proof is not None and (proven := _proven(observed.proof.ledger, observed.consistency)):
        return proven
    return observed.consistency or Verdict(
        None,
        ConsistencyReason.NOT_COMPARED,
        f"compared when the queue is empty, and on demand: intake-admin reconcile {event.name}",
    )


def _proven(word: str, known: Verdict | None) -> Verdict | None:
    if word == LEDGER_AGREES:
        return Verdict(True, ConsistencyReason.LEDGER_AGREES, word)
    if word == LEDGER_SILENT:
        return known or Verdict(
            None, ConsistencyReason.LEDGER_CANNOT_BE_ASKED, f"{word} (ledger_proof, docs/ledger.md)"
        )
    if word.startswith(LEDGER_UNASKED):
        return Verdict(None, ConsistencyReason.COMPARISON_FAILED, word)
    return known if known and known.agrees is False else Verdict(False, ConsistencyReason.LEDGER_INCONSISTENT, word)


def _reported(report: Mapping[str, Any]) -> Verdict:
    word = str(report["ledgerVerified"])
    if word == LEDGER_AGREES:
        told = f"the ledger agreed at the end: {report['committed']} claims committed, {report['voided']} voided"
        return Verdict(True, ConsistencyReason.LEDGER_AGREES, told)
    reason = ConsistencyReason.LEDGER_CANNOT_BE_ASKED if report["verified"] else ConsistencyReason.NOT_COMPARED
    return Verdict(None, reason, word)
