"""One kind of call (validate, commit, void), and whether to make it now."""

from dataclasses import dataclass

from intake_bridge.domain.breaker import Breaker, Circuit
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import Outcome, Result
from intake_bridge.domain.trial import Trial


@dataclass(frozen=True, slots=True)
class Target:
    """A way out of the house: the breaker that watches whether it answers, and the trial of what it refuses."""

    step: str
    breaker: Breaker
    trial: Trial

    @property
    def tripped(self) -> bool:
        """Asked with one claim at a time, if at all."""
        return self.breaker.tripped or self.trial.breaker.tripped

    @property
    def circuit(self) -> Circuit:
        """The worse of the two."""
        return max(self.breaker.circuit, self.trial.breaker.circuit, key=list(Circuit).index)

    @property
    def error(self) -> str | None:
        """What to tell people; None when all is well."""
        if not self.trial.breaker.tripped:
            return self.breaker.trouble
        return f"{self.trial.summary}: {self.breaker.trouble or self.trial.breaker.error}"

    def allowance(self, wanted: int) -> int:
        """How many claims may be sent: all, one to probe with, none."""
        return min(self.breaker.allowance(wanted), self.trial.breaker.allowance(wanted))

    def wait(self) -> float:
        """Seconds until `allowance` may be above nought again."""
        return max(self.breaker.wait(), self.trial.breaker.wait())

    def forget_if_idle(self) -> None:
        """There is nothing to probe with."""
        self.breaker.forget_if_idle()
        self.trial.forget_if_idle()

    def excuses(self, message: Message, outcome: Outcome) -> bool:
        """Whether this failure is the target's, and so not held against the claim."""
        if self.trial.breaker.excuses(message.failures):
            return True
        return outcome.result is Result.RETRY and self.breaker.excuses(message.failures, alone=outcome.alone)
