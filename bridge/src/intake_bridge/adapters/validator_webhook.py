"""The validation webhook, with one claim or a whole batch in a call; and no webhook at all."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.webhook import CallRules, WebhookCalls, finish, parse, understood
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.anonymous import reported
from intake_bridge.domain.answers import Addition, Answers, data_of
from intake_bridge.domain.claim_specific import ClaimSpecificFailures
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import Webhook
from intake_bridge.domain.message import Messages
from intake_bridge.domain.outcomes import Outcome, Transport
from intake_bridge.domain.portions import Written, in_portions
from intake_bridge.ports import Gate, Http, HttpError, HttpReply


class NoValidator:
    """The validator of an event without spec.validation: every claim is approved."""

    async def check(self) -> None:
        return

    async def validate(self, messages: Messages, gate: Gate) -> Answers:  # noqa: ARG002 - the port's
        return Answers({message.msg_id: table.DECISIONS["approved"] for message in messages})


class WebhookValidator:
    """Asks the webhook about each claim, or about the batch."""

    def __init__(self, http: Http, webhook: Webhook, credentials: Credentials, limit: ConcurrencyLimit) -> None:
        self._http = http
        self._webhook = webhook
        self._credentials = credentials
        self._rules = CallRules(
            url=webhook.url,
            timeout_seconds=webhook.timeout_seconds,
            step="validate",
            field="decision",
            words=table.DECISIONS,
            statuses=table.VALIDATE_STATUS,
            addition="data",
            read=data_of,
        )
        self._calls = WebhookCalls(http, self._rules, credentials, limit)
        self._claim_specific = ClaimSpecificFailures()

    async def check(self) -> None:
        """Read token, signing secrets and authorities again. They may have been rotated."""
        await self._credentials.refresh()

    async def validate(self, messages: Messages, gate: Gate) -> Answers:
        if not self._webhook.batch:
            return await self._calls.call_each(messages, gate)
        answers = Answers()
        for portion in in_portions([(message, message.as_text()) for message in messages]):
            admitted = [claim for claim in portion if gate.may_start(claim[0])]
            if admitted:
                answers |= await self._batch(admitted, gate)
        return answers

    async def _batch(self, claims: Sequence[Written], gate: Gate) -> Answers:
        messages = [message for message, _ in claims]
        body = f'{{"items": [{",".join(text for _, text in claims)}]}}'.encode()
        names = ",".join(str(message.claim_id) for message in messages)
        key = f"{hashlib.sha256(names.encode()).hexdigest()}:validate"
        additions: dict[int, Addition] = {}
        try:
            headers = self._credentials.headers(key, body)
            reply = await self._http.post(
                self._webhook.url, body, headers, self._webhook.timeout_seconds, self._credentials.tls
            )
        except HttpError as error:
            whole = reported(table.of_transport(error.kind, str(error)), messages)
            outcomes = dict.fromkeys((message.msg_id for message in messages), whole)
            # Without a connection, or for a batch of several, the error is not about one claim.
            about_claims = len(messages) == 1 and error.kind is not Transport.UNREACHABLE
        else:
            answer = parse(reply)
            items = answer.get("items")
            if about_claims := 200 <= reply.status < 300 and isinstance(items, list):
                outcomes, additions = self._decided(reply, items, messages)
            else:
                whole = finish(table.of_status(reply.status, None, table.DECISIONS, table.BATCH_STATUS), reply, answer)
                outcomes = dict.fromkeys((message.msg_id for message in messages), reported(whole, messages))
                about_claims = len(messages) == 1
        now = asyncio.get_running_loop().time()
        for message in messages:
            outcome = outcomes[message.msg_id]
            if about_claims:
                outcome = self._claim_specific.classify(message.claim_id, outcome, now)
            outcomes[message.msg_id] = replace(outcome, at=now)
            # Once for each claim: a batch that fails as a whole is as much evidence as that many calls.
            gate.record(outcomes[message.msg_id])
        return Answers(outcomes, additions)

    def _decided(
        self, reply: HttpReply, items: list[Any], messages: Messages
    ) -> tuple[dict[int, Outcome], dict[int, Addition]]:
        """The outcomes and what is added, by msg_id."""
        by_claim: dict[str, dict[str, Any]] = {
            item["claim_id"]: item for item in items if isinstance(item, dict) and isinstance(item.get("claim_id"), str)
        }
        outcomes: dict[int, Outcome] = {}
        additions: dict[int, Addition] = {}
        for message in messages:
            item = by_claim.get(str(message.claim_id))
            if item is None:
                outcomes[message.msg_id] = table.left_out("the validation webhook")
                continue
            outcomes[message.msg_id], addition = understood(reply, item, self._rules, message)
            if addition is not None:
                additions[message.msg_id] = addition
        return outcomes, additions
