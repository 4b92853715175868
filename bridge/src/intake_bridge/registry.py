"""From configuration to dependencies: they are made anew only when their part of the configuration changes."""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from intake_bridge.adapters.credentials import Credentials, Source, ledger_certificates
from intake_bridge.adapters.http import HttpClient
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.adapters.ledger_webhook import WebhookLedger
from intake_bridge.adapters.validator_webhook import NoValidator, WebhookValidator
from intake_bridge.domain.answers import Answers
from intake_bridge.domain.breaker import Breaker, BreakerTuning, Circuit
from intake_bridge.domain.common_failure import CommonFailure
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import CommitTarget, Configuration, Webhook
from intake_bridge.domain.dependency import Dependency
from intake_bridge.domain.health import DependencyHealth, HealthState, WorkerHealth, attempts
from intake_bridge.domain.last_minute import LastMinute
from intake_bridge.ports import Dependencies, DependencyDownError, Http, Ledger, Validator
from intake_bridge.settings import MissingSettingError, Secrets

log = logging.getLogger(__name__)


class NoLedger:
    """The ledger of an event without spec.commitTarget: it is down, so all claims wait."""

    needs_mark = False
    offers = ()

    async def check(self) -> None:
        raise DependencyDownError("no commit target is configured")

    async def commit(self, *_: object) -> Answers:
        return Answers()

    async def void(self, *_: object) -> Answers:
        return Answers()

    async def close(self) -> None:
        return


class DependencyRegistry:
    """The dependencies of the current configuration, and their breakers.

    A changed dependency starts with a closed breaker: the change may be the fix.
    """

    def __init__(
        self,
        secrets: Secrets,
        application_name: str,
        clock: Callable[[], float],
        tuning: BreakerTuning,
        traced: Callable[[Http], Http],
    ) -> None:
        self._secrets = secrets
        self._application_name = application_name
        self._clock = clock
        self._tuning = tuning
        self._traced = traced
        self._made_for: tuple[Webhook | None, CommitTarget | None] | None = None
        self._clients: list[HttpClient] = []
        self._limits: dict[str, ConcurrencyLimit] = {}
        self._dependencies: Dependencies | None = None
        self._checked = False
        self._failed_checks: set[str] = set()

    @property
    def dependencies(self) -> Dependencies | None:
        """The dependencies of the last configuration; None before the first."""
        return self._dependencies

    @property
    def concurrency_limits(self) -> Mapping[str, int]:
        """Calls that may be under way now, by step; only for webhooks."""
        return {step: limit.calls for step, limit in self._limits.items()}

    async def follow(self, configuration: Configuration) -> Dependencies:
        """The dependencies of this configuration, each checked."""
        wanted = (configuration.validation, configuration.commit_target)
        if self._dependencies is None or wanted != self._made_for:
            await self.close()
            ledger = self._breaker()
            self._dependencies = Dependencies(
                validator=self._validator(configuration.validation),
                validation=self._dependency("validate", self._breaker()),
                ledger=self._ledger(configuration.commit_target),
                commitment=self._dependency("commit", ledger),
                voiding=self._dependency("void", ledger),
            )
            self._made_for = wanted
            self._checked = False
            self._failed_checks.clear()
        dependencies = self._dependencies
        await self._check("validator", dependencies.validation.breaker, dependencies.validator.check)
        await self._check("ledger", dependencies.commitment.breaker, dependencies.ledger.check)
        self._checked = True
        return dependencies

    def health(self) -> WorkerHealth:
        """For the heartbeat. Empty before the first check: `ok` would be a guess."""
        known = self._dependencies
        if known is None or not self._checked:
            return WorkerHealth()
        ledger = _health(known.commitment, known.voiding)
        if ledger.state is HealthState.OK:
            ledger = ledger.model_copy(update={"offers": tuple(known.ledger.offers)})
        return WorkerHealth(
            validator=_health(known.validation),
            ledger=ledger,
            validations=attempts(known.validation.last_minute),
            commits=attempts(known.commitment.last_minute),
            voids=attempts(known.voiding.last_minute),
        )

    async def close(self) -> None:
        """Close the connections of the dependencies."""
        dependencies, self._dependencies = self._dependencies, None
        if dependencies is not None:
            await dependencies.ledger.close()
        for client in self._clients:
            await client.close()
        self._clients.clear()
        self._limits.clear()

    async def _check(self, name: str, breaker: Breaker, check: Callable[[], Awaitable[None]]) -> None:
        if breaker.circuit is Circuit.OPEN:
            return
        try:
            await check()
        except (DependencyDownError, MissingSettingError) as error:
            if breaker.error != str(error):
                log.warning("%s cannot be used, nothing is read for it: %s", name, error)
            self._failed_checks.add(name)
            # The breaker may be half open by the time of the read. Without a new check that is no reason to read.
            breaker.record_failed_check(str(error))
        else:
            # A successful check closes the breaker only if a check has opened it; else a call has to succeed.
            if name in self._failed_checks:
                log.info("%s can be used again", name)
                self._failed_checks.remove(name)
                breaker.record_success()

    def _validator(self, webhook: Webhook | None) -> Validator:
        if webhook is None:
            return NoValidator()
        limit = self._limits["validate"] = ConcurrencyLimit(webhook.timeout_seconds)
        return WebhookValidator(self._client(), webhook, self._credentials("INTAKE_VALIDATION"), limit)

    def _ledger(self, target: CommitTarget | None) -> Ledger:
        if target is None:
            return NoLedger()
        if target.webhook is not None:
            limit = self._limits["commit"] = ConcurrencyLimit(target.webhook.timeout_seconds)
            return WebhookLedger(self._client(), target.webhook, self._credentials("INTAKE_COMMIT"), limit)
        assert target.postgres is not None
        return PostgresLedger(
            target.postgres.function,
            lambda: self._secrets.required("INTAKE_LEDGER_URI"),
            self._application_name,
            certificates=lambda: ledger_certificates(self._source("INTAKE_LEDGER")),
        )

    def _credentials(self, prefix: str) -> Credentials:
        return Credentials(self._source(prefix), time.time)

    def _source(self, prefix: str) -> Source:
        return lambda part: self._secrets.optional(f"{prefix}_{part}")

    def _client(self) -> Http:
        client = HttpClient()
        self._clients.append(client)
        return self._traced(client)

    def _breaker(self) -> Breaker:
        return Breaker(self._clock, random.uniform, self._tuning)

    def _dependency(self, step: str, breaker: Breaker) -> Dependency:
        common_failure = CommonFailure(self._clock, random.uniform, self._tuning)
        return Dependency(step, breaker, common_failure, LastMinute(self._clock))


def _health(*dependencies: Dependency) -> DependencyHealth:
    error = next((dependency.error for dependency in dependencies if dependency.error is not None), None)
    return DependencyHealth(state=HealthState.OK if error is None else HealthState.DOWN, error=error)
