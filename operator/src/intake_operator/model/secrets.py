"""What is read out of a Secret."""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from intake_operator.model.observed import Manifest

type Flaw = Callable[[str], str]
"""What is wrong with a value, without a word of it; empty if nothing is."""


def fingerprint(secret: Manifest) -> str:
    """Changes with the content of a Secret, and does not give it away: it is salted with the Secret's own uid."""
    salted = [secret["metadata"]["uid"], *(f"{k}={v}" for k, v in sorted((secret.get("data") or {}).items()))]
    return hashlib.sha256("\n".join(salted).encode()).hexdigest()


def value(secret: Manifest, key: str) -> str:
    """One value of a Secret."""
    data: dict[str, Any] = secret["data"]
    return base64.b64decode(data[key]).decode()


def text(secret: Manifest, key: str) -> str:
    """What a user wrote, without blanks around it, as the bridge reads it; empty where it is missing or no text."""
    try:
        return value(secret, key).strip() if key in (secret.get("data") or {}) else ""
    except UnicodeDecodeError:
        return ""


def key_flaw(key: str) -> str:
    """Why the bridge refuses to sign with it; empty if it does not. Each line is a signing secret."""
    for number, line in enumerate((each.strip() for each in re.split("\r\n|\n|\r", key)), 1):
        if character := _unseen(line):
            return f"line {number} has an invisible character: {character}; write the secret anew"
        if line and not _is_signing_secret(line):
            return (
                f"line {number} is no signing secret: expected whsec_ and then 24 to 64 bytes in base64; "
                "make one with: echo whsec_$(openssl rand -base64 32)"
            )
    return ""


def token_flaw(token: str) -> str:
    """Why the bridge refuses to send it; empty if it does not."""
    if sign := _unseen(token):
        return f"it has an invisible character: {sign}; write the token anew"
    if " " in token:
        return "a space is in it, and a token is one word, without Bearer before it"
    return "" if token.isascii() else "letters are in it that a header cannot carry"


def _is_signing_secret(line: str) -> bool:
    """As Standard Webhooks has it, and the bridge's credentials.py."""
    try:
        secret = base64.b64decode(line.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return line.startswith("whsec_") and len(secret) in range(24, 65)


def _unseen(text: str) -> str:
    """The first character without a shape, by its place and number; nothing of a secret beside it."""
    for place, sign in enumerate(text, 1):
        if not sign.isprintable():
            name = "BYTE ORDER MARK" if sign == "\ufeff" else unicodedata.name(sign, "")
            return f"character {place} is U+{ord(sign):04X}" + (f" ({name})" if name else "")
    return ""


def without_content(secret: Manifest) -> Manifest:
    """What of a Secret may be passed around: kind and metadata."""
    meta = {name: value for name, value in secret["metadata"].items() if name not in {"managedFields", "annotations"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
