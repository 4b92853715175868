"""A ledger behind an HTTP webhook: one call for each claim. It cannot be fenced, so `committing` is marked first."""

from collections.abc import Mapping

from intake_bridge.adapters.webhook import Contract, Token, call_each
from intake_bridge.domain import outcomes as table
from intake_bridge.domain.config import CommitWebhook
from intake_bridge.domain.message import Messages
from intake_bridge.domain.outcomes import Outcome
from intake_bridge.ports import Gate, Http


class WebhookLedger:
    """The commit webhook as a ledger."""

    needs_mark = True

    def __init__(self, http: Http, webhook: CommitWebhook, token: Token) -> None:
        self._http = http
        self._token = token
        self._contract = Contract(
            webhook.url, webhook.timeout_seconds, "commit", "outcome", table.COMMIT_WORDS, table.COMMIT_STATUS
        )

    async def check(self) -> None:
        """Nothing can be known without sending a claim."""

    async def commit(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:
        """Send each claim."""
        return await call_each(self._http, self._contract, self._token, messages, gate)

    async def void(self, messages: Messages, gate: Gate) -> Mapping[int, Outcome]:  # noqa: ARG002 - the port's
        """Only claims not marked `committing` come here, and the mark is fenced: nothing was sent, nothing will be."""
        return {message.msg_id: table.LEDGER_WORDS["voided"] for message in messages}

    async def close(self) -> None:
        """Nothing to close: the client belongs to whoever made it."""
