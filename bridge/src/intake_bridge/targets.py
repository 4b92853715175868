"""From configuration to targets: made anew only when their part of the configuration changes."""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.http import HttpClient
from intake_bridge.adapters.ledger_postgres import PostgresLedger
from intake_bridge.adapters.ledger_webhook import WebhookLedger
from intake_bridge.adapters.validator_webhook import NoValidator, WebhookValidator
from intake_bridge.domain.breaker import Breaker, BreakerTuning, Circuit
from intake_bridge.domain.config import CommitTarget, Configuration, Webhook
from intake_bridge.domain.target import Target
from intake_bridge.domain.trial import Trial
from intake_bridge.domain.window import Window
from intake_bridge.pipeline import Targets
from intake_bridge.ports import Http, Ledger, TargetDownError, Validator
from intake_bridge.settings import MissingSettingError, Secrets

log = logging.getLogger(__name__)


class NoLedger:
    """No commit target, or none that can be built: everything waits."""

    needs_mark = False
    offers = ()

    def __init__(self, why: str) -> None:
        self._why = why

    async def check(self) -> None:
        """Say why."""
        raise TargetDownError(self._why)

    async def commit(self, *_: object) -> dict[int, Any]:
        """Nothing is ever sent."""
        return {}

    async def void(self, *_: object) -> dict[int, Any]:
        """Nothing is ever sent."""
        return {}

    async def close(self) -> None:
        """Nothing to close."""


class TargetBoard:
    """The targets of this moment and their breakers. A changed target starts closed: it may be mended."""

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
        self._wanted: tuple[Webhook | None, CommitTarget | None] | None = None
        self._clients: list[HttpClient] = []
        self._windows: dict[str, Window] = {}
        self._targets: Targets | None = None
        self._checked = False
        self._failed_checks: set[str] = set()

    @property
    def targets(self) -> Targets | None:
        """What the last configuration led to; None before the first."""
        return self._targets

    async def follow(self, configuration: Configuration) -> Targets:
        """The targets of this configuration, looked at."""
        wanted = (configuration.validation, configuration.commit_target)
        if self._targets is None or wanted != self._wanted:
            await self.close()
            ledger = self._breaker()
            self._targets = Targets(
                validator=self._validator(configuration.validation),
                validation=Target("validate", self._breaker(), self._trial()),
                ledger=self._ledger(configuration.commit_target),
                commitment=Target("commit", ledger, self._trial()),
                voiding=Target("void", ledger, self._trial()),
            )
            self._wanted = wanted
            self._checked = False
            self._failed_checks.clear()
        targets = self._targets
        await self._check("validator", targets.validation.breaker, targets.validator.check)
        await self._check("ledger", targets.commitment.breaker, targets.ledger.check)
        self._checked = True
        return targets

    @property
    def windows(self) -> Mapping[str, int]:
        """Calls that may go side by side now, by step; only for webhooks."""
        return {step: window.size for step, window in self._windows.items()}

    def health(self) -> dict[str, dict[str, Any]]:
        """For `report_worker`: the words become conditions of the event."""
        if self._targets is None or not self._checked:
            return {}  # no word before the first look: `ok` would be a guess
        ledger = _health(self._targets.commitment, self._targets.voiding)
        if ledger["state"] == "ok":
            ledger["offers"] = list(self._targets.ledger.offers)
        return {"validator": _health(self._targets.validation), "ledger": ledger}

    async def close(self) -> None:
        """Close what the targets hold open."""
        targets, self._targets = self._targets, None
        if targets is not None:
            await targets.ledger.close()
        for client in self._clients:
            await client.close()
        self._clients.clear()
        self._windows.clear()

    async def _check(self, name: str, breaker: Breaker, check: Callable[[], Awaitable[None]]) -> None:
        if breaker.circuit is Circuit.OPEN:
            return
        try:
            await check()
        except (TargetDownError, MissingSettingError) as error:
            if breaker.error != str(error):
                log.warning("%s: %s", name, error)
            self._failed_checks.add(name)
            # The breaker may be half open by the time of the read: without a new look, that is no reason to read.
            breaker.unfit(str(error))
        else:
            # What a check has found, a check may withdraw; what a call has found, only a call.
            if name in self._failed_checks:
                log.info("%s: well again", name)
                self._failed_checks.remove(name)
                breaker.succeeded()

    def _validator(self, webhook: Webhook | None) -> Validator:
        if webhook is None:
            return NoValidator()
        window = self._windows["validate"] = Window(webhook.timeout_seconds)
        return WebhookValidator(self._client(), webhook, self._credentials("INTAKE_VALIDATION"), window)

    def _ledger(self, target: CommitTarget | None) -> Ledger:
        if target is None:
            return NoLedger("no commit target is configured")
        if target.webhook is not None:
            window = self._windows["commit"] = Window(target.webhook.timeout_seconds)
            return WebhookLedger(self._client(), target.webhook, self._credentials("INTAKE_COMMIT"), window)
        assert target.postgres is not None
        return PostgresLedger(
            target.postgres.function, lambda: self._secrets.required("INTAKE_LEDGER_URI"), self._application_name
        )

    def _credentials(self, prefix: str) -> Credentials:
        return Credentials(lambda part: self._secrets.optional(f"{prefix}_{part}"), time.time)

    def _client(self) -> Http:
        client = HttpClient()
        self._clients.append(client)
        return self._traced(client)

    def _breaker(self) -> Breaker:
        return Breaker(self._clock, random.uniform, self._tuning)

    def _trial(self) -> Trial:
        return Trial(self._clock, random.uniform, self._tuning)


def _health(*targets: Target) -> dict[str, Any]:
    error = next((target.error for target in targets if target.error is not None), None)
    return {"state": "ok"} if error is None else {"state": "down", "error": error}
