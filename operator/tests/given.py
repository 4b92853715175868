"""Events and observations to decide upon.

Each test says only what matters to it:

    given.selling().says(ready=False).plan()  # a sale whose DB1 has crashed
    given.closed(deleted_at=OPENS).db1(error="away").plan()
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from intake_operator import names
from intake_operator.children import access, bridge, database, kinship, protection
from intake_operator.children.installation import BridgeImage, Installation
from intake_operator.decide.plan import plan
from intake_operator.decide.steps import Plan
from intake_operator.long_reads import LongReads
from intake_operator.model.dead_letters import DeadLetter
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import ChildKey, Connections, DatabaseState, Event, Manifest, Observed, PoolCheck
from intake_operator.model.proof import LedgerAnswer
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import PoolReason
from intake_shared.claims import Seat
from planning import Decided

from tests.patience import PATIENCE_SECONDS

OPENS = datetime(2026, 12, 1, 18, tzinfo=UTC)
CLOSES = OPENS + timedelta(hours=2)
INSTALLATION = Installation(
    BridgeImage("intake-engine/bridge:test", "IfNotPresent"), "intake-system.intake-engine", namespace="intake-system"
)

type Make[T] = Callable[..., T]

DATABASE: ChildKey = ("StatefulSet", "taylor-drop-db")
VOLUME_CLAIM: ChildKey = ("PersistentVolumeClaim", "data-taylor-drop-db-0")

# Of the pod that `with_pod("bridge")` adds.
BRIDGE_UID = "bridge-pod"

SECRETS = (names.superuser_secret, names.claimer_secret, names.bridge_secret)


class Clock:
    """Seconds that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def ended(reads: LongReads) -> None:
    """Wait until no long read runs."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while tasks := list(reads._tasks.values()):
            await asyncio.gather(*tasks)


def make_spec(**changes: Any) -> IntakeEventSpec:
    """The example of the README, with changes (camelCase)."""
    spec: dict[str, Any] = {
        "pool": "taylor-la-night-1",
        "inventorySize": 20_000,
        "batchSize": 100,
        "window": {"opensAt": OPENS.isoformat(), "closesAt": CLOSES.isoformat()},
        "commitTarget": {"postgres": {"secretRef": {"name": "core-ledger"}}},
    }
    return IntakeEventSpec.model_validate(spec | changes)


def make_letter() -> DeadLetter:
    """A claim that gave up after it was validated."""
    return DeadLetter(
        id=1,
        claim_id=UUID("0192f0c1-0000-7000-8000-000000000001"),
        pool_id="taylor-la-night-1",
        user_id="ann",
        seats=(Seat(slot_no=1, resource_id=UUID(int=2), label="A-1", attributes={"row": "A"}),),
        request_id="r1",
        claimed_at=OPENS,
        state="validated",
        failures=3,
        reason="gave up",
        last_error="boom",
        dead_at=OPENS,
    )


def make_event(**changes: Any) -> Event:
    """An event that the operator has already put its finalizer on."""
    base = Event(
        namespace="tickets",
        name="taylor-drop",
        uid="11111111-2222-3333-4444-555555555555",
        pool="taylor-la-night-1",
        generation=1,
        created_at=OPENS - timedelta(days=1),
        deleted_at=None,
        finalizers=(names.FINALIZER,),
        annotations={},
        spec=make_spec(),
        spec_error="",
        status={},
    )
    return replace(base, **changes)


def make_status(held: int = 0, ends: datetime = CLOSES + timedelta(minutes=10), **changes: Any) -> EngineStatus:
    """What intake.engine_status answers for a database in the middle of a sale, with changes (camelCase).

    `held` claims wait to be confirmed, the last of them until `ends`.
    """
    queue = {"depth": 0, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0} | changes.pop("queue", {})
    status: dict[str, Any] = {
        "windowState": "open",
        "sealed": False,
        "ready": True,
        "inventory": {"size": 20_000, "available": 20_000, "held": 0, "withheld": 0, "reserved": 0, "consumed": 0},
        "queue": queue,
        "holds": {"claims": held, "lastEndsAt": ends.isoformat() if held else None},
        "claims": 0,
        "held": held,
        "committed": 0,
        "voided": 0,
        "released": 0,
        "expired": 0,
        "claimsPerSecond": 0,
        "commitsPerSecond": 0,
        "peakDepth": None,
        "restored": None,
        "workers": [],
    }
    return EngineStatus.model_validate(status | changes)


def make_connections(**changes: int) -> Connections:
    """DB1's connections with the limit of the example; only the operator is connected."""
    base = Connections(most=300, superusers=3, reserved=10, limit=230, claimers=0, taken=1)
    return replace(base, **changes)


