"""The children: what must hold of each, whatever the specification. The API server judges the rest in tests/e2e."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlparse

import pytest
from given import INSTALLATION, make_spec
from intake_operator import names
from intake_operator.children import access, bridge, database, kinship, protection
from intake_operator.children.installation import Installation
from intake_operator.model.observed import Event, Manifest

type Make[T] = Callable[..., T]

ANCHOR: Manifest = {"metadata": {"name": "taylor-drop-db", "uid": "anchor-uid"}}


@pytest.fixture
def all_children(event: Make[Event], installation: Installation) -> list[Manifest]:
    """Every child of the example."""
    e = event()
    assert e.spec is not None
    made = [
        *access.services(e),
        access.credentials(e, names.claimer_secret(e.name), names.CLAIMER_ROLE, "pass/word"),
        database.volume_claim(e, e.spec.database, identity="7251", unsettled=True),
        database.stateful_set(e, e.spec.database, INSTALLATION, identity="7251"),
        bridge.deployment(e, e.spec, installation, {}),
        protection.disruption_budget(e, keep_pod=True, evict_broken=False),
    ]
    return [kinship.as_child(m, e, ANCHOR, installation.guard) for m in made if m]


def test_every_child_has_two_owners_and_the_labels(all_children: list[Manifest], event: Make[Event]) -> None:
    for child in all_children:
        meta = child["metadata"]
        assert [o["uid"] for o in meta["ownerReferences"]] == [event().uid, "anchor-uid"]
        # Either of them would make a foreground deletion of the event wait for the child, or take it along.
        assert not {"controller", "blockOwnerDeletion"} & {key for o in meta["ownerReferences"] for key in o}
        assert meta["labels"][names.EVENT_LABEL] == "taylor-drop"
        assert meta["labels"][names.EVENT_UID_LABEL] == event().uid
        assert meta["labels"][names.GUARD_LABEL] == "intake-system.intake-engine"
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "intake-operator"


@pytest.mark.parametrize("finalizer", ["foregroundDeletion", "orphan"])
def test_the_event_s_reference_is_not_put_back_while_the_garbage_collector_takes_it_away(
    event: Make[Event], finalizer: str
) -> None:
    e = event(finalizers=(names.FINALIZER, finalizer))
    (service, _) = access.services(e)
    owners = kinship.as_child(service, e, ANCHOR, "g")["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == ["anchor-uid"]


def test_the_anchor_has_no_owner_and_nothing_that_argo_cd_may_prune_it_by(event: Make[Event]) -> None:
    meta = kinship.as_anchor(protection.network_policy(event(), ""), "g")["metadata"]
    assert "ownerReferences" not in meta
    assert "app.kubernetes.io/instance" not in meta["labels"]
    assert meta["finalizers"] == [names.FINALIZER]
    assert meta["labels"][names.GUARD_LABEL] == "g"


def named(*namespaces: str) -> Manifest:
    """A selector of namespaces by name."""
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    return {"matchExpressions": [expression]}


def test_db1_admits_its_own_namespace_and_the_operator_by_namespace_and_labels(event: Make[Event]) -> None:
    """The operator's labels alone are no proof: whoever may create a pod anywhere can write them."""
    (rule,) = protection.network_policy(event(), "intake-system")["spec"]["ingress"]
    assert rule["ports"] == [{"port": 5432, "protocol": "TCP"}]
    labels = {"app.kubernetes.io/part-of": "intake-engine", "app.kubernetes.io/component": "operator"}
    operator = {"namespaceSelector": named("intake-system"), "podSelector": {"matchLabels": labels}}
    assert rule["from"] == [{"podSelector": {}}, operator]
    assert protection.network_policy(event(), "")["spec"]["ingress"][0]["from"] == [{"podSelector": {}}]


def test_db1_admits_the_namespaces_that_the_spec_allows(event: Make[Event]) -> None:
    e = event(spec=make_spec(database={"allowedNamespaces": ["web", "shop"]}))
    (rule,) = protection.network_policy(e, "intake-system")["spec"]["ingress"]
    assert rule["from"][1] == {"namespaceSelector": named("shop", "web")}


def test_every_pod_carries_the_guard_and_the_event_s_uid(all_children: list[Manifest], event: Make[Event]) -> None:
    templates = [c["spec"]["template"] for c in all_children if c["kind"] in {"StatefulSet", "Deployment"}]
    assert len(templates) == 2
    for template in templates:
        assert template["metadata"]["labels"][names.GUARD_LABEL] == "intake-system.intake-engine"
        assert template["metadata"]["labels"][names.EVENT_UID_LABEL] == event().uid


def test_a_volume_claim_that_the_stateful_set_s_controller_creates_again_has_our_labels(
    all_children: list[Manifest],
) -> None:
    (made,) = (c for c in all_children if c["kind"] == "StatefulSet")
    (template,) = made["spec"]["volumeClaimTemplates"]
    assert template["metadata"]["labels"][names.EVENT_UID_LABEL] == made["metadata"]["labels"][names.EVENT_UID_LABEL]


def test_every_pod_is_restricted(all_children: list[Manifest]) -> None:
    pods = [c["spec"]["template"]["spec"] for c in all_children if c["kind"] in {"StatefulSet", "Deployment"}]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_secrets_reach_pods_as_files_only(all_children: list[Manifest]) -> None:
    containers = [
        container
        for child in all_children
        if child["kind"] in {"StatefulSet", "Deployment"}
        for container in child["spec"]["template"]["spec"]["containers"]
    ]
    for container in containers:
        for variable in container["env"]:
            assert "secretKeyRef" not in str(variable)
            assert variable["name"].endswith("_FILE") or "PASSWORD" not in variable["name"]


