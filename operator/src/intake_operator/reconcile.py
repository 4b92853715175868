"""One pass over one event: observe, plan, write the status, act. Every change of an event or a child comes here."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from intake_shared.redaction import one_line, redacted

from intake_operator import names
from intake_operator.act import Actor
from intake_operator.children import common
from intake_operator.children.installation import Installation
from intake_operator.decide import needs
from intake_operator.decide.conditions import step_failed, until_steps_succeed
from intake_operator.decide.plan import plan
from intake_operator.decide.status import is_due
from intake_operator.decide.steps import AddFinalizer, Plan, Recover, RemoveFinalizer, Step
from intake_operator.kube import events
from intake_operator.kube.apply import NotOursError
from intake_operator.kube.cached import Live
from intake_operator.kube.client import ApiError
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Event, Observed
from intake_operator.model.parse import parse
from intake_operator.observe import Observer
from intake_operator.reasons import Problem
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

# Seconds. Stocking and seeding ten million slots takes less, and rebuilding DB1 from the ledger has a limit of its own.
# A longer pass waits for an answer that never comes.
LONGEST_PASS: Final = 7200.0

# How often to look whether the objects of a namespace are known.
UNTIL_LISTED: Final = timedelta(seconds=1)

# The SQLSTATE of DB1 when sessions that are not the claimers' keep a table locked that a step needs.
HELD_UP: Final = "IE008"


def utc_now() -> datetime:
    """The clock of the process."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Reconciler:
    """Reconciles events by key. `drop` removes a key that is gone from the queue and the metrics."""

    cluster: Live
    observer: Observer
    actor: Actor
    installation: Installation
    metrics: Metrics
    drop: Callable[[Key], None]
    clock: Callable[[], datetime] = utc_now
    _uids: dict[Key, str] = field(default_factory=dict, init=False)
    """The uid of each event at its last pass: what is remembered of an event goes by its uid."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """One pass. Returns when the next is due; None: at the next change. Reports what fails, and raises it."""
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

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an event that is gone."""
        self.drop(key)
        if uid := self._uids.pop(key, None):
            self.observer.forget(uid)
            self.actor.forget(uid)

    async def _pass(self, key: Key) -> timedelta | None:
        now = self.clock()
        if not self.observer.cluster.knows(key[0]):
            return UNTIL_LISTED
        looked = await self._look(key, self.observer, now)
        if looked and looked[2] is None:
            looked = await self._look(key, self.observer.reading_live(), now)
        if looked is None:
            return None
        event, observed, decided = looked
        assert decided is not None
        # The status is written first: after a crash it shows what was about to happen.
        status = until_steps_succeed(event.status, decided.status) if decided.steps else decided.status
        event = await self._write(event, status, now)
        self.metrics.record(key, status)
        for step in decided.steps:
            await self._act(step, event, observed, status, now)
        removed = any(isinstance(step, RemoveFinalizer) for step in decided.steps)
        if not removed:  # without its finalizer, the event may be gone
            await self._write(event, decided.after or decided.status, now)
        if removed:
            self.observer.forget(event.uid)
            self.actor.forget(event.uid)
        return decided.requeue_after

    async def _look(self, key: Key, observer: Observer, now: datetime) -> tuple[Event, Observed, Plan | None] | None:
        """Observe and plan; None if the event is gone. Without a plan: it has to be made of what is read live."""
        namespace, name = key
        body, within = await asyncio.gather(
            observer.objects.get(names.KIND, namespace, name),
            observer.objects.get("Namespace", "", namespace),
        )
        if body is None or self._uids.get(key, body["metadata"]["uid"]) != body["metadata"]["uid"]:
            self.forget(key)  # also if a new event has its name
        if body is None:
            return None
        event = parse(body, within)
        self._uids[key] = event.uid
        self.observer.cluster.renew(namespace, needs.secrets(event), needs.secrets_last(event, now))
        observed = await observer.observe(event, now)
        if not observer.live and needs.live(event, observed, now):
            return event, observed, None
        decided = plan(event, observed, self.installation, now)
        lags = not observer.live and needs.live_before(decided, event, observed)
        return event, observed, None if lags else decided

    async def _act(self, step: Step, event: Event, observed: Observed, status: dict[str, Any], now: datetime) -> None:
        try:
            async with self.metrics.long_step() if isinstance(step, Recover) else nullcontext():
                await self.actor.act(step, event, observed, now)
        except Exception as error:
            stale = isinstance(error, ApiError) and (
                error.status in {404, 409} or isinstance(step, AddFinalizer | RemoveFinalizer)
            )
            if not stale:
                message = f"step {type(step).__name__} failed: {_what_failed(error)}"
                await self._write(event, step_failed(status, _reason(error), message, now), now)
            raise

    async def _write(self, event: Event, status: dict[str, Any], now: datetime) -> Event:
        """Write the status if it is due, and an Event for each reason that changed. Returns the event as it is then."""
        if not is_due(event.status, status, now):
            return event
        await self.cluster.apply(common.status_of(event, status), names.FIELD_MANAGER, subresource="status")
        changes = list(events.transitions(event, status, now))
        for change in changes:
            where = {"namespace": event.namespace, "event": event.name, "reason": change["reason"]}
            logger.info(change["message"], extra=where)
        await events.post(self.cluster, changes)
        return replace(event, status=status)


def _what_failed(error: Exception) -> str:
    """The error in one line. DB1's HINT says what to do; its DETAIL may quote a row, so it is left out."""
    hint = error.diag.message_hint if isinstance(error, psycopg.Error) else None
    return f"{one_line(error)}. {redacted(hint)}" if hint else one_line(error)


def _reason(error: Exception) -> Problem:
    if isinstance(error, NotOursError):
        return Problem.CHILD_NOT_OURS
    held_up = isinstance(error, psycopg.Error) and error.sqlstate == HELD_UP
    return Problem.DATABASE_HELD_UP if held_up else Problem.RECONCILE_FAILED
