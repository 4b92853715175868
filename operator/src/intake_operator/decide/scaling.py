"""How many bridges, from the depth of the queue: more at once, fewer when fewer would have done for five minutes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.model.observed import DatabaseState, Manifest
from intake_operator.model.spec import Bridge, IntakeEventSpec
from intake_operator.reasons import ScalingReason

# Bridges are removed down to the largest number that was wanted in the last five minutes, as Kubernetes' own autoscaler
# does; `intake.engine_status` looks back as long. It is also the longest pause that a dependency may ask for, after
# which its queue is back. So a shorter lull removes no bridge, and longer ones do so at most twice in ten minutes. An
# idle bridge costs little, and the end of a sale does not wait for it.
LOOK_BACK: Final = timedelta(minutes=5)
# Fewer bridges are enough for a queue below nine tenths of their backlog: a queue at the threshold changes nothing.
SCALE_IN_BELOW: Final = (9, 10)
# A quarter at a time, at least one (dask and KEDA use steps of this size), with this time between: a bridge that ends
# gives its leases back, and the next wave of buyers may be seconds away.
SCALE_IN_PARTS: Final = 4
COOLDOWN: Final = timedelta(seconds=15)

# While more bridges are wanted than DB1's rows show, the annotation is postponed, at most this often.
POSTPONED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Decision:
    """The wanted number of bridges, and why."""

    replicas: int
    reason: ScalingReason
    message: str
    postpones: bool = False
    """The number stays, and the time in which bridges are not removed begins again."""


@dataclass(frozen=True)
class Queue:
    """Intents, visible and in flight, so that bridges with work in progress are not removed; None where unknown."""

    depth: int | None
    peak: int | None
    """The largest depth within LOOK_BACK, by the rows that DB1 has: they outlive the operator."""


def policy_for(spec: IntakeEventSpec, database: DatabaseState) -> Bridge:
    """The bounds of the spec; where there may be holds, one bridge at least: only a bridge ends them.

    There may be holds until DB1 is sealed, and afterwards as long as it has some, whether or not the event is paused.
    """
    ends_holds = database.held or (spec.checkout is not None and not database.sealed)
    if not ends_holds or spec.bridge.min_replicas:
        return spec.bridge
    return spec.bridge.model_copy(update={"min_replicas": 1})


def decide(queue: Queue, current: int, policy: Bridge, not_before: datetime | None, now: datetime) -> Decision:
    """Follow the queue within the policy's bounds; keep the present number while the depth is unknown."""
    if queue.depth is None:
        return Decision(
            current,
            ScalingReason.DEPTH_UNKNOWN,
            f"the depth of the queue is unknown: the number of bridges stays {current}",
        )
    wanted = _replicas_for(queue.depth, policy.backlog_per_replica, policy)
    reason = ScalingReason.FOLLOWING_QUEUE if queue.depth else ScalingReason.IDLE
    each = policy.backlog_per_replica
    message = f"{queue.depth} intents are queued; at {each} for each bridge, {wanted} bridges are wanted"
    if wanted >= current:
        known = queue.peak is not None and _replicas_for(queue.peak, policy.backlog_per_replica, policy) >= current
        soon_due = not_before is not None and not_before < now + LOOK_BACK - POSTPONED_EVERY
        return Decision(wanted, reason, message, postpones=soon_due and not known and current > policy.min_replicas)
    if current > policy.max_replicas:
        # The user lowered the bound: it applies at once.
        return Decision(policy.max_replicas, reason, f"{message}; bridge.maxReplicas allows {policy.max_replicas}")
    if not_before is not None and now < not_before:
        return Decision(current, reason, f"{message}; {current} stay for a while after the last change")
    if queue.peak is None:
        return Decision(
            current, reason, f"{message}; {current} stay, because the depth of the last five minutes is unknown"
        )
    below, of = SCALE_IN_BELOW
    kept = _replicas_for(max(queue.peak, queue.depth) * of, policy.backlog_per_replica * below, policy)
    if kept >= current:
        return Decision(current, reason, f"{message}; {current} stay for what was queued in the last five minutes")
    step = max(1, current // SCALE_IN_PARTS)
    return Decision(max(kept, current - step), reason, message)


def scale_in_after(before: int, after: int, now: datetime) -> datetime:
    """Until when no bridge is removed. DB1's rows miss a peak that comes and goes between two of them."""
    return now + (COOLDOWN if after < before else LOOK_BACK)


def added_at(deployment: Manifest) -> datetime | None:
    """When bridges were last added, or the time in which none is removed began again; None without that mark."""
    stamp = (deployment["metadata"].get("annotations") or {}).get(names.SCALE_IN_AFTER_ANNOTATION)
    return datetime.fromisoformat(stamp).astimezone(UTC) - LOOK_BACK if stamp else None


def replicas_of(deployment: Manifest | None) -> int:
    """How many bridges the Deployment asks for; 0 without one."""
    return int(deployment["spec"].get("replicas", 1)) if deployment else 0


def _replicas_for(depth: int, backlog: int, policy: Bridge) -> int:
    return min(max(-(-depth // backlog), policy.min_replicas), policy.max_replicas)
