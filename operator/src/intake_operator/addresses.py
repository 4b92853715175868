"""Addresses of a user's PostgreSQL, as the operator has to write them: it runs in another namespace than the event."""

from typing import Final

from intake_shared import uris
from psycopg.conninfo import make_conninfo

# Bytes that a user's server may send as one answer. A chunk of the longest rows, or a page of claims, has less.
LONGEST_ANSWER: Final = 8 * 1024 * 1024


def qualified_uri(uri: str, namespace: str) -> str:
    """The URI with the event's namespace added to bare host names, which are Services beside the event.

    Raises psycopg.ProgrammingError for a URI that cannot be parsed. The message quotes nothing of it: it holds a
    password.
    """
    parameters = uris.read(uri)
    if "hostaddr" not in parameters and (hosts := parameters.get("host")):
        parameters["host"] = ",".join(_qualified(host, namespace) for host in hosts.split(","))
    return make_conninfo(**parameters)


def _qualified(host: str, namespace: str) -> str:
    # With a dot it is a domain or an IPv4 address, with a colon an IPv6 address, with a slash a socket.
    return host if not host or any(mark in host for mark in ".:/") else f"{host}.{namespace}.svc"
