"""Names of hosts, as the operator has to write them: it runs in another namespace than the event."""

from intake_shared import uris
from psycopg.conninfo import make_conninfo


def qualified_uri(uri: str, namespace: str) -> str:
    """The URI with the event's namespace added to bare host names, which are Services beside the event.

    Raises psycopg.ProgrammingError for a URI that cannot be parsed. The message quotes nothing of it: it holds a
    password.
    """
    parameters = uris.read(uri)
    if "hostaddr" not in parameters and (hosts := parameters.get("host")):
        parameters["host"] = ",".join(_qualified(host, namespace) for host in hosts.split(","))
    return make_conninfo(**parameters)


def domain_of(resolv_conf: str) -> str:
    """The cluster's domain, from what the kubelet writes into a pod's resolv.conf; empty where it does not tell."""
    for line in reversed(resolv_conf.splitlines()):
        word, *domains = line.split() or [""]
        if word == "search":  # the last one counts
            return next((d.removeprefix("svc.").rstrip(".") for d in domains if d.startswith("svc.")), "")
    return ""


def _qualified(host: str, namespace: str) -> str:
    # With a dot it is a domain or an IPv4 address, with a colon an IPv6 address, with a slash a socket.
    return host if not host or any(mark in host for mark in ".:/") else f"{host}.{namespace}.svc"
