"""A ledger behind a webhook: one call for each claim. It cannot be fenced, so `committing` is marked first."""

from dataclasses import replace

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.webhook import CallRules, WebhookCalls
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.answers import Answers, receipt_of
from intake_bridge.domain.concurrency_limit import ConcurrencyLimit
from intake_bridge.domain.config import CommitWebhook
from intake_bridge.domain.health import Offer
from intake_bridge.domain.message import Messages
from intake_bridge.ports import Gate, Http


class WebhookLedger:
    """The commit webhook as a ledger."""

    needs_mark = True
    offers = (Offer.OUTCOMES, Offer.RECEIPTS)

    def __init__(self, http: Http, webhook: CommitWebhook, credentials: Credentials, limit: ConcurrencyLimit) -> None:
        self._credentials = credentials
        rules = CallRules(
            url=webhook.url,
            timeout_seconds=webhook.timeout_seconds,
            step="commit",
            field="outcome",
            words=table.COMMIT_WORDS,
            statuses=table.COMMIT_STATUS,
            addition="receipt",
            read=receipt_of,
        )
        self._calls = WebhookCalls(http, rules, credentials, limit)

    async def check(self) -> None:
        """Read token, signing secrets and authorities again. More cannot be checked without sending a claim."""
        await self._credentials.refresh()

    async def commit(self, messages: Messages, gate: Gate) -> Answers:
        return await self._calls.call_each(messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Answers:  # noqa: ARG002 - the port's
        """No call: only claims that are not marked `committing` come here, so none was sent, and none will be."""
        voided = replace(table.LEDGER_WORDS["voided"], kind=table.DECIDED_BY_BRIDGE)
        return Answers({message.msg_id: voided for message in messages})

    async def close(self) -> None:
        return  # the registry closes the client
