"""Reads Secrets: values, fingerprints, and why a bridge would refuse a value."""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from intake_operator.model.observed import Manifest

type Flaw = Callable[[str], str]
"""What is wrong with a value; empty if nothing is. It quotes nothing of the value."""


def fingerprint(secret: Manifest) -> str:
    """A hash of a Secret's content, salted with the Secret's uid so that it cannot be looked up."""
    salted = [secret["metadata"]["uid"], *(f"{k}={v}" for k, v in sorted((secret.get("data") or {}).items()))]
    return hashlib.sha256("\n".join(salted).encode()).hexdigest()


def value(secret: Manifest, key: str) -> str:
    """One value of a Secret. Raises KeyError or UnicodeDecodeError."""
    data: dict[str, Any] = secret["data"]
    return base64.b64decode(data[key]).decode()


def text(secret: Manifest, key: str) -> str:
    """One value without blanks around it, as the bridge reads it; empty if it is missing or is not text."""
    try:
        return value(secret, key).strip() if key in (secret.get("data") or {}) else ""
    except UnicodeDecodeError:
        return ""


def key_flaw(key: str) -> str:
    """Why the bridge refuses to sign with it; empty if it does not. Each line is a signing secret."""
    for number, line in enumerate((each.strip() for each in re.split("\r\n|\n|\r", key)), 1):
        if character := _invisible(line):
            return f"line {number} has an invisible character: {character}; write the secret anew"
        if line and not _is_signing_secret(line):
            return (
                f"line {number} is no signing secret: expected whsec_ and then 24 to 64 bytes in base64; "
                "make one with: echo whsec_$(openssl rand -base64 32)"
            )
    return ""


def token_flaw(token: str) -> str:
    """Why the bridge refuses to send it; empty if it does not."""
    if character := _invisible(token):
        return f"it has an invisible character: {character}; write the token anew"
    if " " in token:
        return "it has a space in it; a token is one word, without Bearer before it"
    return "" if token.isascii() else "it has characters that a header cannot carry"


def _is_signing_secret(line: str) -> bool:
    """As Standard Webhooks has it, and the bridge's credentials.py."""
    try:
        secret = base64.b64decode(line.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return line.startswith("whsec_") and len(secret) in range(24, 65)


def _invisible(text: str) -> str:
    """The first character that cannot be printed, by its place and number. Quotes nothing else of the secret."""
    for place, character in enumerate(text, 1):
        if not character.isprintable():
            name = "BYTE ORDER MARK" if character == "\ufeff" else unicodedata.name(character, "")
            return f"character {place} is U+{ord(character):04X}" + (f" ({name})" if name else "")
    return ""


def without_content(secret: Manifest) -> Manifest:
    """Kind and metadata of a Secret, which may be passed around."""
    meta = {name: value for name, value in secret["metadata"].items() if name not in {"managedFields", "annotations"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
