"""The SQL that a DB1 has. It keeps what it was made with, so it may be of another version than the operator's."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


def name_of(files: Mapping[str, str]) -> str:
    """The name of a version, from what ran or would run: file name to SHA-256 of the content."""
    lines = "".join(f"{name} {checksum}\n" for name, checksum in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SqlVersion:
    """The version of a DB1, and what the operator cannot do with it."""

    name: str
    own: str
    """The operator's own, which a new DB1 gets."""
    changed: tuple[str, ...] = ()
    """Files that ran there, and that the operator does not have, or has with another content or in another order."""
    lacks: tuple[str, ...] = ()
    """What the operator calls and is not there."""
    bridges_lack: tuple[str, ...] = ()
    """What bridges of the operator's own version call and is not there."""
    settings: frozenset[str] | None = None
    """What `intake.configure` takes; None where it takes all that the operator may give, or the pool is not known."""

    @property
    def is_own(self) -> bool:
        """Whether it is the operator's own."""
        return self.name == self.own