def test_the_number_of_bridges_belongs_to_the_scaler(all_children: list[Manifest]) -> None:
    (deployment,) = (c for c in all_children if c["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"]


def test_a_corrected_secret_replaces_the_bridges(event: Make[Event], installation: Installation) -> None:
    e = event()
    assert e.spec is not None
    spec = e.spec

    def inputs(fingerprints: dict[str, str]) -> str:
        template: Manifest = bridge.deployment(e, spec, installation, fingerprints)["spec"]["template"]
        word: str = template["metadata"]["annotations"][names.INPUTS_ANNOTATION]
        return word

    assert inputs({}) != inputs({"core-ledger": "a"}) != inputs({"core-ledger": "b"})
    assert inputs({"core-ledger": "a"}) == inputs({"core-ledger": "a", "somebody-else": "x"})


def test_every_secret_of_a_webhook_is_a_file_with_an_environment_variable(
    event: Make[Event], spec: Make[Any], installation: Installation
) -> None:
    refs = {
        "secretRef": {"name": "token", "key": "t"},
        "signingSecretRef": {"name": "signing", "key": "k"},
        "caSecretRef": {"name": "authority"},
    }
    webhook = {"webhook": {"url": "https://shop"} | refs}
    wanted = spec(validation=webhook, commitTarget=webhook)
    assert "Ref" not in str(wanted.engine_config())
    pod = bridge.deployment(event(spec=wanted), wanted, installation, {})["spec"]["template"]["spec"]
    files = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    sources = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    for step in ("validation", "commit"):
        for part, secret, key in (
            ("token", "token", "t"),
            ("signing-secret", "signing", "k"),
            ("ca", "authority", "ca.crt"),
        ):
            variable = f"INTAKE_{step}_{part}_FILE".upper().replace("-", "_")
            assert files[variable] == f"{bridge.MOUNT}/{step}-{part}/value"
            source = sources[f"{step}-{part}"]
            assert (source["secretName"], source["items"]) == (secret, [{"key": key, "path": "value"}])


def test_traces_are_sent_to_the_endpoint_of_the_operator_s_settings(
    event: Make[Event], spec: Make[Any], installation: Installation
) -> None:
    def endpoints(wanted: Installation) -> list[str]:
        (container,) = bridge.deployment(event(), spec(), wanted, {})["spec"]["template"]["spec"]["containers"]
        return [each["value"] for each in container["env"] if each["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"]

    traced = replace(installation.bridge, traces_endpoint="http://collector:4318")
    assert endpoints(installation) == []
    assert endpoints(replace(installation, bridge=traced)) == ["http://collector:4318"]


def test_the_name_of_a_worker_is_its_pod_s_uid(event: Make[Event], spec: Make[Any], installation: Installation) -> None:
    (container,) = bridge.deployment(event(), spec(), installation, {})["spec"]["template"]["spec"]["containers"]
    (worker,) = (each for each in container["env"] if each["name"] == "INTAKE_WORKER")
    assert worker["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_credentials_have_cloudnative_pg_s_keys_and_survive_odd_passwords(event: Make[Event]) -> None:
    secret = access.credentials(event(), "taylor-drop-app", "claimer", "p@ss/w:rd")
    content = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    keys = "username user password dbname host port uri jdbc-uri fqdn-uri fqdn-jdbc-uri pgpass"
    assert content.keys() == set(keys.split())
    uri = urlparse(content["uri"])
    assert (uri.hostname, uri.port, uri.path) == ("taylor-drop-rw.tickets", 5432, "/intake")
    assert secret["type"] == "kubernetes.io/basic-auth"


def test_an_ephemeral_db1_has_no_volume_claim(event: Make[Event], spec: Make[Any]) -> None:
    e = event(spec=spec(database={"ephemeral": {}}))
    assert e.spec is not None
    assert database.volume_claim(e, e.spec.database, identity="7251", unsettled=True) is None
    made = database.stateful_set(e, e.spec.database, INSTALLATION, identity="7251")
    assert "volumeClaimTemplates" not in made["spec"]
    assert {"name": "data", "emptyDir": {}} in made["spec"]["template"]["spec"]["volumes"]


def test_db1_s_volume_outlives_its_stateful_set(all_children: list[Manifest]) -> None:
    (made,) = (c for c in all_children if c["kind"] == "StatefulSet")
    assert made["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert made["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_notifications_that_no_session_reads_do_not_fill_the_disk(
    event: Make[Event], installation: Installation
) -> None:
    e = event()
    assert e.spec is not None
    made = database.stateful_set(e, e.spec.database, INSTALLATION, identity="7251")
    assert "max_notify_queue_pages=64" in made["spec"]["template"]["spec"]["containers"][0]["args"]


def test_db1_is_encoded_in_utf_8_by_an_image_without_a_locale(event: Make[Event]) -> None:
    e = event()
    assert e.spec is not None
    made = database.stateful_set(e, e.spec.database, INSTALLATION, identity="")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    (arguments,) = (each["value"] for each in container["env"] if each["name"] == "POSTGRES_INITDB_ARGS")
    assert "--encoding=UTF8" in arguments.split()
