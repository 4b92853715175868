"""A webhook's answers without a server, and their outcomes: adapter, gate and breaker are the real ones."""

from datetime import UTC, datetime
from uuid import UUID

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.ledger_webhook import WebhookLedger
from intake_bridge.adapters.validator_webhook import WebhookValidator
from intake_bridge.batch import LeasedBatch
from intake_bridge.domain.breaker import Breaker
from intake_bridge.domain.common_failure import CommonFailure
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import CommitWebhook, Configuration, Webhook
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.last_minute import LastMinute
from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message, State
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.gate import StepGate
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import HttpError, HttpReply, NoTracing, Queue
from sale import POOL

CONFIGURATION = Configuration(generation=1, batch_size=100, visibility_timeout_seconds=45, max_retries=10)


class Canned:
    """The port Http with one answer. The real client calls real servers in test_bridge_answers_sent.py."""

    def __init__(self) -> None:
        self.answer: HttpReply | HttpError = HttpReply(200, b"")

    async def post(self, *_: object) -> HttpReply:
        if isinstance(self.answer, HttpError):
            raise self.answer
        return self.answer


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def message(number: int) -> Message:
    """One of many claims."""
    return Message(
        pool_id=POOL,
        msg_id=number,
        read_ct=1,
        claim_id=UUID(int=number),
        user_id="buyer",
        slots=1,
        seats="[]",
        request_id=None,
        claimed_at=datetime.now(UTC),
        state=State.QUEUED,
        failures=0,
    )


class UnservedWebhook:
    """One webhook and its breaker."""

    def __init__(self, kind: str) -> None:
        self.http = Canned()
        self.clock = Clock()
        self.breaker = Breaker(self.clock, lambda _, high: high)
        bare, limit = Credentials(no_secret, self.clock), ConcurrencyLimit(5)
        url = "http://webhook.example/"
        validator = WebhookValidator(self.http, Webhook(url=url, batch="batch" in kind), bare, limit)
        ledger = WebhookLedger(self.http, CommitWebhook(url=url), bare, limit)
        self._ask = ledger.commit if kind == "commit" else validator.validate
        common_failure = CommonFailure(self.clock, lambda _, high: high)
        self._dependency = Dependency(kind, self.breaker, common_failure, LastMinute(self.clock))
        self._metrics = Metrics("one", NoTracing())
        queue: Queue = None  # type: ignore[assignment] # nothing is changed in DB1
        self._batch = LeasedBatch(queue, self._metrics, Lease(self.clock, self.clock.now, 1e9), CONFIGURATION, [])

    async def ask(self, answer: HttpReply | HttpError, number: int = 1) -> Outcome:
        """The outcome of this answer for one claim; the breaker records it."""
        self.http.answer = answer
        self.breaker._paused_until = 0.0
        self.clock.now = max(self.clock.now, self.breaker._probe_at or 0.0)
        gate = StepGate(self._batch, self._dependency, lambda: False, self._metrics)
        return (await self._ask([message(number)], gate)).outcomes[number]


async def no_secret(_: str) -> None:
    return None
