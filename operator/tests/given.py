"""Events and observations to decide upon; each test says only what matters to it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from intake_operator import names
from intake_operator.children import access, database, kinship, protection
from intake_operator.children.bridge import BridgeImage, Installation
from intake_operator.model.dead_letters import DeadLetter
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import ChildKey, Connections, DatabaseState, Event, Manifest, Observed, PoolCheck
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import PoolReason

OPENS = datetime(2026, 12, 1, 18, tzinfo=UTC)
CLOSES = OPENS + timedelta(hours=2)
INSTALLATION = Installation(BridgeImage("intake-engine/bridge:test", "IfNotPresent"), "intake-system.intake-engine")

type Make[T] = Callable[..., T]


SECRETS = (names.superuser_secret, names.claimer_secret, names.bridge_secret)


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
        slot_no=1,
        resource_id=UUID(int=2),
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


def make_status(**changes: Any) -> EngineStatus:
    """What intake.engine_status answers for a database in the middle of a sale, with changes (camelCase)."""
    queue = {"depth": 0, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0} | changes.pop("queue", {})
    status: dict[str, Any] = {
        "windowState": "open",
        "sealed": False,
        "ready": True,
        "inventory": {"size": 20_000, "available": 20_000, "reserved": 0, "consumed": 0},
        "queue": queue,
        "claims": 0,
        "committed": 0,
        "voided": 0,
        "released": 0,
        "claimsPerSecond": 0,
        "commitsPerSecond": 0,
        "peakDepth": None,
        "restored": None,
        "workers": [],
    }
    return EngineStatus.model_validate(status | changes)


def make_connections(**changes: int) -> Connections:
    """DB1's connections as the operator leaves them for the example, nobody on them but itself."""
    base = Connections(most=300, superusers=3, reserved=10, limit=230, claimers=0, taken=1)
    return replace(base, **changes)


def make_pod(event: Event, component: str, **changes: Any) -> Manifest:
    """A ready pod of this event."""
    pod: Manifest = {
        "metadata": {
            "name": f"{event.name}-{component}-0",
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
    anchor = kinship.as_anchor(protection.network_policy(event), guard)
    anchor["metadata"]["uid"] = "a"
    wanted = [
        *access.services(event),
        protection.disruption_budget(event, held=True),
        database.volume_claim(event, event.spec.database, mark="7251", held=True),
        database.stateful_set(event, event.spec.database, mark="7251", guard=guard),
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


def only_anchor(event: Event) -> dict[ChildKey, Manifest]:
    """What there is of an event after its first pass."""
    key = ("NetworkPolicy", names.database(event.name))
    return {key: make_observed(event).children[key]}


def unmarked(children: Mapping[ChildKey, Manifest]) -> dict[ChildKey, Manifest]:
    """The same children before claims were possible."""
    return {key: {**m, "metadata": {**m["metadata"], "annotations": {}}} for key, m in children.items()}


def pool_told(status: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A status that has told that the pool is unused."""
    told = {"type": "PoolUnused", "status": "True", "reason": "PoolUnused", "message": "", "lastTransitionTime": "x"}
    return {**(status or {}), "conditions": [told]}


UNUSED = PoolCheck(PoolReason.UNUSED, "the ledger has no claim of it")