def make_pod(event: Event, component: str, **changes: Any) -> Manifest:
    """A ready pod of this event."""
    pod: Manifest = {
        "metadata": {
            "name": f"{event.name}-{component}-0",
            "uid": f"{component}-pod",
            "labels": {
                names.EVENT_LABEL: event.name,
                names.EVENT_UID_LABEL: event.uid,
                "app.kubernetes.io/component": component,
            },
            "creationTimestamp": OPENS.isoformat(),
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": OPENS.isoformat()}],
            "containerStatuses": [],
        },
    }
    return pod | changes


def make_observed(event: Event, **changes: Any) -> Observed:
    """A provisioned, seeded database without bridges."""
    assert event.spec is not None
    guard = INSTALLATION.guard
    anchor = kinship.as_anchor(protection.network_policy(event, INSTALLATION.namespace), guard)
    anchor["metadata"]["uid"] = "a"
    wanted = [
        *access.services(event),
        protection.disruption_budget(event, keep_pod=True, evict_broken=False),
        database.volume_claim(event, event.spec.database, identity="7251", unsettled=True),
        database.stateful_set(event, event.spec.database, INSTALLATION, identity="7251"),
        *(access.secret(event, name(event.name)) for name in SECRETS),
    ]
    made = [anchor, *(kinship.as_child(m, event, anchor, guard) for m in wanted if m)]
    children = {(m["kind"], m["metadata"]["name"]): m for m in made}
    secrets = {
        names.superuser_secret(event.name): "s",
        names.claimer_secret(event.name): "c",
        names.bridge_secret(event.name): "b",
    }
    base = Observed(
        children=children,
        pods=(make_pod(event, "database"),),
        secret_fingerprints=secrets,
        input_fingerprints=secrets | {"core-ledger": "l"},
        database=DatabaseState(
            reachable=True,
            identity="7251",
            migrated=True,
            logins={names.CLAIMER_ROLE: "c", names.BRIDGE_ROLE: "b"},
            connections=make_connections(),
            status=make_status(),
        ),
    )
    return replace(base, **changes)


