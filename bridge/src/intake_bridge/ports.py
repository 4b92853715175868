"""What the pipeline needs from the outside, without naming a driver. Imports nothing but the domain."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Protocol
from uuid import UUID

from intake_bridge.domain.answers import Answers
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.health import Offer, WorkerHealth
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Outcome, Result, Transport
from intake_bridge.domain.tokens import TokenAnswer

type UriSource = Callable[[], Awaitable[str]]
"""Returns a connection URI. Called at each connect, so that a rotated Secret needs no restart."""


class DatabaseUnavailableError(Exception):
    """DB1 cannot be reached, or went away during the call: whether the call took effect is unknown."""


class DatabaseRefusedError(Exception):
    """DB1 answered with an error: pool unknown, not migrated, no permission."""


class DependencyDownError(Exception):
    """A dependency's check failed. The text goes to the breaker, and from there into the event's condition."""


class HttpError(Exception):
    """A call that got no answer. `kind` says how it failed; the text names the reason and quotes no credentials."""

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
    """Why the body could not be read. `body` is then empty."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """How a message returns to the queue: visible again after the delay, and counted as a failure if `error` is set."""

    message: Message
    delay_seconds: float
    error: str | None


class Queue(Protocol):
    """The queue in DB1.

    A method that changes messages sends the lease (`msg_id`, `read_ct`) of each. It returns the msg_ids that were
    changed: a message that is missing there is no longer ours, and nothing was done to it. A parameter beside
    `messages` has one element for each message, in the same order.

    Every method raises DatabaseUnavailableError when DB1 cannot be reached (whether a change took effect is then
    unknown; it may be tried again), and DatabaseRefusedError when DB1 answers with an error.
    """

    async def read_batch(self, worker: str, limit: int) -> list[Message]:
        """Lease up to `limit` messages (1 to 10 000) that are to be sold, oldest first. Empty: nothing is due.

        The lease lasts for the pool's visibilityTimeoutSeconds, counted by DB1's clock.
        """
        ...

    async def read_releases(self, worker: str, limit: int) -> list[Message]:
        """Lease up to `limit` messages (1 to 10 000) that are to be voided: released, or past the claim timeout."""
        ...

    async def read_quarantined(self, worker: str) -> list[Message]:
        """Lease one message of the quarantine, to sell or to void. Empty: there is none, or another bridge has one."""
        ...

    async def mark_validated(self, messages: Messages, data: Sequence[str | None]) -> dict[int, str | None]:
        """Make the validator's approval durable (state `validated`), with what it has added (JSON).

        Returns the msg_ids that were changed, each with its data as a jsonb writes it: so it comes with a redelivery.
        """
        ...

    async def mark_committing(self, messages: Messages) -> set[int]:
        """Make durable that a commit may have been sent (state `committing`)."""
        ...

    async def acknowledge(
        self, messages: Messages, outcomes: Sequence[Result], receipts: Sequence[str | None]
    ) -> set[int]:
        """Archive the messages and move their slots, in one transaction.

        `outcomes`: Result.COMMITTED (the slots are consumed) or Result.VOIDED (the slots are free). No other is
        accepted. `receipts`: JSON, what the ledger has answered beside its outcome.
        """
        ...

    async def give_back(self, returns: Sequence[GiveBack]) -> set[int]:
        """End the leases: each message is visible again after its delay (seconds, 0 is at once)."""
        ...

    async def dead_letter(self, messages: Messages, reasons: Sequence[str], conflicts: Sequence[bool]) -> set[int]:
        """Move messages to the dead letters. Their claims keep their slots.

        `conflicts` says whether the ledger has given a slot of the claim to another sale: then its slots stay off sale.
        """
        ...

    async def extend(self, messages: Messages) -> set[int]:
        """Renew the leases for another visibilityTimeoutSeconds from now."""
        ...


class Control(Protocol):
    """What a worker reads from DB1 about its work, and reports there. Raises what Queue raises."""

    async def configuration(self) -> Configuration:
        """The configuration of the pool, as it is now."""
        ...

    async def report_worker(self, worker: str, acting: Configuration, batch_size: int, health: WorkerHealth) -> None:
        """The heartbeat. `acting` is the configuration in use, `batch_size` is in claims."""
        ...


class TokenBucket(Protocol):
    """The pool's token bucket: one row in DB1 that all workers share. Raises what Queue raises."""

    async def lease_tokens(self, wanted: int) -> TokenAnswer:
        """Lease up to `wanted` tokens (1 to 10 000), one for each claim to be sent; or learn when to ask again."""
        ...

    async def return_tokens(self, lease: UUID, finished: int) -> bool:
        """Report that the calls for this many claims have finished; 0 only renews the lease. False: it has run out."""
        ...


