"""Connections to a ledger, and what tells one ledger from another."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from typing import Final

import psycopg
from intake_shared import uris
from intake_shared.connections import bounded
from psycopg import AsyncConnection

from intake_operator.addresses import LONGEST_ANSWER, Address
from intake_operator.children.installation import CLUSTER_DOMAIN
from intake_operator.decide.pool import LedgerKey

# Seconds of one call. Counted here: the URI may bring settings of its own, and a pooler may not take ours.
CALL_TIMEOUT: Final = 20.0


@asynccontextmanager
async def connect(ledger: Address, longest_answer: int = LONGEST_ANSWER) -> AsyncIterator[AsyncConnection]:
    """A connection to a ledger, for some calls.

    Raises psycopg.Error or OSError when it cannot be reached.
    """
    # Nothing is set for the session: a transaction pooler may stand before the ledger.
    async with await ledger.connect(longest_answer, autocommit=True) as connection:
        yield connection


def call_timeout() -> AbstractAsyncContextManager[None]:
    """Bounds one call. Raises TimeoutError, which is an OSError."""
    return bounded(CALL_TIMEOUT)


def ledger_key(ledger: Address, function: str, domain: str = CLUSTER_DOMAIN) -> LedgerKey | None:
    """Hosts with their ports, database and function of a ledger; None for a URI that is refused.

    Certificates are not part of it: they are renewed, and the ledger stays the same.
    """
    try:
        parameters = uris.read(Address(ledger.uri, ledger.namespace).qualified())
    except psycopg.Error:
        return None
    hosts = (parameters.get("hostaddr") or parameters.get("host", "")).split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    database = parameters.get("dbname") or parameters.get("user", "")
    places = (f"{_normalized(host, domain)} {port or 5432}" for host, port in zip(hosts, ports, strict=False))
    return (",".join(places), database, function)


def _normalized(host: str, domain: str) -> str:
    """One spelling of a host: an IPv6 address has many, and a Service may be named with the cluster's domain."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host if host.startswith("/") else host.lower().rstrip(".").removesuffix(f".{domain.lower()}")
