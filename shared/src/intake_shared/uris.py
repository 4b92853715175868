"""Reads the connection URI of a user, before libpq does. tests/uris.tsv has the cases.

libpq quotes what it cannot parse, and takes parts of a password with an @ or a / in it for host, port or database.
So a URI that libpq would probably misread is refused. The error says what to change, and quotes nothing of the URI.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from intake_shared.certificates import Certificates

_FORM: Final = "write postgresql://user:password@host:port/db"
_ESCAPES: Final = f"{_FORM}, and in a password %40 for @, %2F for / and %25 for %"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
# Unicode categories of invisible characters: formats (the byte order mark is one), controls, spaces of every kind.
_INVISIBLE: Final = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp"})
# Of libpq's modes these alone never go on without TLS.
_ENCRYPTED: Final = ("require", "verify-ca", "verify-full")
# Parameters that name a file, and what to do instead.
_FILES: Final = {
    "service": _FORM,
    "servicefile": _FORM,
    "passfile": _FORM,
    "sslrootcert": "remove it, and name the certificates in caSecretRef",
    "sslcert": "remove it, and name the certificate in clientCertSecretRef",
    "sslkey": "remove it, and name the key in clientCertSecretRef",
    "sslcrl": "remove it",
    "sslcrldir": "remove it",
    "sslkeylogfile": "remove it",
}


def read(uri: str) -> dict[str, str]:
    """The URI's parameters, by libpq's names. Raises psycopg.ProgrammingError, which says what to change."""
    wrong = _before(uri)
    if wrong is None:
        try:
            parameters = {name: str(value) for name, value in conninfo_to_dict(uri).items()}
        except (psycopg.Error, UnicodeError):
            wrong = _unknown(uri) or _ESCAPES
        else:
            wrong = _after(parameters)
    if wrong:
        raise psycopg.ProgrammingError(f"the URI cannot be parsed: {wrong}") from None
    return parameters


def secured(given: Mapping[str, str], certificates: Certificates) -> dict[str, str]:
    """libpq's parameters for a URI with the parameters `given` and for certificates, beside their files.

    Raises psycopg.ProgrammingError for a URI that says the contrary.
    """
    if not certificates:
        return {}
    names = "caSecretRef" if certificates.authority is not None else "clientCertSecretRef"
    mode = given.get("sslmode")
    if mode is not None and mode not in _ENCRYPTED:
        if mode not in {"disable", "allow", "prefer"}:
            raise psycopg.ProgrammingError("the URI says an sslmode that libpq does not know; remove it")
        raise _contrary(f"sslmode={mode}, with which a connection may go on without TLS", names)
    if certificates.authority is not None and "sslrootcert" in given:
        raise _contrary(f"sslrootcert={given['sslrootcert']}, which trusts other authorities", names)
    if certificates.certificate is not None and given.get("sslcertmode") == "disable":
        raise _contrary("sslcertmode=disable, with which no certificate is shown", "clientCertSecretRef")
    if given.get("gssencmode") == "require":
        raise _contrary("gssencmode=require, which is no TLS", names)
    if mode is None:
        mode = "verify-full" if certificates.authority is not None or "sslrootcert" in given else "require"
    elif mode == "require" and certificates.authority is not None:
        mode = "verify-ca"  # libpq does the same where there is a file of authorities
    # By default libpq prefers GSSAPI, which checks no certificate.
    return {"sslmode": mode, "gssencmode": "disable"}


def _contrary(said: str, names: str) -> psycopg.ProgrammingError:
    return psycopg.ProgrammingError(f"the URI says {said}: remove it there, or {names}")


def _before(uri: str) -> str | None:
    """What is wrong with the text: libpq would misread it, or its error would mislead."""
    first = uri[:1] or "x"
    if unicodedata.category(first) in _INVISIBLE:
        kind = "a byte order mark" if first == "\ufeff" else "an invisible character"
        return f"it begins with {kind} (U+{ord(first):04X}); save it without"
    if first in "\"'`\u2018\u201c\u201e":
        return "it is in quotes; save it without them"
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return "it has a NUL character" if "\0" in uri else None
    if scheme[0] not in {"postgresql://", "postgres://"}:
        return f"it does not begin with postgresql://; {_FORM}"
    if any(unicodedata.category(c) in _INVISIBLE for c in uri):
        return "it has a space or an invisible character; write a space as %20"
    path = uri[scheme.end() :].partition("/")[2].partition("?")[0]
    if "@" in path:
        return "it has an @ after a /; in a password write / as %2F and @ as %40"
    if re.search("%(?![0-9A-Fa-f]{2})", uri):
        return "it has a % without two hexadecimal digits; in a password write % as %25"
    return None


def _after(parameters: dict[str, str]) -> str | None:
    """What is wrong with the parameters: libpq accepts them, but the user cannot mean them."""
    if any("@" in host for host in parameters.get("host", "").split(",")):
        return _ESCAPES
    if any(port and not (port.isascii() and port.isdigit()) for port in parameters.get("port", "").split(",")):
        return (
            "after a host and a colon comes the port, a number; write an IPv6 address in brackets ([fd00::1]),"
            " and in a password / as %2F and @ as %40"
        )
    if any(
        len(digits := port.lstrip("0")) > 5 or int(digits or 0) > 65535
        for port in parameters.get("port", "").split(",")
    ):
        return "a port is at most 65535"
    # sslrootcert=system is no file: it stands for the authorities that the image trusts.
    named = (name for name in _FILES if name in parameters and (name, parameters[name]) != ("sslrootcert", "system"))
    file = next(named, None)
    return file and f"{file}= names a file that pods do not have; {_FILES[file]}"


def _unknown(uri: str) -> str | None:
    """Names a parameter that only other drivers know. Names nothing where a part of a password may be in its place."""
    query = uri.partition("?")[2]
    if "@" in query:
        return None
    known = {each.keyword.decode() for each in pq.Conninfo.get_defaults()} | {"ssl"}
    names = (pair.partition("=")[0] for pair in query.split("&") if "=" in pair)
    strange = next((name for name in names if re.fullmatch("[A-Za-z_]{1,30}", name) and name not in known), None)
    return strange and f"libpq has no parameter {strange}; remove it after the ?"