class Gate(Protocol):
    """Asked before each call to a dependency, and given the outcome after it."""

    def may_start(self, message: Message) -> bool:
        """Whether a call for this message may start."""
        ...

    def may_continue(self, message: Message) -> bool:
        """Whether a call may be made that finishes what has begun: the lease is still ours, the permit still valid."""
        ...

    def record(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Count one call's outcome. `seconds` is how long it took; None if that says nothing about the dependency."""
        ...


class Http(Protocol):
    """POST, nothing else."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], seconds: float, tls: SSLContext | None
    ) -> HttpReply:
        """Send `body` once, and wait at most `seconds` for the whole answer. Raises HttpError when there is none."""
        ...


class Validator(Protocol):
    """Decides about claims."""

    async def check(self) -> None:
        """Raise DependencyDownError if it cannot be asked. Cheap when all is well: it is called before each batch."""
        ...

    async def validate(self, messages: Messages, gate: Gate) -> Answers:
        """The answers, with the data of approvals. A message that is missing was not asked about.

        Never raises for an answer.
        """
        ...


class Ledger(Protocol):
    """Keeps what was sold. `commit` and `void` never raise for an answer: what fails is an outcome."""

    @property
    def needs_mark(self) -> bool:
        """Whether `committing` must be durable before the first call: a ledger that cannot void cannot be fenced."""
        ...

    @property
    def offers(self) -> Sequence[Offer]:
        """What the ledger can do beyond the least, as far as the last check knows."""
        ...

    async def check(self) -> None:
        """Raise DependencyDownError if it cannot work. Cheap when all is well: it is called before each batch."""
        ...

    async def commit(self, messages: Messages, gate: Gate) -> Answers:
        """Commit each claim once, by its claim_id. The answers, with receipts; what is missing was not sent."""
        ...

    async def void(self, messages: Messages, gate: Gate) -> Answers:
        """Promise never to commit these claims. As `commit`; Result.COMMITTED: it is too late, the claim is sold."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The validator and the ledger of one configuration, and the breakers that watch the calls to them."""

    validator: Validator
    validation: Dependency
    ledger: Ledger
    commitment: Dependency
    voiding: Dependency
    """The same ledger and the same breaker as `commitment`. Only the common failures are counted apart: a ledger whose
    `void_claim` is broken can still commit."""


type Span = AbstractContextManager[object]


class Tracing(Protocol):
    """Spans around batches, steps and calls."""

    def batch(self, what: str, messages: Iterable[Message], ends: Mapping[str, int]) -> Span:
        """The span of a batch. `ends` is read when the span ends."""
        ...

    def step(self, name: str) -> Span:
        """The span of a step, inside that of its batch."""
        ...

    def http(self, http: Http) -> Http:
        """The client, with a span around each call whose context goes to the server."""
        ...

    async def close(self) -> None:
        """Send what is left, for two seconds at most."""
        ...


class NoTracing:
    """Makes no spans: no OTEL_* variable names an endpoint."""

    def batch(self, *_: object) -> Span:
        return nullcontext()

    def step(self, _: str) -> Span:
        return nullcontext()

    def http(self, http: Http) -> Http:
        return http

    async def close(self) -> None:
        return


def _as_it_is[T](port: T) -> T:
    return port


@dataclass(frozen=True, slots=True)
class Wrap:
    """What a process puts around its ports. Nothing in the image; tests inject faults here."""

    queue: Callable[[Queue], Queue] = _as_it_is
    token_bucket: Callable[[TokenBucket], TokenBucket] = _as_it_is
    dependencies: Callable[[Dependencies], Dependencies] = _as_it_is
