"""Rate limiting: sends a batch in portions whose size the pool's token bucket and the AIMD throttle allow."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from intake_bridge.domain.backoff import Uniform
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.outcomes import Blame, Outcome
from intake_bridge.domain.throttle import Throttle
from intake_bridge.domain.tokens import Monotonic, ReadAhead, TokenAnswer, TokenLease, pause_for
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError, TokenBucket

log = logging.getLogger(__name__)

# The most that `intake.lease_tokens` takes.
_MOST_TOKENS = 10_000

type Sleep = Callable[[float], Awaitable[object]]


class Permit:
    """The right to send one portion of `size` claims.

    `async with` it around the calls: its tokens are renewed meanwhile, and returned after them.
    """

    def __init__(
        self, bucket: TokenBucket, clock: Monotonic, throttle: Throttle, tokens: TokenLease, size: int
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._throttle = throttle
        self._tokens = tokens
        self._still_running = 0
        self._renewing: asyncio.Task[None] | None = None
        self.size = size

    async def __aenter__(self) -> Self:
        if self._tokens.renew_every is not None:
            self._renewing = asyncio.create_task(self._renew(self._tokens.renew_every))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        # After an error it is unknown whether a call is still under way: then the lease runs out by itself.
        if error is None and self._tokens.lease is not None and self._tokens.is_valid():
            try:
                await self._bucket.return_tokens(self._tokens.lease, self._tokens.tokens - self._still_running)
            except (DatabaseUnavailableError, DatabaseRefusedError) as refusal:
                log.warning("tokens are not returned to the bucket; their lease runs out by itself: %s", refusal)

    def is_valid(self) -> bool:
        """Whether a call may start now. Ask right before each call."""
        return self._tokens.is_valid()

    def record(self, outcome: Outcome, seconds: float) -> None:
        """A call has ended after so many seconds, or we have stopped waiting for it."""
        self._throttle.record_call(seconds, failed=outcome.blame is not Blame.CLAIM)

    def record_answers(self, outcomes: Iterable[Outcome]) -> None:
        """The outcomes of the claims that were sent: the tokens of calls that may still run are not returned."""
        self._still_running = sum(outcome.may_still_run for outcome in outcomes)

    async def _renew(self, every: float) -> None:
        assert self._tokens.lease is not None
        while True:
            await asyncio.sleep(every)
            asked_at = self._clock()
            try:
                if await self._bucket.return_tokens(self._tokens.lease, 0):
                    self._tokens.renewed(asked_at)
                else:
                    self._tokens.mark_lost()
            except (DatabaseUnavailableError, DatabaseRefusedError) as error:
                log.warning("tokens are not renewed; tried again: %s", error)


class RateLimiter:
    """Hands out permits for calls to the ledger, within `maxPerSecond`, `batchSize` and the throttle.

        limiter = RateLimiter(database, clock, Throttle(clock), metrics)
        limiter.follow(configuration)
        permit = await limiter.acquire(len(claims), lambda: not stopping())
        if permit is not None:
            async with permit:
                outcomes = await ledger.commit(claims[: permit.size], gate)
                permit.record_answers(outcomes.values())

    I10, for the claims that all workers of a pool send, by DB1's clock and for the instants at which the ledger acts on
    them: in any window of time at most maxPerSecond x window + capacity (sql/intake/0016_rate_limit.sql). Tokens are
    leased right before a call, one for each claim. A statement that the ledger rolled back, and that is sent again in
    halves, costs no more tokens. Two cases are not covered: a call that the ledger still works on when its worker has
    been dead or cut off from DB1 for longer than a lease (1 s), and one portion of each worker that was frozen for as
    long between its last look at the clock and the call.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        clock: Monotonic,
        throttle: Throttle,
        metrics: Metrics,
        uniform: Uniform = random.uniform,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._uniform = uniform
        self._sleep = sleep
        self._metrics = metrics
        self._limited = False
        self._paused = False
        self._read_ahead = ReadAhead()
        self._waited_seconds = 0.0
        self.throttle = throttle

    def follow(self, configuration: Configuration) -> None:
        """Use this configuration from now on, also for a batch that waits for tokens."""
        self._limited = configuration.max_per_second is not None
        self._paused = configuration.paused
        self.throttle.follow(configuration.batch_size, configuration.latency_budget_milliseconds / 1000)

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no rate limit, and the ledger is within its latency budget."""
        return not self._limited and self.throttle.share >= 1

    @property
    def batch_size(self) -> int:
        """The batch size in use, in claims."""
        return self.throttle.batch_size

    def read_limit(self) -> int:
        """How many messages to read for the next batch."""
        return self._read_ahead.limit(self.batch_size) if self._limited else self.batch_size

    def batch_ended(self, read: int) -> None:
        """All `read` messages of a batch have been sent or given back."""
        if self._limited:
            self._read_ahead.record(read, self._waited_seconds)
        self._waited_seconds = 0.0

    async def acquire(self, wanted: int, may_wait: Callable[[], bool]) -> Permit | None:
        """A permit for up to `wanted` claims, as soon as there is one. None once `may_wait` says no, or after a pause.

        Raises DatabaseUnavailableError or DatabaseRefusedError when DB1 cannot be asked: nothing is sent on a guess.
        """
        started = self._clock()
        while True:
            share, size = self.throttle.share, min(wanted, self.batch_size)
            if not self._limited:
                return self._permit(TokenLease(self._clock, started, TokenAnswer(None, size, 0.0, None)), size)
            # A worker whose ledger is beyond its budget takes more tokens for each claim: so the rate falls as well.
            asked_at = self._clock()
            answer = await self._bucket.lease_tokens(min(_MOST_TOKENS, max(1, int(size / share))))
            tokens = TokenLease(self._clock, asked_at, answer)
            if answer.granted > 0 and tokens.is_valid():
                self._waited_seconds += self._clock() - started
                self._metrics.rate_limit_wait.inc(self._clock() - started)
                return self._permit(tokens, min(size, max(1, int(answer.granted * share))))
            if self._paused or not may_wait():
                return None
            await self._sleep(pause_for(answer, self._uniform))

    def _permit(self, tokens: TokenLease, size: int) -> Permit:
        self._metrics.permitted.inc(size)
        return Permit(self._bucket, self._clock, self.throttle, tokens, size)
