"""The bridges' Deployment, without `spec.replicas`: the scaler sets that field."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from intake_operator import names
from intake_operator.children import common, templates
from intake_operator.children.installation import BridgeImage, Installation
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.pod_settings import PodSettings, Toleration
from intake_operator.model.spec import IntakeEventSpec, PostgresTarget, SecretRef

UID: Final = 10001
PORT: Final = 8080
MOUNT: Final = "/etc/intake"
RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "96Mi"}}

# Kubernetes waits five minutes before it replaces a pod whose node does not answer. A bridge may run twice, because its
# lease is fenced, so it is replaced early. DB1 may not: nothing is said of its node here.
UNREACHABLE: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
UNREACHABLE_SECONDS: Final = 30


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
    settings = _with_defaults(spec, installation)
    template = common.pod_template(
        event,
        "bridge",
        UID,
        settings,
        installation,
        # After SIGTERM the bridge takes up to 25 s to finish its messages or to give them back.
        terminationGracePeriodSeconds=30,
        containers=[_container(spec.pool, settings.resources, installation.bridge, inputs)],
        volumes=[*(_volume(i) for i in inputs), {"name": "tmp", "emptyDir": {}}],
    )
    template["metadata"].setdefault("annotations", {})
    template["metadata"]["annotations"] |= {names.INPUTS_ANNOTATION: hashlib.sha256(content.encode()).hexdigest()[:16]}
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": common.metadata(event, names.bridge(event.name), "bridge"),
        "spec": {
            "selector": {"matchLabels": common.selector(event, "bridge")},
            "revisionHistoryLimit": 2,
            "template": template,
        },
    }
    return templates.stamped(made, {"pool": spec.pool, "bridge": _said_of_pods(spec), "secrets": content})


def _said_of_pods(spec: IntakeEventSpec) -> dict[str, Any]:
    """What spec.bridge says about pods, without defaults: a field that a later version adds changes nothing here."""
    numbers = {"min_replicas", "max_replicas", "backlog_per_replica"}
    return spec.bridge.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=numbers)


def _with_defaults(spec: IntakeEventSpec, installation: Installation) -> PodSettings:
    """What the event says of its bridges, and the chart for all events; bridges leave an unreachable node early."""
    said = spec.bridge.over(installation.defaults.bridge)
    tolerations = said.tolerations or []
    missing = [
        Toleration(key=taint, operator="Exists", effect="NoExecute", toleration_seconds=UNREACHABLE_SECONDS)
        for taint in UNREACHABLE
        if not any(_concerns(each, taint) for each in tolerations)
    ]
    return said.model_copy(update={"tolerations": [*tolerations, *missing]})


def _concerns(toleration: Toleration, taint: str) -> bool:
    """Whether a pod with this toleration gets none from Kubernetes for the taint, with the effect NoExecute."""
    return toleration.key in {None, "", taint} and toleration.effect in {None, "", "NoExecute"}


def _inputs(event: Event, spec: IntakeEventSpec) -> list[_Input]:
    found = [_Input("INTAKE_DATABASE_URI", "database", SecretRef(name=names.bridge_secret(event.name), key="uri"))]
    target = spec.commit_target
    if target.postgres:
        found += _ledger_inputs(target.postgres)
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


def _ledger_inputs(ledger: PostgresTarget) -> list[_Input]:
    found = [_Input("INTAKE_LEDGER_URI", "ledger", ledger.secret_ref)]
    if ledger.ca_secret_ref:
        found.append(_Input("INTAKE_LEDGER_CA", "ledger-ca", ledger.ca_secret_ref))
    if own := ledger.client_cert_secret_ref:
        found.append(_Input("INTAKE_LEDGER_CERT", "ledger-cert", own.certificate))
        found.append(_Input("INTAKE_LEDGER_KEY", "ledger-key", own.key))
    return found


def _volume(i: _Input) -> Manifest:
    items = [{"key": i.secret.key, "path": "value"}]
    return {"name": i.folder, "secret": {"secretName": i.secret.name, "defaultMode": 0o440, "items": items}}


def _container(
    pool: str, resources: Mapping[str, Any] | None, image: BridgeImage, inputs: list[_Input]
) -> dict[str, Any]:
    files = [{"name": f"{i.variable}_FILE", "value": f"{MOUNT}/{i.folder}/value"} for i in inputs]
    worker = {"name": "INTAKE_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    endpoint = image.traces_endpoint
    traces = [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}] if endpoint else []
    return {
        "name": "bridge",
        "image": image.name,
        "imagePullPolicy": image.pull_policy,
        "env": [{"name": "INTAKE_POOL", "value": pool}, worker, *files, *traces],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 5},
        "resources": resources or RESOURCES,
        "securityContext": common.restricted_container(),
        "volumeMounts": [
            *({"name": i.folder, "mountPath": f"{MOUNT}/{i.folder}", "readOnly": True} for i in inputs),
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
