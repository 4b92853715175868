"""When all that a sale needs is checked ahead, and what the latest check found.

The checks run in the background, side by side, and each has a limit of its own: one that hangs holds up neither the
others nor a pass. Two events of a namespace are checked at a time, and a few of all.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from intake_shared.connections import bounded
from intake_shared.redaction import one_line

from intake_operator.decide import preflight
from intake_operator.kube.client import ApiError
from intake_operator.long_reads import Places
from intake_operator.model.observed import Event
from intake_operator.model.preflight import Check, Preflight, failed, not_asked
from intake_operator.preflight.checks import Checks, Question
from intake_operator.remembered import Remembered
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

# Events that are checked at the same time. Each may have rows of an inventory in memory.
AT_ONCE: Final = 4
AT_ONCE_IN_A_NAMESPACE: Final = 2

# The operator has no access to registries.
NEVER_ASKED: Final = not_asked("images", "no registry is asked")


class Preflights:
    """The latest answers about each event. `wake` has an event reconciled; `clock` is in seconds, `now` the time."""

    def __init__(
        self,
        checks: Checks,
        clock: Callable[[], float],
        wake: Callable[[Key], None],
        now: Callable[[], datetime],
    ) -> None:
        self._checks = checks
        self._wake = wake
        self._now = now
        self._answers: Remembered[object, Preflight] = Remembered(clock)
        self._running: dict[str, tuple[object, asyncio.Task[None]]] = {}
        self._places = Places(AT_ONCE, AT_ONCE_IN_A_NAMESPACE)

    def latest(self, uid: str) -> Preflight | None:
        """The latest answers; None before the first."""
        return self._answers.latest(uid)

    def is_due(self, event: Event, fingerprints: Mapping[str, str]) -> bool:
        """Whether to ask: the event or a Secret has changed, or the answers are too old, and no check is running."""
        question = preflight.question(event, fingerprints)
        if running := self._running.get(event.uid):
            return running[0] != question
        return self._answers.is_due(event.uid, question)

    def start(self, event: Event, fingerprints: Mapping[str, str]) -> None:
        """Check in the background if it is time. Wakes the event on new answers."""
        if not self.is_due(event, fingerprints):
            return
        self._cancel(event.uid)
        question = preflight.question(event, fingerprints)
        task = asyncio.create_task(self._check(event, question))
        self._running[event.uid] = question, task
        task.add_done_callback(lambda done: self._ended(event.uid, done))

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._answers.forget(uid)
        self._cancel(uid)

    async def close(self) -> None:
        """Cancel the checks that are running."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self, uid: str) -> None:
        if running := self._running.pop(uid, None):
            running[1].cancel()

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        if (running := self._running.get(uid)) and running[1] is task:
            del self._running[uid]

    async def _check(self, event: Event, question: object) -> None:
        assert event.spec is not None
        async with self._places.one(event.namespace):
            asked = [_bounded(each, event) for each in self._checks.questions(event, event.spec)]
            found = await asyncio.gather(*asked)
        before, now = self.latest(event.uid), self._now()
        checks = (*found, preflight.of_window(event.spec, now), NEVER_ASKED)
        since = None
        if any(check.problem for check in checks):
            goes_on = before is not None and before.question == question
            since = (before.failing_since if before and goes_on else None) or now
        answer = Preflight(checks, now, event.generation, question, since)
        self._answers.keep(event.uid, question, answer, preflight.rest(answer))
        if before is None or (before.checks, before.generation) != (answer.checks, answer.generation):
            self._wake((event.namespace, event.name))


async def _bounded(question: Question, event: Event) -> Check:
    """The answer of one check. Whatever happens to it, the others go on."""
    name = question.name
    try:
        async with bounded(question.seconds):
            return await question.ask()
    except TimeoutError:
        late = f"no answer within {question.seconds:g} s"
        return failed(name, question.problem, f"the {name}: {late}.") if question.problem else not_asked(name, late)
    except ApiError as error:
        return not_asked(name, "no right to read it" if error.status == 403 else one_line(error))
    except Exception as error:
        # No caller waits for this task.
        logger.exception("a check ahead failed", extra={"namespace": event.namespace, "event": event.name})
        return not_asked(name, one_line(error))
