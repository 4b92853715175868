"""A claim, and the form in which ledgers and webhooks get it. No other place in Python knows that form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from json.encoder import encode_basestring as _quoted
from typing import Any, Final, Self
from uuid import UUID

_FORM: Final = (
    '{"claim_id": "%s", "pool_id": %s, "user_id": %s, "request_id": %s, "claimed_at": "%s",'
    ' "seats": %s, "payload": %s, "validation": %s}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A slot as people name it. `resource_id` is None where it is not known."""

    slot_no: int
    resource_id: UUID | None
    label: str | None = None
    attributes: dict[str, Any] | None = None

    @classmethod
    def read(cls, seat: Mapping[str, Any]) -> Self:
        """A seat as DB1 has it in JSON: without label and attributes where it has neither."""
        resource = seat["resource_id"]
        return cls(
            slot_no=seat["slot_no"],
            resource_id=None if resource is None else UUID(resource),
            label=seat.get("label"),
            attributes=seat.get("attributes"),
        )

    def as_json(self) -> dict[str, Any]:
        """The seat in JSON types."""
        return {
            "slot_no": self.slot_no,
            "resource_id": None if self.resource_id is None else str(self.resource_id),
            "label": self.label,
            "attributes": self.attributes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimHead:
    """A claim without its slots: whose it is, and when it was made."""

    claim_id: UUID
    pool_id: str
    user_id: str
    request_id: str | None
    claimed_at: datetime

    def text_with(self, seats: str, payload: str | None, validation: str | None) -> str:
        """The claim as `finalize_transaction`, `void_claim` and the webhooks take it (docs/ledger.md).

        The parts are JSON already, and stay as they are: a number keeps its digits. Without \\u escapes for letters,
        because databases in other encodings than UTF8 accept few of them, or none.
        """
        return _FORM % (
            self.claim_id,
            _quoted(self.pool_id),
            _quoted(self.user_id),
            "null" if self.request_id is None else _quoted(self.request_id),
            self.claimed_at.isoformat(),
            seats,
            payload or "null",
            validation or "null",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(ClaimHead):
    """What one request got: one or several slots with one fate."""

    seats: tuple[Seat, ...]
    payload: dict[str, Any] | None = field(default=None, repr=False)
    """What the caller has sent along."""
    validation: dict[str, Any] | None = field(default=None, repr=False)
    """What the validator has added."""

    def as_json(self) -> dict[str, Any]:
        """The claim in JSON types, as `text_with` writes it."""
        seats = json.dumps([seat.as_json() for seat in self.seats])
        claim: dict[str, Any] = json.loads(self.text_with(seats, json.dumps(self.payload), json.dumps(self.validation)))
        return claim
