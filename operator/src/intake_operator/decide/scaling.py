"""How many bridges, from the depth of the queue."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from intake_operator.model.spec import Bridge
from intake_operator.reasons import Scaling

# Out at once, in slowly: a bridge that goes gives its leases back, and the next wave of buyers may be seconds away.
COOLDOWN: Final = timedelta(seconds=15)
# A quarter at a time, at least one (dask and KEDA settled on steps of this size).
SCALE_IN_PARTS: Final = 4


@dataclass(frozen=True)
class Decision:
    """The wanted number of bridges, and why."""

    replicas: int
    reason: Scaling
    message: str


def decide(depth: int | None, current: int, policy: Bridge, scaled_at: datetime | None, now: datetime) -> Decision:
    """Follow the queue within the policy's bounds; hold what there is while the depth is unknown.

    `depth` counts intents visible and in flight, so that bridges are not taken away from work in progress.
    """
    if depth is None:
        return Decision(current, Scaling.DEPTH_UNKNOWN, f"the depth of the queue is unknown: holding {current}")
    busy = -(-depth // policy.backlog_per_replica)
    wanted = min(max(busy, policy.min_replicas), policy.max_replicas)
    reason = Scaling.FOLLOWING_QUEUE if depth else Scaling.IDLE
    message = f"{depth} queued at {policy.backlog_per_replica} a bridge: {wanted} wanted"
    if wanted >= current:
        return Decision(wanted, reason, message)
    if scaled_at is not None and now - scaled_at < COOLDOWN:
        return Decision(current, reason, f"{message}, holding {current} through the cooldown")
    step = max(1, current // SCALE_IN_PARTS)
    return Decision(max(wanted, current - step), reason, message)
