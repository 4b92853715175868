"""Connection URIs, and how they are read: tests/uris.tsv."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

# Parts of the passwords in the table. No message may contain one.
SECRET: Final = ("S3", "cret", "tail")


@dataclass(frozen=True)
class Case:
    """A URI, and either its places (as libpq reads it, and for an event's namespace) or the reason of its refusal."""

    uri: str
    libpq: str
    operator: str
    refusal: str


def quoted(message: str) -> list[str]:
    """The parts of a password that a message has. Names of fields are none."""
    said = message.replace("caSecretRef", "").replace("clientCertSecretRef", "")
    return [word for word in SECRET if word in said]


def _cases() -> tuple[Case, ...]:
    lines = Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return tuple(Case(_unescaped(uri), *rest) for uri, *rest in rows)


def _unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def places(parameters: Mapping[str, object]) -> str:
    """Hosts, addresses and ports of a parsed URI, in the notation of the table."""
    hosts, addresses, ports = (str(parameters.get(name) or "").split(",") for name in ("host", "hostaddr", "port"))
    if len(ports) == 1:
        ports *= max(len(hosts), len(addresses))
    triples = zip_longest(hosts, addresses, ports, fillvalue="")
    return " ".join(
        (f"[{host}]" if ":" in host else host) + (f"@{address}" if address else "") + (f":{port}" if port else "")
        for host, address, port in triples
    )


CASES: Final = _cases()
READ: Final = tuple(case for case in CASES if not case.refusal)
REFUSED: Final = tuple(case for case in CASES if case.refusal)
