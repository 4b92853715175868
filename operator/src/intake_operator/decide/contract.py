"""What the ledger can do, as the bridges found out when they connected: every weaker form is said, none is refused."""

from typing import Final

from intake_operator.decide.health import Trouble
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
    }
)

# What follows where a Postgres ledger does not offer it; the words are those of the bridge's heartbeat.
_MISSING: Final = {
    "batch": "no {function}s(jsonb): a batch is committed row by row, which is slower",
    "outcomes": "{function}(jsonb) returns void: duplicates and conflicts cannot be told",
    "void": "no void_claim(jsonb): a claim that is given up leaves no trace there",
}
_WEBHOOK: Final = (
    "a webhook: one call for each claim, and nothing can be voided there, so what was sent once ends committed or as a "
    "dead letter"
)


def ledger_ready(
    target: CommitTarget | None, observed: Observed, problems: tuple[Trouble, ...]
) -> tuple[bool | None, str, str]:
    """Status, reason and message of LedgerReady."""
    trouble = next((each for each in problems if each.reason in _LEDGER_PROBLEMS), None)
    if trouble is not None:
        return False, trouble.reason, trouble.message
    ledgers = (worker.health.ledger for worker in observed.database.workers)
    told = [ledger.offers for ledger in ledgers if ledger is not None and ledger.offers is not None]
    if not told or target is None:
        return None, LedgerReadyReason.NOT_LOOKED_AT, "no bridge that runs now has looked at it"
    if target.postgres is None:
        return True, LedgerReadyReason.WEAKER, _WEBHOOK
    function = target.postgres.function
    lacks = [words.format(function=function) for offer, words in _MISSING.items() if any(offer not in o for o in told)]
    if lacks:
        return True, LedgerReadyReason.WEAKER, "; ".join(lacks)
    return True, LedgerReadyReason.FULL, "it takes whole batches, tells duplicates and conflicts, and voids claims"
