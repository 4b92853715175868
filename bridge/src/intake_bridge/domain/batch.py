"""What was read together, and what the answers say of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from intake_bridge.domain.lease import Lease
from intake_bridge.domain.message import Message, Messages
from intake_bridge.domain.outcomes import Outcome, Result


@dataclass(slots=True)
class Batch:
    """Leased messages; `open` is what has no end yet and is ours to give back."""

    lease: Lease
    max_retries: int
    open: dict[int, Message]
    ends: Counter[str] = field(default_factory=Counter)

    def ends_by(self, message: Message, outcome: Outcome) -> bool:
        """Whether this failure, if it counts, is the last."""
        return outcome.result is not Result.RETRY or message.failures + 1 > self.max_retries


def by_result(messages: Messages, outcomes: Mapping[int, Outcome]) -> dict[Result, list[tuple[Message, Outcome]]]:
    """The messages that were answered, by what becomes of them."""
    groups: dict[Result, list[tuple[Message, Outcome]]] = {}
    for message in messages:
        if (outcome := outcomes.get(message.msg_id)) is not None:
            groups.setdefault(outcome.result, []).append((message, outcome))
    return groups
