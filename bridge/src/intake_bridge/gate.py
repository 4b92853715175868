"""Whether a call may be made, and what its outcome does to the breaker, the throttle and the metrics."""

import logging
from collections.abc import Callable

from intake_bridge.batch import LeasedBatch
from intake_bridge.domain.common_failure import FAILURES_IN_A_ROW, is_failure
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import DECIDED_BY_BRIDGE, Blame, Outcome
from intake_bridge.observability.metrics import Metrics
from intake_bridge.rate_limiter import Permit

log = logging.getLogger(__name__)


class StepGate:
    """The port Gate for one step of one batch. `permit` is None for a step that needs no tokens."""

    def __init__(
        self,
        batch: LeasedBatch,
        dependency: Dependency,
        stopping: Callable[[], bool],
        metrics: Metrics,
        permit: Permit | None = None,
    ) -> None:
        self._lease = batch.lease
        self._dependency = dependency
        self._stopping = stopping
        self._metrics = metrics
        self._permit = permit
        self._failures_in_a_row = 0

    def may_start(self, message: Message) -> bool:
        """No call starts while we stop, while the dependency is down or has asked for a pause, or without the lease."""
        return not self._stopping() and self._dependency.allowance(1) > 0 and self.may_continue(message)

    def may_start_any(self, messages: Messages) -> bool:
        """Whether a call may start for one of these."""
        return any(map(self.may_start, messages))

    def may_continue(self, message: Message) -> bool:
        """The lease is ours, the permit (if the step needs one) is valid, and not every call has failed lately."""
        permitted = self._permit is None or self._permit.is_valid()
        return permitted and self._failures_in_a_row < FAILURES_IN_A_ROW and self._lease.is_ours(message.msg_id)

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Count the outcome in breaker and metrics; where the step has a permit and `seconds` are given, also there."""
        if self._permit is not None and seconds is not None:
            self._permit.record(outcome, seconds)
        self._metrics.outcomes.labels(self._dependency.step, outcome.result.value).inc()
        self._failures_in_a_row = self._failures_in_a_row + 1 if is_failure(outcome) else 0
        if outcome.kind == DECIDED_BY_BRIDGE:
            return
        breaker, error = self._dependency.breaker, outcome.reason or outcome.result.value
        was_tripped = breaker.tripped
        match outcome.blame:
            case Blame.DEPENDENCY:
                breaker.trip(error)
            case Blame.SUSPECT:
                breaker.record_possible_failure(error)
            case Blame.CLAIM if outcome.pauses_dependency:
                breaker.record_pause(outcome.retry_after or 1.0, error)
            case Blame.CLAIM:
                breaker.record_success()
        if breaker.tripped and not was_tripped:
            log.warning("%s: breaker opens, nothing is read but probes: %s", self._dependency.step, error)
        elif was_tripped and not breaker.tripped:
            log.info("%s: breaker closes", self._dependency.step)
