"""What the pipeline needs from the outside, without naming a driver."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ssl import SSLContext
from typing import Any, Protocol
from uuid import UUID

from intake_bridge.domain.config import Configuration
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.meter import TokenAnswer
from intake_bridge.domain.outcomes import Outcome, Transport

type UriSource = Callable[[], Awaitable[str]]
"""Returns a connection URI. Called at each connect, so that a rotated Secret needs no restart."""


class DatabaseUnavailableError(Exception):
    """DB1 cannot be reached, or went away during the call: whether it took effect is unknown."""


class DatabaseRefusedError(Exception):
    """DB1 answered with an error: pool unknown, not migrated, no permission."""


class TargetDownError(Exception):
    """A target's check failed; the text goes to the breaker and from there into the event's condition."""


class HttpError(Exception):
    """A call without an answer."""

    def __init__(self, kind: Transport, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer, whatever its status."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    unread: str | None = None
    """Why the body could not be read, and is empty here."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """How a message returns to the queue: visible again after `delay`; counted only if there is an error."""

    message: Message
    delay_seconds: float
    error: str | None


class Queue(Protocol):
    """The queue in DB1. Each change carries the fence of its messages and returns the msg_ids that it changed."""

    async def read_batch(self, worker: str, limit: int) -> list[Message]: ...
    async def read_releases(self, worker: str, limit: int) -> list[Message]: ...
    async def read_quarantined(self, worker: str) -> list[Message]: ...
    async def mark_validated(self, messages: Messages) -> set[int]: ...
    async def mark_committing(self, messages: Messages) -> set[int]: ...
    async def acknowledge(self, messages: Messages, outcomes: Sequence[str]) -> set[int]: ...
    async def give_back(self, returns: Sequence[GiveBack]) -> set[int]: ...
    async def dead_letter(self, messages: Messages, reasons: Sequence[str]) -> set[int]: ...
    async def extend(self, messages: Messages) -> set[int]: ...


class Control(Protocol):
    """What a bridge tells DB1 and is told by it."""

    async def configuration(self) -> Configuration: ...
    async def report_worker(
        self, worker: str, acting: Configuration, batch_size: int, health: Mapping[str, Any]
    ) -> None: ...


class Meter(Protocol):
    """The fleet's meter, one row in DB1."""

    async def lease_tokens(self, wanted: int) -> TokenAnswer:
        """Leave to send up to `wanted` claims, or when to ask again."""
        ...

    async def return_tokens(self, lease: UUID, settled: int) -> bool:
        """So many of the calls have ended; 0 renews. False: the lease has run out."""
        ...


class Gate(Protocol):
    """Asked before each side effect, told after it."""

    def admits(self, message: Message) -> bool:
        """Whether a call for this message may still start."""
        ...

    def holds(self, message: Message) -> bool:
        """Whether the lease still stands: enough for a call that finishes what has begun."""
        ...

    def told(self, outcome: Outcome, seconds: float | None = None) -> None:
        """One call's outcome, for the breaker; and how long the call took, for the closed loop."""
        ...


class Offer(StrEnum):
    """What a ledger offers beyond the least. The words go to DB1 and from there into the event's condition."""

    BATCH = "batch"  # one call takes a whole batch
    OUTCOMES = "outcomes"  # it tells committed, duplicate, voided and conflict apart
    VOID = "void"  # it can promise that a claim will never be committed


class Http(Protocol):
    """POST, nothing else. Raises HttpError when there is no answer."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], seconds: float, tls: SSLContext | None
    ) -> HttpReply: ...


class Validator(Protocol):
    """Decides about claims. A msg_id that is missing in the answer was never asked about."""

    async def check(self) -> None:
        """Raise TargetDownError if it cannot be asked. Costs nothing when all is well."""
        ...

    async def validate(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]: ...


class Ledger(Protocol):
    """The target. A msg_id that is missing in an answer was never sent."""

    @property
    def needs_mark(self) -> bool:
        """Whether `committing` must be durable before the first call: a target that cannot void cannot be fenced."""
        ...

    @property
    def offers(self) -> Sequence[Offer]:
        """What was found at the last check."""
        ...

    async def check(self) -> None:
        """Raise TargetDownError if it cannot work. Costs nothing when all is well."""
        ...

    async def commit(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]: ...
    async def void(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]: ...
    async def close(self) -> None: ...
