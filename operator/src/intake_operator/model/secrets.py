"""Reads Secrets: values and fingerprints."""

import base64
import hashlib
from typing import Any

from intake_operator.model.observed import Manifest


def fingerprint(secret: Manifest) -> str:
    """A hash of a Secret's content, salted with the Secret's uid so that it cannot be looked up.

    It stays as it is: after an upgrade, another one would look like a new content, and replace bridges in a rush.
    """
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


def without_content(secret: Manifest) -> Manifest:
    """Kind and metadata of a Secret, which may be passed around."""
    meta = {name: value for name, value in secret["metadata"].items() if name not in {"managedFields", "annotations"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
