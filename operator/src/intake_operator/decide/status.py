"""The status of an event, rebuilt on every pass from what was observed and what `memory` keeps of the old one."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator import names
from intake_operator.children import access
from intake_operator.decide import conditions, memory, provisioning
from intake_operator.decide.facts import Facts
from intake_operator.decide.stage import Stage, keep_until, provision_at
from intake_operator.reasons import DrainReason

# Counts are written this often at most: in a rush they change with every pass.
COUNTS_EVERY: Final = timedelta(seconds=5)
COUNTS: Final = frozenset(
    {*memory.COUNTS, "countedAt", "bridge", "claimsPerSecond", "commitsPerSecond", "effectiveBatchSize"}
)
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


def is_due(before: Mapping[str, Any], after: Mapping[str, Any], now: datetime) -> bool:
    """Whether a status is written now: counts wait for COUNTS_EVERY, everything else is told at once.

    Numbers in the message of a condition are counts, too.
    """
    if before == after or _without_counts(before) != _without_counts(after):
        return before != after
    if not (counted := before.get("countedAt")):
        return True
    # A clock that was put back must not keep them for longer.
    return not timedelta(0) <= now - datetime.fromisoformat(counted) < COUNTS_EVERY


def _without_counts(status: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in status.items() if name not in COUNTS}
    conditions = [c | {"message": _NUMBER.sub("0", c["message"])} for c in status.get("conditions") or ()]
    return told | {"conditions": conditions}


def build(facts: Facts) -> dict[str, Any]:
    """The whole status, ready for server-side apply: what is left out is removed."""
    event, observed = facts.event, facts.observed
    return _present(
        {
            "observedGeneration": event.generation,
            "phase": facts.phase.value,
            "conditions": conditions.build(facts),
            "provisioning": provisioning.record(facts),
            "database": memory.database(event, observed, facts.claimable or memory.identity(event, observed)),
            "recovery": memory.recovery(event, observed),
            "report": memory.report(event),
            **(_counts(facts) if memory.report(event) is None else _final_counts(facts)),
        }
    )


def _counts(facts: Facts) -> dict[str, Any]:
    """Before the report: DB1's counts, or the last ones that it gave."""
    event, observed = facts.event, facts.observed
    deployment = observed.children.get(("Deployment", names.bridge(event.name)))
    counts: dict[str, Any] = {
        "bridge": {
            "desired": facts.scaling.replicas if facts.scaling else 0,
            "ready": int((deployment or {}).get("status", {}).get("readyReplicas") or 0),
        },
        "nextTransitionTime": _next_transition(facts),
        "connection": _connection(facts),
        **memory.counts(event, observed, facts.now),
    }
    if (database := observed.database.status) is not None and not memory.volume_lost(event, observed):
        counts |= {
            "claimsPerSecond": database.claims_per_second,
            "commitsPerSecond": database.commits_per_second,
            "effectiveBatchSize": min((worker.batch_size for worker in database.workers), default=None),
        }
    return counts


def _final_counts(facts: Facts) -> dict[str, Any]:
    """With the report: its counts."""
    report, spec = memory.report(facts.event) or {}, facts.event.spec
    ends = {name: report[name] for name in ("inventory", "held", *memory.ENDS) if name in report}
    counts: dict[str, Any] = {"bridge": {"desired": 0, "ready": 0}, "connection": _connection(facts), **ends}
    if facts.stage is Stage.KEEP and spec:
        counts["nextTransitionTime"] = keep_until(spec).isoformat(timespec="seconds")
    if "claims" in report:
        queued, dead = int(report.get("queued", 0)), int(report.get("deadLetters", 0))
        counts["queue"] = {"depth": queued, "inFlight": 0, "oldestSeconds": 0, "deadLetters": dead}
    return counts


def _connection(facts: Facts) -> dict[str, Any] | None:
    event = facts.event
    if facts.stage is Stage.INERT or names.claimer_secret(event.name) not in facts.observed.secret_fingerprints:
        return None
    return {"secretName": names.claimer_secret(event.name), "host": access.host(event)}


def _next_transition(facts: Facts) -> str | None:
    spec, hold_ends = facts.event.spec, facts.observed.database.last_hold_ends
    if facts.drain is DrainReason.HOLDS_PENDING:
        return hold_ends.isoformat(timespec="seconds") if hold_ends and hold_ends > facts.now else None
    if spec is None or facts.stage not in {Stage.WAIT, Stage.SERVE}:
        return None
    if facts.stage is Stage.WAIT:
        return provision_at(spec).isoformat()
    moments = (spec.window.opens_at, spec.window.closes_at)
    return next((m.isoformat() for m in moments if m > facts.now), None)


def _present(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if value is not None}
