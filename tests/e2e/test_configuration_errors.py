"""A configuration error is a condition that says what to do. Correcting it is enough: nothing has to be deleted.

All broken events are in one namespace and are applied at once, because most of the time is waiting. Each test corrects
one of them.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e import events, services, sql
from tests.e2e.kube import Kube, Object, await_rollout, eventually

GOOD_URI: Final = "postgresql://ledger_writer:example-writer@core-ledger:5432/ledger"
# A database of the same server without the ledger's function.
BARE_URI: Final = "postgresql://ledger_writer:example-writer@core-ledger:5432/bare"

ANYWHERE: Final = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"never": "there"}}}
# One of each field that says where pods run and what they carry; every node will do.
PLACE: Final[Object] = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "sales", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]}]
            }
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [ANYWHERE],
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": ANYWHERE}],
        },
    },
    "topologySpreadConstraints": [ANYWHERE | {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}],
    "imagePullSecrets": [{"name": "not-needed"}],
    "podLabels": {"cost-centre": "drops"},
    "podAnnotations": {"shop.example/team": "sales, north"},
}


@pytest.fixture(scope="module")
def broken(shared_kube: Kube) -> Iterator[Kube]:
    """All broken events, with open windows. They are deleted at the end, and each must drain."""
    kube = shared_kube
    sql.in_ledger(kube, "CREATE DATABASE bare;")
    _secret(kube, "wrong-uri", uri=GOOD_URI.replace("core-ledger:", "no-such-host:"))
    _secret(kube, "wrong-key", url=GOOD_URI)
    _secret(kube, "bare-ledger", uri=BARE_URI)
    kube.apply(
        _event("no-secret", ledger="not-there-yet"),
        _event("no-key", ledger="wrong-key"),
        _event("no-host", ledger="wrong-uri"),
        _event("no-function", ledger="bare-ledger"),
        _event(
            "no-webhook", validation={"webhook": {"url": services.VALIDATOR_URL, "timeoutSeconds": 2}}, maxRetries=100
        ),
        _event("no-image", image="postgres:18-no-such-tag"),
        _event("no-resource", place=PLACE | {"resources": {"requests": {"seats": 1}}}),
    )
    yield kube
    kube.kubectl("delete", "intakeevents", "--all", "--timeout=360s", timeout=400)


def test_a_missing_ledger_secret(broken: Kube) -> None:
    events.await_degraded(broken, "no-secret", "LedgerSecretMissing", "not-there-yet")
    _secret(broken, "not-there-yet", uri=GOOD_URI)
    _await_healed_and_selling(broken, "no-secret")


def test_a_ledger_secret_without_the_key(broken: Kube) -> None:
    events.await_degraded(broken, "no-key", "LedgerSecretKeyMissing", "uri")
    _secret(broken, "wrong-key", uri=GOOD_URI)
    _await_healed_and_selling(broken, "no-key")


def test_a_ledger_uri_with_an_unknown_host(broken: Kube) -> None:
    events.await_degraded(broken, "no-host", "LedgerUnreachable", "Secret")
    _secret(broken, "wrong-uri", uri=GOOD_URI)
    _await_healed_and_selling(broken, "no-host")


def test_a_ledger_without_the_function(broken: Kube) -> None:
    events.await_degraded(broken, "no-function", "LedgerFunctionMissing", "finalize_transaction")
    psql = "psql -q -v ON_ERROR_STOP=1 -U postgres -d bare -f"
    create = f"for file in /docker-entrypoint-initdb.d/*.sql; do {psql} $file; done"
    broken.execute(services.LEDGER_POD, "sh", "-ec", create)
    _await_healed_and_selling(broken, "no-function")


def test_a_validation_webhook_that_is_down(broken: Kube) -> None:
    events.await_phase(broken, "no-webhook", "Open", events.CONDITION_SECONDS)
    broken.kubectl("scale", "deployment/validator", "--replicas=0")
    eventually(lambda: not broken.items("pods", "app.kubernetes.io/name=validator"), 30, "the validator is down")
    _buy(broken, "no-webhook")
    events.await_degraded(broken, "no-webhook", "ValidatorDown", "spec.validation.webhook")
    broken.kubectl("scale", "deployment/validator", "--replicas=1")
    await_rollout(broken, "deployment/validator")
    _await_healed_and_selling(broken, "no-webhook")


def test_an_image_that_cannot_be_pulled(broken: Kube) -> None:
    events.await_degraded(broken, "no-image", "ImageUnavailable", "spec.database.image")
    database = broken.get("intakeevent", "no-image")["spec"]["database"] | {"image": "postgres:18"}
    broken.patch("intakeevent", "no-image", {"spec": {"database": database}})
    _await_healed_and_selling(broken, "no-image")


def test_a_field_of_a_pod_that_only_the_api_server_can_judge(broken: Kube) -> None:
    # The CRD cannot know which resources a cluster has.
    events.await_degraded(broken, "no-resource", "ReconcileFailed", "resources.requests[seats]: Invalid value")
    # A merge patch would keep the resource.
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    paths = [f"/spec/{component}/resources" for component in ("database", "bridge")]
    patch = [{"op": "replace", "path": path, "value": small} for path in paths]
    broken.kubectl("patch", "intakeevent", "no-resource", "--type=json", "-p", json.dumps(patch))
    _await_healed_and_selling(broken, "no-resource")
    pods = broken.items("pods", f"{events.EVENT_LABEL}=no-resource")
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {"database", "bridge"}
    for pod in pods:
        assert pod["metadata"]["labels"].items() >= PLACE["podLabels"].items()
        assert pod["metadata"]["annotations"].items() >= PLACE["podAnnotations"].items()
        for field in ("nodeSelector", "affinity", "topologySpreadConstraints", "imagePullSecrets"):
            assert pod["spec"][field] == PLACE[field]
        assert PLACE["tolerations"][0] in pod["spec"]["tolerations"]


def test_a_broken_event_can_be_deleted(namespace: Kube) -> None:
    never = _event("never", image="postgres:18-no-such-tag")
    no_ledger = _event("no-ledger", ledger="never-created")
    namespace.apply(never, no_ledger)
    events.await_degraded(namespace, "never", "ImageUnavailable", "image")
    events.await_degraded(namespace, "no-ledger", "LedgerSecretMissing", "never-created")
    namespace.kubectl("delete", "intakeevent", "never", "no-ledger", "--timeout=240s", timeout=280)
    assert events.leftovers(namespace, "never") + events.leftovers(namespace, "no-ledger") == []


def _event(
    name: str,
    ledger: str = "core-ledger",
    image: str = "postgres:18",
    place: Object | None = None,
    **spec: Any,
) -> Object:
    event = events.event(name, events.window(opens_in=2, lasts=3600), **spec)
    event["spec"]["commitTarget"] = {"postgres": {"secretRef": {"name": ledger}}}
    event["spec"]["bridge"] |= {"maxReplicas": 1} | (place or {})
    event["spec"]["database"] |= {"image": image} | (place or {})
    return event


def _secret(kube: Kube, name: str, **data: str) -> None:
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})


def _buy(kube: Kube, name: str) -> str:
    claim = f"SELECT outcome FROM intake.claim_resource('{name}-pool', 'user', 'request')"
    return sql.in_database(kube, name, claim)


def _await_healed_and_selling(kube: Kube, name: str) -> None:
    """Wait until the event is not degraded and a claim made now is in the ledger."""

    def committed() -> bool:
        assert _buy(kube, name) in {"claimed", "replayed"}
        status = kube.get("intakeevent", name)["status"]
        assert status.get("committed", 0) + status.get("voided", 0) == 1, status
        return True

    events.await_healed(kube, name)
    eventually(committed, events.CONDITION_SECONDS, f"a claim of {name} has reached the ledger")
