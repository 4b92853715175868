"""One pass over one event: look, decide, say, do. Create, update, child change, timer and delete all come here."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from intake_shared.redaction import one_line

from intake_operator import names
from intake_operator.act import Actor
from intake_operator.children.bridge import Installation
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import AddFinalizer, Plan, Recover, RemoveFinalizer, Step
from intake_operator.kube import events
from intake_operator.kube.apply import NotOursError
from intake_operator.kube.client import ApiError
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Event, Observed
from intake_operator.model.parse import parse
from intake_operator.observe import Observer
from intake_operator.reasons import ConditionType, Problem
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

# Seconds. Stocking and seeding ten million seats stays below it, and rebuilding DB1 from the ledger has a
# limit of its own; a pass that takes longer waits for an answer that never comes.
LONGEST_PASS: Final = 7200.0

# The problems that only an attempt shows.
STEP_FAILED: Final = frozenset({Problem.CHILD_NOT_OURS, Problem.RECONCILE_FAILED, Problem.DATABASE_HELD_UP})

# What DB1 answers when sessions that are not the claimers' keep a table that a step needs for itself.
HELD_UP: Final = "IE008"


def utc_now() -> datetime:
    """The clock of the process."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Reconciler:
    """Reconciles events by key."""

    observer: Observer
    actor: Actor
    installation: Installation
    metrics: Metrics
    forget: Callable[[Key], None]
    clock: Callable[[], datetime] = utc_now

    async def reconcile(self, key: Key) -> float | None:
        """One pass; answers in how many seconds to come again. Raises what went wrong after having reported it."""
        with self.metrics.timed():
            try:
                async with asyncio.timeout(LONGEST_PASS):
                    return await self._pass(key)
            except Exception as error:
                logger.warning(
                    "reconcile failed",
                    extra={"namespace": key[0], "event": key[1], "error": one_line(error, most=1000)},
                )
                raise

    async def _pass(self, key: Key) -> float | None:
        namespace, name = key
        body, within = await asyncio.gather(
            self.observer.cluster.get(names.KIND, namespace, name),
            self.observer.cluster.get("Namespace", "", namespace),
        )
        if body is None:
            self.forget(key)
            self.actor.applier.forget(namespace, name)
            return None
        event, now = parse(body, within), self.clock()
        observed = await self.observer.observe(event, now)
        decided = plan(event, observed, self.installation, now)
        # The word comes before the deed: whoever reads the status after a crash sees what was about to happen.
        said = _still_failing(event.status, decided)
        await self._say(event, said, now)
        self.metrics.seen(key, said)
        for step in decided.steps:
            await self._do(step, event, observed, said, now)
        removed = any(isinstance(step, RemoveFinalizer) for step in decided.steps)
        final = decided.after or decided.status
        if said != final and not removed:  # what has no finalizer any more may be gone
            await self._say(replace(event, status=said), final, now)
        if removed:
            self.observer.forget(event.uid)
        return decided.requeue_after

    async def _do(self, step: Step, event: Event, observed: Observed, said: dict[str, Any], now: datetime) -> None:
        try:
            async with self.metrics.at_work() if isinstance(step, Recover) else nullcontext():
                await self.actor.act(step, event, observed, now)
        except Exception as error:
            stale = isinstance(error, ApiError) and (
                error.status in {404, 409} or isinstance(step, AddFinalizer | RemoveFinalizer)
            )
            if not stale:
                await self._say(event, _failed(said, step, error, now), now)
            raise

    async def _say(self, event: Event, status: dict[str, Any], now: datetime) -> None:
        if status == event.status:
            return
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": event.name, "namespace": event.namespace},
            "status": status,
        }
        await self.actor.cluster.apply(manifest, names.FIELD_MANAGER, subresource="status")
        changes = list(events.transitions(event, status, now))
        for change in changes:
            where = {"namespace": event.namespace, "event": event.name, "reason": change["reason"]}
            logger.info(change["message"], extra=where)
        await events.post(self.actor.cluster, changes)


def _still_failing(before: Mapping[str, Any], decided: Plan) -> dict[str, Any]:
    """What was decided, with the failure of the last pass until the steps have gone through.

    Else each try would say for a moment that all is well, wake whoever waits for Ready, and be an Event.
    """
    told = {c["type"]: c for c in before.get("conditions") or ()}
    if not decided.steps or told.get(ConditionType.DEGRADED, {}).get("reason") not in STEP_FAILED:
        return decided.status
    conditions = [
        told.get(c["type"], c) | {"observedGeneration": c["observedGeneration"]}
        if c["type"] in {ConditionType.DEGRADED, ConditionType.READY}
        else c
        for c in decided.status["conditions"]
    ]
    return decided.status | {"conditions": conditions}


def _failed(status: dict[str, Any], step: Step, error: Exception, now: datetime) -> dict[str, Any]:
    """The status, with the step that failed in its Degraded and Ready conditions."""
    reason = _reason(error)
    told = f"{type(step).__name__}: {str(error)[:500]}"
    words = {ConditionType.DEGRADED: "True", ConditionType.READY: "False"}

    def changed(condition: dict[str, Any]) -> dict[str, Any]:
        word = words[condition["type"]]
        since = condition["lastTransitionTime"] if condition["status"] == word else now.isoformat(timespec="seconds")
        return condition | {"status": word, "reason": reason.value, "message": told, "lastTransitionTime": since}

    conditions = [changed(c) if c["type"] in words else c for c in status["conditions"]]
    return status | {"conditions": conditions}


def _reason(error: Exception) -> Problem:
    if isinstance(error, NotOursError):
        return Problem.CHILD_NOT_OURS
    held_up = isinstance(error, psycopg.Error) and error.sqlstate == HELD_UP
    return Problem.DATABASE_HELD_UP if held_up else Problem.RECONCILE_FAILED
