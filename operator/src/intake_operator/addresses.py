"""Addresses of a user's PostgreSQL, as the operator has to write them: it runs in another namespace than the event."""

from intake_shared import uris
from psycopg.conninfo import make_conninfo


def qualified_uri(uri: str, namespace: str) -> str:
    """The URI with the event's namespace added to bare host names, which are Services beside the event.

    Raises psycopg.ProgrammingError for a URI that cannot be parsed. The message quotes nothing of it: it holds a
    password.
    """
    parameters = uris.read(uri)
    if "hostaddr" not in parameters and (hosts := parameters.get("host")):
        parameters["host"] = ",".join(qualified_host(host, namespace) for host in hosts.split(","))
    return make_conninfo(**parameters)


def qualified_host(host: str, namespace: str) -> str:
    """The host, with the event's namespace if it is the bare name of a Service."""
    # With a dot it is a domain or an IPv4 address, with a colon an IPv6 address, with a slash a socket.
    return host if not host or any(mark in host for mark in ".:/") else f"{host}.{namespace}.svc"