@dataclass(frozen=True)
class Given:
    """One event, what was observed of it, and the time of the pass. Each method returns a changed copy."""

    event: Event
    observed: Observed
    now: datetime

    def plan(self) -> Decided:
        """What the operator decides."""
        return Decided(**vars(plan(self.event, self.observed, INSTALLATION, self.now)))

    def at(self, now: datetime) -> "Given":
        """At another time."""
        return replace(self, now=now)

    def after(self, decided: Plan) -> "Given":
        """The event has the status that was decided."""
        return replace(self, event=replace(self.event, status=decided.after or decided.status))

    def changed(self, **changes: Any) -> "Given":
        """With changes of the event; the children stay as they are."""
        return replace(self, event=replace(self.event, **changes))

    def seen(self, **changes: Any) -> "Given":
        """With changes of what was observed."""
        return replace(self, observed=replace(self.observed, **changes))

    def db1(self, **changes: Any) -> "Given":
        """With changes of DB1's state."""
        return self.seen(database=replace(self.observed.database, **changes))

    def new_db1(self, **state: Any) -> "Given":
        """With a DB1 of this state and nothing else."""
        return self.seen(database=DatabaseState(**state))

    def says(self, **status: Any) -> "Given":
        """DB1's engine_status, with changes (camelCase) of the one in the middle of a sale."""
        return self.db1(status=make_status(**status))

    def sealed(self, held: int = 0, ends: datetime = CLOSES + timedelta(minutes=10), **queue: int) -> "Given":
        """DB1 is sealed, with this queue, and with holds until then."""
        return self.says(sealed=True, windowState="closed", held=held, ends=ends, queue=queue)

    def child(self, key: ChildKey, child: Manifest) -> "Given":
        """With one child more, or with another one in its place."""
        return self.seen(children={**self.observed.children, key: child})

    def only_anchor(self) -> "Given":
        """With no child but the anchor: what exists after the first pass."""
        return self.seen(children=only_anchor(self.event))

    def unmarked(self) -> "Given":
        """With the children of an event whose DB1 was never claimable."""
        return self.seen(children=unmarked(self.observed.children))

    def with_pod(self, component: str, **changes: Any) -> "Given":
        """With one pod more."""
        return self.seen(pods=(*self.observed.pods, make_pod(self.event, component, **changes)))

    def outdated(self, **changes: Any) -> "Given":
        """With a changed definition of DB1, which its pod does not have yet."""
        pod = make_pod(self.event, "database", **changes)
        pod["metadata"]["labels"]["controller-revision-hash"] = "old"
        changed = {**self.observed.children[DATABASE], "status": {"updateRevision": "new"}}
        return self.seen(pods=(pod,)).child(DATABASE, changed)

    def bridges(self, replicas: int) -> "Given":
        """With a Deployment of bridges."""
        assert self.event.spec is not None
        anchor = self.observed.children["NetworkPolicy", names.database(self.event.name)]
        made = bridge.deployment(self.event, self.event.spec, INSTALLATION, {})
        made["spec"]["replicas"] = replicas
        deployment = kinship.as_child(made, self.event, anchor, INSTALLATION.guard)
        return self.child(("Deployment", names.bridge(self.event.name)), deployment)


def new(**changes: Any) -> Given:
    """An event of which nothing exists, an hour before its window."""
    return Given(make_event(**_with_spec(changes)), Observed(), OPENS - timedelta(hours=1))


def scheduled(**changes: Any) -> Given:
    """An event with a seeded DB1, an hour before its window; with changes of the event, `spec` in camelCase."""
    event = make_event(**_with_spec(changes))
    return Given(event, make_observed(event), OPENS - timedelta(hours=1))


def selling(**changes: Any) -> Given:
    """The same in the first moment of its window."""
    return scheduled(**changes).at(OPENS)


def closed(**changes: Any) -> Given:
    """The same in the first moment after its window."""
    return scheduled(**changes).at(CLOSES)


def finished(**changes: Any) -> Given:
    """An event whose status has the report, after its keep time: everything is to be removed."""
    counts = {"claims": 14, "committed": 8, "voided": 2, "released": 1, "expired": 3}
    slots = {"size": 20_000, "available": 19_980, "held": 0, "withheld": 4, "reserved": 0, "consumed": 16}
    report = {"verified": True, "ledgerVerified": LedgerAnswer.AGREES.value, "writtenAt": CLOSES.isoformat()}
    report |= counts | {"inventory": slots}
    return scheduled(status={"report": report}, **changes).at(CLOSES + timedelta(minutes=10))


def invalid(**changes: Any) -> Given:
    """An event whose spec is invalid, and of which nothing exists."""
    return Given(make_event(spec=None, spec_error="spec.pool: bad", **changes), Observed(), OPENS)


def _with_spec(changes: dict[str, Any]) -> dict[str, Any]:
    return changes | {"spec": make_spec(**changes["spec"])} if "spec" in changes else changes


def only_anchor(event: Event) -> dict[ChildKey, Manifest]:
    """What there is of an event after its first pass."""
    key = ("NetworkPolicy", names.database(event.name))
    return {key: make_observed(event).children[key]}


def unmarked(children: Mapping[ChildKey, Manifest]) -> dict[ChildKey, Manifest]:
    """The same children before claims were possible."""
    return {key: {**m, "metadata": {**m["metadata"], "annotations": {}}} for key, m in children.items()}


def pool_announced(status: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A status that says that the pool is unused."""
    condition = {
        "type": "PoolUnused",
        "status": "True",
        "reason": "PoolUnused",
        "message": "",
        "lastTransitionTime": "x",
    }
    return {**(status or {}), "conditions": [condition]}


UNUSED = PoolCheck(PoolReason.UNUSED, "the ledger has no claim of it")
