"""One pass after another, over an API server that keeps the status and refuses a step."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from intake_operator import reconcile
from intake_operator.children.bridge import Installation
from intake_operator.decide.steps import Configure, Step
from intake_operator.kube.client import ApiError
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reconcile import HELD_UP, Reconciler
from intake_operator.workqueue import Key
from planning import SECOND

type Make[T] = Callable[..., T]
KEY: Key = ("tickets", "taylor-drop")


class Passes:
    """Passes over one event whose Configure is refused as long as `refused` is true."""

    def __init__(self, event: Event, observed: Observed, installation: Installation, now: datetime) -> None:
        self.refused, self.now = True, now
        self.refusal: Exception = ApiError(403, "Forbidden", "exceeded quota")
        self.statuses: list[Manifest] = []
        self.events: list[str] = []
        self._event, self._observed = event, observed
        self._reconciler = Reconciler(
            observer=self,  # type: ignore[arg-type]
            actor=SimpleNamespace(cluster=self, act=self.act),  # type: ignore[arg-type]
            installation=installation,
            metrics=Metrics(),
            forget=lambda _: None,
            clock=lambda: self.now,
        )
        self.cluster = self

    async def get(self, *_: str) -> Manifest:
        return {"status": self.statuses[-1] if self.statuses else {}}

    def parsed(self, body: Manifest, _: Manifest) -> Event:
        changes: dict[str, Any] = {"status": body["status"]}
        return Event(**{**vars(self._event), **changes})

    async def observe(self, *_: object) -> Observed:
        return self._observed

    async def apply(self, manifest: Manifest, *_: str, **__: str) -> Manifest:
        self.statuses.append(manifest["status"])
        return manifest

    async def create(self, manifest: Manifest, *_: str) -> Manifest:
        self.events.append(manifest["reason"])
        return manifest

    async def act(self, step: Step, *_: object) -> None:
        if isinstance(step, Configure) and self.refused:
            raise self.refusal

    async def once(self, after: timedelta) -> None:
        """One pass, some time after the last."""
        self.now += after
        if self.refused:
            with pytest.raises(type(self.refusal)):
                await self._reconciler.reconcile(KEY)
        else:
            await self._reconciler.reconcile(KEY)

    def told(self, kind: str) -> list[tuple[str, str]]:
        """Status and reason of a condition, each time that the status was written."""
        found = (next(c for c in s["conditions"] if c["type"] == kind) for s in self.statuses)
        return [(c["status"], c["reason"]) for c in found]


@pytest.fixture
def passes(
    event: Make[Event],
    observed: Make[Observed],
    installation: Installation,
    opens: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> Passes:
    made = Passes(event(), observed(event()), installation, opens)
    monkeypatch.setattr(reconcile, "parse", made.parsed)
    return made


async def test_a_step_that_keeps_failing_is_told_once_and_without_a_moment_of_health(passes: Passes) -> None:
    await passes.once(SECOND)
    first, written, events = passes.statuses[-1], len(passes.statuses), len(passes.events)
    for _ in range(3):
        await passes.once(30 * SECOND)
    # Whoever waits for Ready must not be told of it, and an Event for each try buries the others.
    assert set(passes.told("Ready")[written:]) <= {("False", "ReconcileFailed")}
    assert passes.events[events:] == []
    assert passes.statuses[-1] | {"countedAt": ""} == first | {"countedAt": ""}


async def test_a_step_that_went_through_ends_the_failure_in_the_same_pass(passes: Passes) -> None:
    await passes.once(SECOND)
    passes.refused = False
    await passes.once(SECOND)
    assert passes.told("Ready")[-1] == ("True", "Open")
    assert passes.told("Degraded")[-1] == ("False", "AsExpected")


class HeldUpError(psycopg.Error):
    """What DB1 raises when other sessions keep a table that a step needs for itself."""

    sqlstate = HELD_UP


async def test_sessions_in_the_way_of_a_step_have_a_reason_of_their_own(passes: Passes) -> None:
    passes.refusal = HeldUpError("intake.pools is locked by other sessions: role monitor, pid 7, active for 60 s")
    await passes.once(SECOND)
    degraded = next(c for c in passes.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert degraded["reason"] == "DatabaseHeldUp"
    assert "role monitor, pid 7" in degraded["message"]
    written = len(passes.statuses)
    await passes.once(30 * SECOND)
    assert set(passes.told("Ready")[written:]) <= {("False", "DatabaseHeldUp")}


async def test_a_long_recovery_is_not_taken_for_a_dead_operator() -> None:
    """/livez waits for a pass to end, and rebuilding a DB1 from a large ledger takes longer than it waits."""
    metrics = Metrics()
    metrics.heartbeat = long_ago = metrics.heartbeat - 10_000
    async with metrics.at_work():
        await asyncio.sleep(0)
        assert metrics.heartbeat > long_ago + 9_000
