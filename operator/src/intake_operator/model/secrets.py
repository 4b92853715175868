"""What is read out of a Secret."""

import base64
import hashlib
from typing import Any

from intake_operator.model.observed import Manifest


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


def without_content(secret: Manifest) -> Manifest:
    """What of a Secret may be passed around: kind and metadata."""
    meta = {name: value for name, value in secret["metadata"].items() if name not in {"managedFields", "annotations"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
