"""Events and observations to decide upon; each test says only what matters to it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from intake_operator import names
from intake_operator.build import access, database, protection
from intake_operator.build.bridge import BridgeImage
from intake_operator.model.letters import DeadLetter
from intake_operator.model.observed import Engine, Event, Manifest, Observed
from intake_operator.model.spec import IntakeEventSpec

OPENS = datetime(2026, 12, 1, 18, tzinfo=UTC)
CLOSES = OPENS + timedelta(hours=2)
IMAGE = BridgeImage("intake-engine/bridge:test", "IfNotPresent")

type Make[T] = Callable[..., T]


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


def make_event(**changes: Any) -> Event:
    """An event that the operator has already put its finalizer on."""
    base = Event(
        namespace="tickets",
        name="taylor-drop",
        uid="11111111-2222-3333-4444-555555555555",
        pool="taylor-la-night-1",
        generation=1,
        deleted_at=None,
        finalizers=(names.FINALIZER,),
        annotations={},
        spec=make_spec(),
        spec_error="",
        status={},
    )
    return replace(base, **changes)


def make_status(**changes: Any) -> dict[str, Any]:
    """What intake.engine_status answers for an engine in the middle of a sale."""
    status: dict[str, Any] = {
        "windowState": "open",
        "sealed": False,
        "ready": True,
        "generation": 1,
        "inventory": {"size": 20_000, "available": 20_000, "reserved": 0, "consumed": 0},
        "queue": {"depth": 0, "inFlight": 0, "oldestSeconds": 0, "deadLetters": 0},
        "claims": 0,
        "committed": 0,
        "voided": 0,
        "released": 0,
        "claimsPerSecond": 0,
        "commitsPerSecond": 0,
        "workers": [],
    }
    return status | changes


def make_pod(event: Event, component: str, **changes: Any) -> Manifest:
    """A ready pod of this event."""
    pod: Manifest = {
        "metadata": {
            "name": f"{event.name}-{component}-0",
            "labels": {names.EVENT_LABEL: event.name, "app.kubernetes.io/component": component},
            "creationTimestamp": OPENS.isoformat(),
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": OPENS.isoformat()}],
            "containerStatuses": [],
        },
    }
    return pod | changes


def make_observed(event: Event, **changes: Any) -> Observed:
    """A provisioned, seeded engine without bridges."""
    assert event.spec is not None
    wanted = [
        *access.services(event),
        protection.network_policy(event),
        protection.disruption_budget(event, serving=True),
        database.volume_claim(event, event.spec.database, mark="7251"),
        database.stateful_set(event, event.spec.database, mark="7251"),
    ]
    children = {(m["kind"], m["metadata"]["name"]): m for m in wanted if m}
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
        engine=Engine(
            reachable=True,
            identity="7251",
            migrated=True,
            logins={names.CLAIMER_ROLE: "c", names.BRIDGE_ROLE: "b"},
            status=make_status(),
        ),
    )
    return replace(base, **changes)


@pytest.fixture
def event() -> Make[Event]:
    """Make an event."""
    return make_event


@pytest.fixture
def spec() -> Make[IntakeEventSpec]:
    """Make a specification."""
    return make_spec


@pytest.fixture
def observed() -> Make[Observed]:
    """Make an observation."""
    return make_observed


@pytest.fixture
def engine_status() -> Make[dict[str, Any]]:
    """Make what DB1 says of itself."""
    return make_status


@pytest.fixture
def pod() -> Make[Manifest]:
    """Make a pod."""
    return make_pod


@pytest.fixture
def opens() -> datetime:
    """When the window opens."""
    return OPENS


@pytest.fixture
def closes() -> datetime:
    """When the window closes."""
    return CLOSES


@pytest.fixture
def image() -> BridgeImage:
    """The bridge's image."""
    return IMAGE


@pytest.fixture
def letter() -> DeadLetter:
    """A claim that gave up after it was validated."""
    ids = UUID("0192f0c1-0000-7000-8000-000000000001"), UUID(int=2)
    return DeadLetter(1, ids[0], "ann", 1, ids[1], "r1", "validated", 3, "gave up", "boom", OPENS, OPENS)
