"""The bridges' Deployment, without `spec.replicas`: the scaler sets that field."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from intake_operator import names
from intake_operator.children import common, templates
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.spec import IntakeEventSpec, SecretRef

UID: Final = 10001
PORT: Final = 8080
MOUNT: Final = "/etc/intake"
RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "96Mi"}}


@dataclass(frozen=True)
class BridgeImage:
    """The image of the bridges. It is released with the operator, so both have the same version."""

    name: str
    pull_policy: str
    traces_endpoint: str = ""
    """Where bridges send traces, by OTLP over HTTP; empty: they send none."""


@dataclass(frozen=True)
class Installation:
    """What the operator's installation sets for every event."""

    bridge: BridgeImage
    guard: str
    """Value of the guard label on the children of this operator; the chart's policy matches it."""


@dataclass(frozen=True)
class _Input:
    """A Secret that the bridge reads as a file, named by an environment variable."""

    variable: str
    folder: str
    secret: SecretRef


def deployment(
    event: Event, spec: IntakeEventSpec, installation: Installation, fingerprints: Mapping[str, str]
) -> Manifest:
    """The bridges' Deployment. Pods are replaced when a Secret that they read changes, or this template."""
    inputs = _inputs(event, spec)
    content = "\n".join(f"{i.secret.name}/{i.secret.key}={fingerprints.get(i.secret.name, '')}" for i in inputs)
    settings = {"pool": spec.pool, "bridge": _pod_settings(spec), "secrets": content}
    template_meta = {
        "labels": common.labels(event, "bridge") | {names.GUARD_LABEL: installation.guard},
        "annotations": {names.INPUTS_ANNOTATION: hashlib.sha256(content.encode()).hexdigest()[:16]},
    }
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(event, names.bridge(event.name), "bridge"),
        "spec": {
            "selector": {"matchLabels": common.selector(event, "bridge")},
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": template_meta,
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": common.restricted_pod(UID),
                    # After SIGTERM the bridge takes up to 25 s to finish its messages or to give them back.
                    "terminationGracePeriodSeconds": 30,
                    "containers": [_container(spec, installation.bridge, inputs)],
                    "volumes": [_volume(i) for i in inputs] + [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }
    return templates.stamped(made, settings)


def _pod_settings(spec: IntakeEventSpec) -> dict[str, Any]:
    """What spec.bridge says about pods, without defaults: a field that a later version adds changes nothing here."""
    numbers = {"min_replicas", "max_replicas", "backlog_per_replica"}
    return spec.bridge.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=numbers)


def _inputs(event: Event, spec: IntakeEventSpec) -> list[_Input]:
    found = [_Input("INTAKE_DATABASE_URI", "database", SecretRef(name=names.bridge_secret(event.name), key="uri"))]
    target = spec.commit_target
    if target.postgres:
        found.append(_Input("INTAKE_LEDGER_URI", "ledger", target.postgres.secret_ref))
    for step, webhook in (("commit", target.webhook), ("validation", spec.validation.webhook)):
        if webhook:
            secrets = {
                "token": webhook.secret_ref,
                "signing-secret": webhook.signing_secret_ref,
                "ca": webhook.ca_secret_ref,
            }
            found += [
                _Input(f"INTAKE_{step}_{part}".upper().replace("-", "_"), f"{step}-{part}", ref)
                for part, ref in secrets.items()
                if ref
            ]
    return found


def _volume(i: _Input) -> Manifest:
    items = [{"key": i.secret.key, "path": "value"}]
    return {"name": i.folder, "secret": {"secretName": i.secret.name, "defaultMode": 0o440, "items": items}}


def _container(spec: IntakeEventSpec, image: BridgeImage, inputs: list[_Input]) -> dict[str, Any]:
    files = [{"name": f"{i.variable}_FILE", "value": f"{MOUNT}/{i.folder}/value"} for i in inputs]
    worker = {"name": "INTAKE_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    endpoint = image.traces_endpoint
    traces = [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}] if endpoint else []
    return {
        "name": "bridge",
        "image": image.name,
        "imagePullPolicy": image.pull_policy,
        "env": [{"name": "INTAKE_POOL", "value": spec.pool}, worker, *files, *traces],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 5},
        "resources": spec.bridge.resources or RESOURCES,
        "securityContext": common.restricted_container(),
        "volumeMounts": [
            *({"name": i.folder, "mountPath": f"{MOUNT}/{i.folder}", "readOnly": True} for i in inputs),
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
