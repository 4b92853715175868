"""How claims get from a batch to the ledger: in portions that the fleet's meter and the closed loop let through."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from intake_bridge.domain.backoff import Uniform
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.meter import Appetite, Grant, Monotonic, TokenAnswer, pause_for
from intake_bridge.domain.outcomes import Blame, Outcome
from intake_bridge.domain.throttle import Throttle
from intake_bridge.observability.metrics import Metrics
from intake_bridge.ports import DatabaseRefusedError, DatabaseUnavailableError, Meter

log = logging.getLogger(__name__)

# The most that `intake.lease_tokens` takes.
_MOST_TOKENS = 10_000

type Sleep = Callable[[float], Awaitable[object]]


class Passage:
    """Leave for one portion. `async with` it around the calls: it is kept alive meanwhile, and settled after them."""

    def __init__(self, meter: Meter, clock: Monotonic, throttle: Throttle, grant: Grant, size: int) -> None:
        self._meter = meter
        self._clock = clock
        self._throttle = throttle
        self._grant = grant
        self._unended = 0
        self._keeper: asyncio.Task[None] | None = None
        self.size = size

    async def __aenter__(self) -> Self:
        if self._grant.renew_every is not None:
            self._keeper = asyncio.create_task(self._keep(self._grant.renew_every))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        # After an error nobody knows whether a call is still out: the lease then ends by itself.
        if error is None and self._grant.lease is not None and self._grant.stands():
            try:
                await self._meter.return_tokens(self._grant.lease, self._grant.tokens - self._unended)
            except (DatabaseUnavailableError, DatabaseRefusedError) as refusal:
                log.warning("tokens are not settled and will run out: %s", refusal)

    def stands(self) -> bool:
        """Whether a call may start now: asked right before each."""
        return self._grant.stands()

    def told(self, outcome: Outcome, seconds: float) -> None:
        """A call has ended after so many seconds, or was given up."""
        self._throttle.called(seconds, failed=outcome.blame is not Blame.CLAIM)

    def answered(self, outcomes: Iterable[Outcome]) -> None:
        """What became of the claims: the tokens of calls that may still be going on are not settled."""
        self._unended = sum(outcome.lingers for outcome in outcomes)

    async def _keep(self, every: float) -> None:
        assert self._grant.lease is not None
        while True:
            await asyncio.sleep(every)
            asked_at = self._clock()
            try:
                if await self._meter.return_tokens(self._grant.lease, 0):
                    self._grant.renewed(asked_at)
                else:
                    self._grant.lost()
            except (DatabaseUnavailableError, DatabaseRefusedError) as error:
                log.warning("tokens are not renewed: %s", error)


class Metering:
    """The way to the ledger, as wide as `maxPerSecond`, `batchSize` and the ledger's health make it.

    I10, for the claims that all workers of a pool send, by DB1's clock and for the instants at which the ledger acts on
    them: in any window at most maxPerSecond x window + capacity (sql/intake/0016_rate_limit.sql). Tokens are leased
    right before a call, once for each claim: a statement that the ledger rolled back costs no more when it is sent in
    halves. What is not covered: a call that the ledger still works on when its worker has been dead or cut off from
    DB1 for longer than a lease (1 s), or that leaves a worker which was frozen for as long between its last look at the
    clock and the call: one portion for each such worker.
    """

    def __init__(
        self,
        meter: Meter,
        clock: Monotonic,
        throttle: Throttle,
        metrics: Metrics,
        uniform: Uniform = random.uniform,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._uniform = uniform
        self._sleep = sleep
        self._metrics = metrics
        self._metered = False
        self._paused = False
        self._appetite = Appetite()
        self._waited = 0.0
        self.throttle = throttle

    def follow(self, configuration: Configuration) -> None:
        """The human's numbers; acts on a batch that is waiting, too."""
        self._metered = configuration.max_per_second is not None
        self._paused = configuration.paused
        self.throttle.follow(configuration.batch_size, configuration.latency_budget_milliseconds / 1000)

    @property
    def unhindered(self) -> bool:
        """Whether neither a meter nor a ledger beyond its budget stands in the way."""
        return not self._metered and self.throttle.share >= 1

    @property
    def batch(self) -> int:
        """The batch size that is acted upon."""
        return self.throttle.batch

    def read_limit(self) -> int:
        """How many messages to read for the next batch."""
        return self._appetite.limit(self.batch) if self._metered else self.batch

    def batch_ended(self, read: int) -> None:
        """What was read has been sent or given back."""
        if self._metered:
            self._appetite.fed(read, self._waited)
        self._waited = 0.0

    async def passage(self, wanted: int, may_wait: Callable[[], bool]) -> Passage | None:
        """Leave for up to `wanted` claims, as soon as there is any. None once waiting is no longer wanted.

        Raises what the port raises when DB1 cannot be asked: nothing is sent on a guess.
        """
        started = self._clock()
        while True:
            share, size = self.throttle.share, min(wanted, self.batch)
            if not self._metered:
                return self._open(Grant(self._clock, started, TokenAnswer(None, size, 0.0, None)), size)
            # A worker whose ledger is out of its budget pays more for each claim: so the rate falls with the share.
            asked_at = self._clock()
            answer = await self._meter.lease_tokens(min(_MOST_TOKENS, max(1, int(size / share))))
            grant = Grant(self._clock, asked_at, answer)
            if answer.granted > 0 and grant.stands():
                self._waited += self._clock() - started
                self._metrics.meter_wait.inc(self._clock() - started)
                return self._open(grant, min(size, max(1, int(answer.granted * share))))
            if self._paused or not may_wait():
                return None
            await self._sleep(pause_for(answer, self._uniform))

    def _open(self, grant: Grant, size: int) -> Passage:
        self._metrics.metered.inc(size)
        return Passage(self._meter, self._clock, self.throttle, grant, size)
