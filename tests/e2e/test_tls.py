"""A ledger that lets nobody in without TLS and a client certificate: seats from a table in it are sold, and proven."""

from typing import Any, Final

import trustme
import yaml

from tests.e2e import account, events, namespaces, sql
from tests.e2e.kube import REPOSITORY, Kube, Object, await_rollout, condition, eventually

# cert: the certificate's name has to be the user's, and there is no password.
HBA: Final = "local all all trust\nhostssl ledger ledger_writer all cert\n"
TLS: Final = "-c ssl=on -c ssl_cert_file=/tls/tls.crt -c ssl_key_file=/tls/tls.key -c ssl_ca_file=/tls/ca.crt"
REACHED: Final = {
    "secretRef": {"name": "core-ledger"},
    "caSecretRef": {"name": "core-ledger-ca"},
    "clientCertSecretRef": {"name": "ledger-writer-tls"},
}
SEATS: Final = (
    "CREATE TABLE seats AS SELECT gen_random_uuid() AS resource_id, 'A-' || n AS label FROM generate_series(1, 4) n"
)


def test_a_sale_goes_to_a_ledger_with_tls_and_a_client_certificate(namespace: Kube) -> None:
    kube = namespace
    keys = _start_ledger(kube)
    sql.in_ledger(kube, f"{SEATS}; GRANT SELECT ON seats TO ledger_writer")
    kube.apply(
        events.event(
            "secured",
            events.window(opens_in=3, lasts=3600),
            inventorySize=4,
            batchSize=4,
            commitTarget={"postgres": REACHED},
            inventory={"table": REACHED},
        )
    )
    opened = events.await_phase(kube, "secured", "Open", 60)
    assert condition(opened, "PoolUnused")["status"] == "True", "the operator has asked the ledger"
    claim = "SELECT outcome FROM intake.claim_seats('secured-pool', 'ann', '{A-1,A-3}', 'order-1')"
    assert sql.in_database(kube, "secured", claim).splitlines() == ["claimed", "claimed"]
    eventually(lambda: account.ledger_counts(kube, "secured-pool") == (1, 0), 30, "the claim is committed")
    shown = namespaces.dump(kube) + kube.kubectl("get", "intakeevents,deployments,pods", "-o", "yaml")
    assert not [key for key in keys if key in shown]
    events.close_now(kube, "secured")
    completed = events.await_phase(kube, "secured", "Completed", 90)
    assert completed["status"]["report"]["ledgerVerified"] == "the ledger agrees"


def _start_ledger(kube: Kube) -> list[str]:
    """The example ledger with TLS. Returns lines of the private keys."""
    servers, clients = trustme.CA(organization_name="servers"), trustme.CA(organization_name="clients")
    # A bridge knows the Service by this name; the operator reaches it from its own namespace by another.
    server = servers.issue_cert("core-ledger")
    writer = clients.issue_cert(common_name="ledger_writer")
    made = [_secret("core-ledger-ca", **{"ca.crt": _pem(servers.cert_pem)})]
    for name, own, trusted in (("core-ledger-tls", server, clients), ("ledger-writer-tls", writer, servers)):
        chain = "".join(map(_pem, own.cert_chain_pems))
        content = {"tls.crt": chain, "tls.key": _pem(own.private_key_pem), "ca.crt": _pem(trusted.cert_pem)}
        made.append(_secret(name, **content) | {"type": "kubernetes.io/tls"})
    for each in yaml.safe_load_all(kube.kubectl("kustomize", str(REPOSITORY / "examples"))):
        if each["kind"] == "Secret":
            each["stringData"]["uri"] = "postgresql://ledger_writer@core-ledger:5432/ledger"
        elif each["kind"] == "StatefulSet":
            _secure(each["spec"]["template"]["spec"])
        made.append(each)
    hba: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "core-ledger-hba"}}
    kube.apply(*made, hba | {"data": {"pg_hba.conf": HBA}})
    await_rollout(kube, "statefulset/core-ledger")
    return [_pem(own.private_key_pem).splitlines()[1] for own in (server, writer)]


def _secure(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    container["args"] = [*TLS.split(), "-c", "hba_file=/hba/pg_hba.conf"]
    container["volumeMounts"] += [{"name": "tls", "mountPath": "/tls"}, {"name": "hba", "mountPath": "/hba"}]
    pod["volumes"] += [
        # Postgres refuses a key that others may read.
        {"name": "tls", "secret": {"secretName": "core-ledger-tls", "defaultMode": 0o440}},
        {"name": "hba", "configMap": {"name": "core-ledger-hba"}},
    ]


def _secret(name: str, **content: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


def _pem(blob: trustme.Blob) -> str:
    return blob.bytes().decode()
