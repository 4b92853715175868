"""A ledger behind an HTTP webhook: one call for each claim. It cannot be fenced, so `committing` is marked first."""

from collections.abc import Mapping
from dataclasses import replace

from intake_bridge.adapters.credentials import Credentials
from intake_bridge.adapters.webhook import Caller, Contract
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.config import CommitWebhook
from intake_bridge.domain.message import Messages
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.domain.window import Window
from intake_bridge.ports import Gate, Http, Offer


class WebhookLedger:
    """The commit webhook as a ledger."""

    needs_mark = True
    offers = (Offer.OUTCOMES,)

    def __init__(self, http: Http, webhook: CommitWebhook, credentials: Credentials, window: Window) -> None:
        self._credentials = credentials
        contract = Contract(
            webhook.url, webhook.timeout_seconds, "commit", "outcome", table.COMMIT_WORDS, table.COMMIT_STATUS
        )
        self._caller = Caller(http, contract, credentials, window)

    async def check(self) -> None:
        """Read token, keys and authority again. More cannot be known without sending a claim."""
        await self._credentials.refresh()

    async def commit(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        """Send each claim."""
        return await self._caller.call_each(messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:  # noqa: ARG002 - the port's
        """Only claims not marked `committing` come here, and the mark is fenced: nothing was sent, nothing will be."""
        ours = replace(table.LEDGER_WORDS["voided"], kind=table.OURS)
        return {message.msg_id: ours for message in messages}

    async def close(self) -> None:
        """Nothing to close: the client belongs to whoever made it."""
