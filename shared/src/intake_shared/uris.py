"""How a connection URI is read before libpq reads it. The bridge has the same rules: tests/uris.tsv tries both.

libpq quotes what it cannot parse, and takes a password with an @ or a / in it for host, port or database. So a URI that
is probably misread is refused, with what to do, and without a word of it.
"""

import re
import unicodedata
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

_FORM: Final = "write postgresql://user:password@host:port/db"
_ESCAPES: Final = f"{_FORM}, and in a password %40 for @, %2F for / and %25 for %"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
# None of these can be seen: formats (the byte order mark is one), controls, blanks that are no blank.
_UNSEEN: Final = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp"})


def read(uri: str) -> dict[str, str]:
    """Its parameters, by libpq's names. Raises psycopg.ProgrammingError, which says what is wrong with it."""
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


def _before(uri: str) -> str | None:
    """What libpq would misread, or tell in words that lead astray."""
    first = uri[:1] or "x"
    if unicodedata.category(first) in _UNSEEN:
        kind = "a byte order mark" if first == "\ufeff" else "a character that cannot be seen"
        return f"{kind} (U+{ord(first):04X}) stands before it; save it without"
    if first in "\"'`\u2018\u201c\u201e":
        return "it stands in quotes; save it without"
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return "it has a NUL in it" if "\0" in uri else None
    if scheme[0] not in {"postgresql://", "postgres://"}:
        return f"it does not begin with postgresql://; {_FORM}"
    if any(unicodedata.category(c) in _UNSEEN for c in uri):
        return "it has a blank or a character that cannot be seen in it; a blank is written %20"
    path = uri[scheme.end() :].partition("/")[2].partition("?")[0]
    if "@" in path:
        return "it has an @ behind a /; in a password '/' is written %2F, and @ is written %40"
    if re.search("%(?![0-9A-Fa-f]{2})", uri):
        return "it has a % without two hexadecimal digits; in a password % is written %25"
    return None


def _after(parameters: dict[str, str]) -> str | None:
    """What libpq has understood, and cannot be meant."""
    if any("@" in host for host in parameters.get("host", "").split(",")):
        return _ESCAPES
    if any(port and not (port.isascii() and port.isdigit()) for port in parameters.get("port", "").split(",")):
        return (
            "what stands behind a host and a colon is a port, a number; an IPv6 address stands in brackets ([fd00::1]);"
            " in a password '/' is written %2F, and @ is written %40"
        )
    if "service" in parameters or "servicefile" in parameters:
        return f"service= names a file that pods do not have; {_FORM}"
    return None


def _unknown(uri: str) -> str | None:
    """The name of a parameter that other drivers know. Where a password may have got there, nothing is named."""
    query = uri.partition("?")[2]
    if "@" in query:
        return None
    known = {each.keyword.decode() for each in pq.Conninfo.get_defaults()} | {"ssl"}
    names = (pair.partition("=")[0] for pair in query.split("&") if "=" in pair)
    strange = next((name for name in names if re.fullmatch("[A-Za-z_]{1,30}", name) and name not in known), None)
    return strange and f"libpq knows no parameter {strange}, which stands behind the ?; leave it out"
