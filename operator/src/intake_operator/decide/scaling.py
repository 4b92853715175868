"""How many bridges, from the depth of the queue: more at once, fewer when a while has shown that fewer do."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from intake_operator.model.observed import Manifest
from intake_operator.model.spec import Bridge
from intake_operator.reasons import ScalingReason

# Bridges go in to the highest number that was wanted in the last five minutes, as many as Kubernetes' own autoscaler
# takes; `intake.engine_status` remembers as long. It is also the longest pause that a target may ask for, after which
# its queue comes back. So nothing that comes and goes faster stops bridges, and what is slower does so twice in ten
# minutes at the most. A bridge that idles meanwhile costs little, and the end of a sale does not wait for it.
LOOK_BACK: Final = timedelta(minutes=5)
# What is left must stay below nine tenths of what fewer bridges are for: a queue at the threshold moves nobody.
BAND: Final = (9, 10)
# A quarter at a time, at least one (dask and KEDA settled on steps of this size), so many seconds apart: a bridge that
# goes gives its leases back, and the next wave of buyers may be seconds away.
SCALE_IN_PARTS: Final = 4
COOLDOWN: Final = timedelta(seconds=15)

# So often at most the rest is written down anew, while more is wanted than DB1's rows show.
RENEWED: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Decision:
    """The wanted number of bridges, and why."""

    replicas: int
    reason: ScalingReason
    message: str
    rests: bool = False
    """The rest begins anew, though the number stays."""


@dataclass(frozen=True)
class Queue:
    """Intents visible and in flight, so that bridges are not taken away from work in progress; None where unknown."""

    depth: int | None
    peak: int | None
    """The most there were within LOOK_BACK in the rows that DB1 has: they outlive the operator."""


def decide(queue: Queue, current: int, policy: Bridge, rests_until: datetime | None, now: datetime) -> Decision:
    """Follow the queue within the policy's bounds; hold what there is while the depth is unknown."""
    if queue.depth is None:
        return Decision(current, ScalingReason.DEPTH_UNKNOWN, f"the depth of the queue is unknown: holding {current}")
    wanted = _for(queue.depth, policy.backlog_per_replica, policy)
    reason = ScalingReason.FOLLOWING_QUEUE if queue.depth else ScalingReason.IDLE
    message = f"{queue.depth} queued at {policy.backlog_per_replica} a bridge: {wanted} wanted"
    if wanted >= current:
        known = queue.peak is not None and _for(queue.peak, policy.backlog_per_replica, policy) >= current
        late = rests_until is not None and rests_until < now + LOOK_BACK - RENEWED
        return Decision(wanted, reason, message, rests=late and not known and current > policy.min_replicas)
    if current > policy.max_replicas:
        # A bound is somebody's word, and holds at once.
        return Decision(policy.max_replicas, reason, f"{message}, {policy.max_replicas} are the most")
    if rests_until is not None and now < rests_until:
        return Decision(current, reason, f"{message}, holding {current} for a while after the last change")
    if queue.peak is None:
        return Decision(current, reason, f"{message}, holding {current}: how deep it was is unknown")
    below, of = BAND
    kept = _for(max(queue.peak, queue.depth) * of, policy.backlog_per_replica * below, policy)
    if kept >= current:
        return Decision(current, reason, f"{message}, holding {current} for what was queued in the last five minutes")
    step = max(1, current // SCALE_IN_PARTS)
    return Decision(max(kept, current - step), reason, message)


def rest(before: int, after: int, now: datetime) -> datetime:
    """Until when bridges do not go in. DB1's rows miss what comes and goes between two of them."""
    return now + (COOLDOWN if after < before else LOOK_BACK)


def replicas_of(deployment: Manifest | None) -> int:
    """How many bridges there are to be, as it stands."""
    return int(deployment["spec"].get("replicas", 1)) if deployment else 0


def _for(depth: int, backlog: int, policy: Bridge) -> int:
    return min(max(-(-depth // backlog), policy.min_replicas), policy.max_replicas)
