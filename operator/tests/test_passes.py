"""One pass after another, over an API server that keeps the status and refuses a step."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import given
import psycopg
import pytest
from given import INSTALLATION, Given
from intake_operator import reconcile
from intake_operator.decide.steps import Apply, Configure, Step
from intake_operator.kube.client import ApiError
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.reconcile import HELD_UP, Reconciler
from intake_operator.workqueue import Key
from planning import SECOND

from tests.postgres import PostgresServer

KEY: Key = ("tickets", "taylor-drop")


class Passes:
    """Passes over one event, of which a kind of step is refused as long as `refused` is true."""

    def __init__(self, sale: Given) -> None:
        self.sale: Given | None = sale
        self.refused, self.now = True, sale.now
        self.refuses: type[Step] = Configure
        self.refusal: Exception = ApiError(403, "Forbidden", "exceeded quota")
        self.statuses: list[Manifest] = []
        self.events: list[str] = []
        self.dropped: list[Key] = []
        self.forgotten: list[str] = []
        parts: Any = self
        self.reconciler = Reconciler(
            cluster=parts,
            observer=parts,
            actor=SimpleNamespace(act=self.act, forget=self.forget),  # type: ignore[arg-type]
            installation=INSTALLATION,
            metrics=Metrics(),
            drop=self.dropped.append,
            clock=lambda: self.now,
        )

    async def get(self, kind: str, *_: str) -> Manifest | None:
        if self.sale is None and kind == "IntakeEvent":
            return None
        uid = self.sale.event.uid if self.sale else ""
        return {"metadata": {"uid": uid}, "status": self.statuses[-1] if self.statuses else {}}

    live = True

    @property
    def cluster(self) -> "Passes":
        return self

    objects = cluster

    def knows(self, _: str) -> bool:
        return True

    def renew(self, *_: object) -> None:
        pass

    def parsed(self, body: Manifest, _: Manifest) -> Event:
        assert self.sale is not None
        return self.sale.changed(status=body["status"]).event

    async def observe(self, *_: object) -> Observed:
        assert self.sale is not None
        return self.sale.observed

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)

    async def apply(self, manifest: Manifest, *_: str, **__: str) -> Manifest:
        self.statuses.append(manifest["status"])
        return manifest

    async def create(self, manifest: Manifest, *_: str) -> Manifest:
        self.events.append(manifest["reason"])
        return manifest

    async def act(self, step: Step, *_: object) -> None:
        if isinstance(step, self.refuses) and self.refused:
            raise self.refusal

    async def once(self, after: timedelta = SECOND) -> None:
        """One pass, some time after the last."""
        self.now += after
        if self.refused:
            with pytest.raises(type(self.refusal)):
                await self.reconciler.reconcile(KEY)
        else:
            await self.reconciler.reconcile(KEY)

    def written(self, kind: str) -> list[tuple[str, str]]:
        """Status and reason of a condition, each time that the status was written."""
        found = (next(c for c in s["conditions"] if c["type"] == kind) for s in self.statuses)
        return [(c["status"], c["reason"]) for c in found]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    made = Passes(given.selling())
    monkeypatch.setattr(reconcile, "parse", made.parsed)
    return made


async def test_a_step_that_keeps_failing_is_reported_once_and_ready_stays_false(passes: Passes) -> None:
    await passes.once()
    first, written, events = passes.statuses[-1], len(passes.statuses), len(passes.events)
    for _ in range(3):
        await passes.once(30 * SECOND)
    # A client that waits for Ready must not be woken, and an Event for each try would hide the others.
    assert set(passes.written("Ready")[written:]) <= {("False", "ReconcileFailed")}
    assert passes.events[events:] == []
    assert passes.statuses[-1] | {"countedAt": ""} == first | {"countedAt": ""}


async def test_the_message_has_the_step_and_the_error(passes: Passes) -> None:
    await passes.once()
    degraded = next(c for c in passes.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert degraded["message"] == "step Configure failed: Forbidden: exceeded quota"


async def test_what_the_api_server_refuses_of_a_child_is_told_in_its_words(passes: Passes) -> None:
    # Recorded: the CRD cannot know the names of resources that a cluster has.
    refusal = (
        'StatefulSet.apps "taylor-drop-db" is invalid: spec.template.spec.containers[0].resources.requests[seats]: '
        'Invalid value: "seats": must be a standard resource type or fully qualified'
    )
    passes.refuses, passes.refusal = Apply, ApiError(422, "Invalid", refusal)
    await passes.once()
    degraded = next(c for c in passes.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert degraded["message"] == f"step Apply failed: Invalid: {refusal}"


async def test_the_message_has_what_to_do_and_no_row_of_a_table(passes: Passes, server: PostgresServer) -> None:
    raised = "RAISE EXCEPTION 'it cannot shrink' USING DETAIL = 'Key (user_id)=(ann) exists', HINT = 'Let it grow.'"
    with psycopg.connect(server.uri("postgres")) as database, pytest.raises(psycopg.Error) as refusal:
        database.execute(f"DO $$ BEGIN {raised}; END $$".encode())
    passes.refusal = refusal.value
    await passes.once()
    degraded = next(c for c in passes.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert degraded["message"] == "step Configure failed: it cannot shrink. Let it grow."


async def test_a_step_that_succeeds_ends_the_failure_in_the_same_pass(passes: Passes) -> None:
    await passes.once()
    passes.refused = False
    await passes.once()
    assert passes.written("Ready")[-1] == ("True", "Open")
    assert passes.written("Degraded")[-1] == ("False", "AsExpected")


class HeldUpError(psycopg.Error):
    """What DB1 raises when other sessions lock a table that a step needs."""

    sqlstate = HELD_UP


async def test_sessions_that_block_a_step_have_a_reason_of_their_own(passes: Passes) -> None:
    passes.refusal = HeldUpError("intake.pools is locked by other sessions: role monitor, pid 7, active for 60 s")
    await passes.once()
    degraded = next(c for c in passes.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert degraded["reason"] == "DatabaseHeldUp"
    assert "role monitor, pid 7" in degraded["message"]
    written = len(passes.statuses)
    await passes.once(30 * SECOND)
    assert set(passes.written("Ready")[written:]) <= {("False", "DatabaseHeldUp")}


@pytest.mark.parametrize("seen_by", ["watch", "pass"])
async def test_an_event_that_is_gone_is_forgotten_by_its_uid(passes: Passes, seen_by: str) -> None:
    """Also if its finalizer was removed by hand, so that no pass has removed it."""
    passes.refused = False
    await passes.once()
    uid, passes.sale = given.make_event().uid, None
    if seen_by == "watch":
        passes.reconciler.forget(KEY)
    else:
        await passes.once()
    assert passes.dropped == [KEY]
    assert set(passes.forgotten) == {uid}


async def test_another_event_of_the_same_name_begins_without_memory(passes: Passes) -> None:
    passes.refused = False
    await passes.once()
    passes.sale = given.selling(uid="another")
    await passes.once()
    assert set(passes.forgotten) == {given.make_event().uid}


async def test_a_long_recovery_is_not_taken_for_a_dead_operator() -> None:
    """/livez waits for a pass to end, and rebuilding a DB1 from a large ledger takes longer than it waits."""
    metrics = Metrics()
    metrics.heartbeat = long_ago = metrics.heartbeat - 10_000
    async with metrics.long_step():
        await asyncio.sleep(0)
        assert metrics.heartbeat > long_ago + 9_000
