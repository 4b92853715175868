"""One kind of call to a dependency (validate, commit, void), and whether to make it now."""

from dataclasses import dataclass

from intake_bridge.domain.breaker import Breaker, Circuit
from intake_bridge.domain.common_failure import CommonFailure
from intake_bridge.domain.last_minute import LastMinute
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import Outcome, Result


@dataclass(frozen=True, slots=True)
class Dependency:
    """An external dependency (validator or ledger), its circuit breaker, and what claims have failed there."""

    step: str
    breaker: Breaker
    common_failure: CommonFailure
    last_minute: LastMinute
    """Only since it was last down: while it is down, `error` says so."""

    @property
    def tripped(self) -> bool:
        """Called with one claim at a time, if at all."""
        return self.breaker.tripped or self.common_failure.breaker.tripped

    @property
    def circuit(self) -> Circuit:
        """The worse of the two breakers' states."""
        return max(self.breaker.circuit, self.common_failure.breaker.circuit, key=list(Circuit).index)

    @property
    def error(self) -> str | None:
        """The message for the event's condition; None when all is well."""
        if not self.common_failure.breaker.tripped:
            return self.breaker.message
        return f"{self.common_failure.summary}: {self.breaker.message or self.common_failure.breaker.error}"

    def allowance(self, wanted: int) -> int:
        """How many claims may be sent: all, one to probe with, none."""
        return min(self.breaker.allowance(wanted), self.common_failure.breaker.allowance(wanted))

    def wait(self) -> float:
        """Seconds until `allowance` may be above 0 again."""
        return max(self.breaker.wait(), self.common_failure.breaker.wait())

    def forget_if_idle(self) -> None:
        """Called when a read found nothing: withdraw an error that is old."""
        self.breaker.forget_if_idle()
        self.common_failure.forget_if_idle()

    def is_to_blame(self, message: Message, outcome: Outcome) -> bool:
        """Whether this failure is the dependency's, and so is not counted against the claim."""
        if self.common_failure.breaker.is_to_blame(message.failures):
            return True
        if outcome.result is not Result.RETRY:
            return False
        return self.breaker.is_to_blame(message.failures, claim_specific=outcome.claim_specific)
