"""Names of hosts, as the operator has to write them: it runs in another namespace than the event."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from intake_shared import connections, uris
from intake_shared.certificates import NO_CERTIFICATES, Certificates
from intake_shared.confirmed import ConfirmedConnection
from psycopg.conninfo import make_conninfo

from intake_operator import names
from intake_operator.decide import inputs
from intake_operator.model.observed import LedgerState, Manifest
from intake_operator.model.secrets import text
from intake_operator.model.spec import PostgresAccess, SecretRef

# Bytes that a user's server may send as one answer, where it is not asked for many rows. Every worker may have one.
LONGEST_ANSWER: Final = 1024 * 1024


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""


@dataclass(frozen=True)
class Address:
    """A PostgreSQL of the user, as an event of `namespace` names it."""

    uri: str = field(repr=False)
    namespace: str
    certificates: Certificates = NO_CERTIFICATES

    def qualified(self) -> str:
        """The URI with the event's namespace added to bare host names, which are Services beside the event.

        Raises psycopg.ProgrammingError for a URI that cannot be parsed, or that contradicts the certificates. The
        message quotes nothing of it: it holds a password.
        """
        parameters = uris.read(self.uri)
        uris.secured(parameters, self.certificates)
        if "hostaddr" not in parameters and (hosts := parameters.get("host")):
            parameters["host"] = ",".join(qualified_host(host, self.namespace) for host in hosts.split(","))
        return make_conninfo(**parameters)

    async def connect(self, longest_answer: int = LONGEST_ANSWER, **more: Any) -> ConfirmedConnection:
        """Connect. `more` are further parameters of psycopg. Raises psycopg.Error or OSError.

        An answer of more than `longest_answer` bytes is not read: the call fails, and the connection is closed.
        The server's certificate has to have the name that the URI has, as for the bridges, which reach a Service of
        their own namespace by its bare name.
        """
        hosts = uris.read(self.uri).get("host", "").split(",")
        return await connections.connect(
            self.qualified(),
            certificates=self.certificates,
            names={qualified_host(host, self.namespace): host for host in hosts},
            longest_answer=longest_answer,
            application_name=names.FIELD_MANAGER,
            # Never prepared: a transaction pooler may stand before it.
            prepare_threshold=None,
            **more,
        )


def address_of(wanted: PostgresAccess, namespace: str, secrets: Mapping[str, Manifest | None]) -> Address | LedgerState:
    """The address that Secrets (by name) give, or what is wrong with them.

    Each call parses the certificates, which takes milliseconds.
    """
    state = inputs.check_all(inputs.of_postgres(wanted), secrets)
    if state.problem:
        return state

    def value(ref: SecretRef) -> str:
        secret = secrets[ref.name]
        assert secret is not None
        return text(secret, ref.key)

    authority, own = wanted.ca_secret_ref, wanted.client_cert_secret_ref
    certificates = Certificates(
        value(authority) if authority else None,
        value(own.certificate) if own else None,
        value(own.key) if own else None,
    )
    return Address(value(wanted.secret_ref), namespace, certificates)


async def read_address(cluster: Objects, wanted: PostgresAccess, namespace: str) -> Address | LedgerState:
    """The address that the Secrets of a namespace give now, or what is wrong with them."""
    named = list(dict.fromkeys(each.ref.name for each in inputs.of_postgres(wanted)))
    found = await asyncio.gather(*(cluster.get("Secret", namespace, name) for name in named))
    return address_of(wanted, namespace, dict(zip(named, found, strict=True)))


def domain_of(resolv_conf: str) -> str:
    """The cluster's domain, from what the kubelet writes into a pod's resolv.conf; empty where it does not tell."""
    for line in reversed(resolv_conf.splitlines()):
        word, *domains = line.split() or [""]
        if word == "search":  # the last one counts
            return next((d.removeprefix("svc.").rstrip(".") for d in domains if d.startswith("svc.")), "")
    return ""


def qualified_host(host: str, namespace: str) -> str:
    """The host, with the event's namespace if it is the bare name of a Service."""
    # With a dot it is a domain or an IPv4 address, with a colon an IPv6 address, with a slash a socket.
    return host if not host or any(mark in host for mark in ".:/") else f"{host}.{namespace}.svc"
