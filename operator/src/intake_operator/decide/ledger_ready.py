"""What the ledger can do, as the bridges found when they connected. A weaker ledger is used and reported."""

from typing import Final

from intake_operator.decide.health.finding import Finding
from intake_operator.model.observed import Observed
from intake_operator.model.spec import CommitTarget
from intake_operator.reasons import LedgerReadyReason, Problem

_LEDGER_PROBLEMS: Final = frozenset(
    {
        Problem.LEDGER_SECRET_MISSING,
        Problem.LEDGER_SECRET_KEY_MISSING,
        Problem.LEDGER_UNREACHABLE,
        Problem.LEDGER_FUNCTION_MISSING,
        Problem.LEDGER_FUNCTION_AMBIGUOUS,
        Problem.LEDGER_DOWN,
        Problem.COMMITS_FAILING,
    }
)

# What follows where a Postgres ledger does not offer it. The keys are those of the bridge's heartbeat.
_MISSING: Final = {
    "batch": "no {function}s(jsonb): a batch is committed row by row, which is slower",
    "outcomes": "{function}(jsonb) returns void: duplicates and conflicts are not reported",
    "void": "no void_claim(jsonb): a claim that is given up leaves no record in the ledger",
    "receipts": "no receipts: claim_status says that a claim is committed, and no order number of the ledger",
}
_WEBHOOK: Final = (
    "a webhook: one call for each claim, and no claim can be voided, so a claim that was sent once ends committed or "
    "as a dead letter"
)


def ledger_ready(
    target: CommitTarget | None, observed: Observed, findings: tuple[Finding, ...]
) -> tuple[bool | None, str, str]:
    """Status, reason and message of LedgerReady."""
    finding = next((each for each in findings if each.reason in _LEDGER_PROBLEMS), None)
    if finding is not None:
        return False, finding.reason, finding.message
    ledgers = (worker.health.ledger for worker in observed.database.workers)
    offers = [ledger.offers for ledger in ledgers if ledger is not None and ledger.offers is not None]
    if not offers or target is None:
        return None, LedgerReadyReason.NOT_LOOKED_AT, "no running bridge has connected to the ledger yet"
    if target.postgres is None:
        return True, LedgerReadyReason.WEAKER, _WEBHOOK
    function = target.postgres.function
    missing = [text for offer, text in _MISSING.items() if any(offer not in each for each in offers)]
    if missing:
        return True, LedgerReadyReason.WEAKER, "; ".join(missing).format(function=function)
    return (
        True,
        LedgerReadyReason.FULL,
        "the ledger takes whole batches, reports duplicates and conflicts, voids claims, and gives receipts",
    )
