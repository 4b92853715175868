"""The validation webhook, with one claim or a whole batch in a call; and no webhook at all."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.webhook import CallRules, WebhookCalls, compact, finish, parse
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.claim_specific import ClaimSpecificFailures
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import Webhook
from intake_bridge.domain.message import Messages, anonymous
from intake_bridge.domain.outcomes import Outcome, Transport
from intake_bridge.ports import Gate, Http, HttpError, HttpReply


class NoValidator:
    """The validator of an event without spec.validation: every claim is approved."""

    async def check(self) -> None:
        return

    async def validate(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:  # noqa: ARG002 - the port's
        return {message.msg_id: table.DECISIONS["approved"] for message in messages}


class WebhookValidator:
    """Asks the webhook about each claim, or about the batch."""

    def __init__(self, http: Http, webhook: Webhook, credentials: Credentials, limit: ConcurrencyLimit) -> None:
        self._http = http
        self._webhook = webhook
        self._credentials = credentials
        single = CallRules(
            webhook.url, webhook.timeout_seconds, "validate", "decision", table.DECISIONS, table.VALIDATE_STATUS
        )
        self._calls = WebhookCalls(http, single, credentials, limit)
        self._claim_specific = ClaimSpecificFailures()

    async def check(self) -> None:
        """Read token, signing secrets and authorities again. They may have been rotated."""
        await self._credentials.refresh()

    async def validate(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        if not self._webhook.batch:
            return await self._calls.call_each(messages, gate)
        admitted = [message for message in messages if gate.may_start(message)]
        return await self._batch(admitted, gate) if admitted else {}

    async def _batch(self, messages: Messages, gate: Gate) -> dict[int, Outcome]:
        body = compact({"items": [message.payload() for message in messages]}).encode()
        claims = ",".join(str(message.claim_id) for message in messages)
        key = f"{hashlib.sha256(claims.encode()).hexdigest()}:validate"
        try:
            headers = self._credentials.headers(key, body)
            reply = await self._http.post(
                self._webhook.url, body, headers, self._webhook.timeout_seconds, self._credentials.tls
            )
        except HttpError as error:
            whole = table.of_transport(error.kind, str(error))
            outcomes = dict.fromkeys((message.msg_id for message in messages), whole)
            # Without a connection, or for a batch of several, the error is not about one claim.
            about_claims = len(messages) == 1 and error.kind is not Transport.UNREACHABLE
        else:
            outcomes, about_claims = _decided(reply, messages)
        now = asyncio.get_running_loop().time()
        for message in messages:
            outcome = outcomes[message.msg_id]
            if about_claims:
                outcome = self._claim_specific.classify(message.claim_id, outcome, now)
            reason = anonymous(outcome.reason or "", [message] if about_claims else messages) or None
            outcomes[message.msg_id] = replace(outcome, reason=reason, at=now)
            # Once for each claim: a batch that fails as a whole is as much evidence as that many calls.
            gate.record(outcomes[message.msg_id])
        return outcomes


def _decided(reply: HttpReply, messages: Messages) -> tuple[dict[int, Outcome], bool]:
    """The outcomes by msg_id; and whether they are about each claim, or about the batch as a whole."""
    answer = parse(reply)
    items = answer.get("items")
    if not 200 <= reply.status < 300 or not isinstance(items, list):
        whole = finish(table.of_status(reply.status, None, table.DECISIONS, table.BATCH_STATUS), reply, answer)
        return dict.fromkeys((message.msg_id for message in messages), whole), len(messages) == 1
    by_claim: dict[str, dict[str, Any]] = {
        item["claim_id"]: item for item in items if isinstance(item, dict) and isinstance(item.get("claim_id"), str)
    }
    outcomes: dict[int, Outcome] = {}
    for message in messages:
        item = by_claim.get(str(message.claim_id))
        outcomes[message.msg_id] = (
            table.left_out("the validation webhook")
            if item is None
            else finish(table.of_status(reply.status, item.get("decision"), table.DECISIONS, {}), reply, item)
        )
    return outcomes, True
