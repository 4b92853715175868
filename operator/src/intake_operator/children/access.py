"""How clients connect to DB1: the Secrets with credentials, and the Services."""

import base64
from typing import Final
from urllib.parse import quote

from intake_operator import names
from intake_operator.children import common
from intake_operator.children.installation import CLUSTER_DOMAIN
from intake_operator.model.observed import Event, Manifest

PORT: Final = 5432


def host(event: Event) -> str:
    """The DNS name of DB1's Service, for pods of any namespace."""
    return f"{names.service(event.name)}.{event.namespace}.svc"


def credentials(event: Event, name: str, role: str, password: str, domain: str = CLUSTER_DOMAIN) -> Manifest:
    """A Secret with the keys of CloudNativePG, so that its clients can use it. `domain` is the cluster's."""
    service, fqdn = names.service(event.name), f"{host(event)}.{domain}"
    account = f"{quote(role)}:{quote(password, safe='')}"
    content = {
        "username": role,
        "user": role,
        "password": password,
        "dbname": names.DATABASE_NAME,
        "host": service,
        "port": str(PORT),
        "uri": f"postgresql://{account}@{service}.{event.namespace}:{PORT}/{names.DATABASE_NAME}",
        "fqdn-uri": f"postgresql://{account}@{fqdn}:{PORT}/{names.DATABASE_NAME}",
        "jdbc-uri": _jdbc(service, event.namespace, role, password),
        "fqdn-jdbc-uri": _jdbc(fqdn, "", role, password),
        "pgpass": f"{service}:{PORT}:{names.DATABASE_NAME}:{role}:{password}\n",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": common.metadata(event, name, "database"),
        "type": "kubernetes.io/basic-auth",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in content.items()},
    }


def secret(event: Event, name: str) -> Manifest:
    """The metadata of an existing Secret, for its owners and labels; without its content."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": common.metadata(event, name, "database")}


def services(event: Event) -> list[Manifest]:
    """The headless Service that the StatefulSet needs, and the one that clients use."""
    return [_service(event, names.database(event.name), headless=True), _service(event, names.service(event.name))]


def _service(event: Event, name: str, *, headless: bool = False) -> Manifest:
    spec: Manifest = {
        "selector": common.selector(event, "database"),
        "ports": [{"name": "postgres", "port": PORT, "targetPort": "postgres", "protocol": "TCP"}],
    }
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": common.metadata(event, name, "database"), "spec": spec}


def _jdbc(server: str, namespace: str, role: str, password: str) -> str:
    where = f"{server}.{namespace}" if namespace else server
    account = f"user={quote(role)}&password={quote(password, safe='')}"
    return f"jdbc:postgresql://{where}:{PORT}/{names.DATABASE_NAME}?{account}"
