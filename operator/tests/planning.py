"""How tests read a plan."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from intake_operator.decide.steps import Apply, Plan
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import Manifest, Observed
from intake_operator.model.proof import Account, DatabaseAccount, LedgerAnswer, Proof
from intake_operator.reasons import ConditionType

SECOND = timedelta(seconds=1)


def make_proof(ledger: LedgerAnswer = LedgerAnswer.AGREES, detail: str = "", **changes: int) -> Proof:
    """A proof that holds: 11 claims, 8 committed, 2 voided, 1 released; with changes."""
    counts = {"claims": 11, "committed": 8, "voided": 2, "released": 1} | changes
    ended = Account(counts["committed"], counts["voided"], slots=counts.get("slots", counts["committed"]), digest=0)
    rest = (counts.get(name, 0) for name in ("expired", "held", "queued", "dead"))
    account = DatabaseAccount(counts["claims"], counts["released"], *rest, ended, ())
    return Proof(account, ledger, detail)


GOOD_PROOF = make_proof()


@dataclass(frozen=True)
class Decided(Plan):
    """A plan, with what tests ask of it."""

    @property
    def kinds(self) -> list[str]:
        """The steps in order; an applied object by its kind."""
        return kinds(self)

    @property
    def drained(self) -> str:
        """The reason of Drained: the state of the teardown."""
        return drained(self)

    def all[S](self, step: type[S]) -> list[S]:
        """The steps of one type."""
        return [each for each in self.steps if isinstance(each, step)]

    def applied(self, kind: str = "") -> list[Manifest]:
        """The objects that are applied; those of one kind, if it is given."""
        return [step.manifest for step in self.all(Apply) if kind in {"", step.manifest["kind"]}]

    def condition(self, wanted: ConditionType) -> dict[str, Any]:
        """One condition of the planned status."""
        return condition(self, wanted)

    def reason(self, wanted: ConditionType) -> str:
        """Its reason."""
        return str(condition(self, wanted)["reason"])

    def message(self, wanted: ConditionType) -> str:
        """Its message."""
        return str(condition(self, wanted)["message"])


def kinds(decided: Plan) -> list[str]:
    """The steps, applied objects by kind."""
    return [s.manifest["kind"] if isinstance(s, Apply) else type(s).__name__ for s in decided.steps]


def condition(decided: Plan, wanted: ConditionType) -> dict[str, Any]:
    """One condition of the planned status."""
    return next(c for c in decided.status["conditions"] if c["type"] == wanted)


def drained(decided: Plan) -> str:
    """The reason of Drained: the state of the teardown."""
    return str(condition(decided, ConditionType.DRAINED)["reason"])


def with_status(observed: Observed, status: EngineStatus | None) -> Observed:
    """The same observation with another engine_status of DB1."""
    return replace(observed, database=replace(observed.database, status=status))
