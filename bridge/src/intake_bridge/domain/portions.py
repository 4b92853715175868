"""How many claims one call carries: as many as come, but not more than so many bytes."""

from collections.abc import Iterator, Sequence
from typing import Final

from intake_bridge.domain.message import Message

# A batch of 500 with payloads of 64 KiB has 32 MB. That is what a server would parse in one call of one session, and
# what is sent again, in halves, when one row is refused. A batch of 4000 claims without a payload is one call still.
# 4 MiB is also what is read of an answer; proxies and frameworks before a webhook often take less, and say 413.
MOST_BYTES: Final = 4 * 1024 * 1024

type Written = tuple[Message, str]
"""A claim, and its text."""


def in_portions(claims: Sequence[Written], most: int = MOST_BYTES) -> Iterator[Sequence[Written]]:
    """The claims, in their order, in portions of at most so many bytes. A claim that is larger alone goes alone."""
    sizes = [len(text) if text.isascii() else len(text.encode()) for _, text in claims]
    if sum(sizes) <= most:
        if claims:
            yield claims
        return
    first = total = 0
    for number, size in enumerate(sizes):
        if number > first and total + size > most:
            yield claims[first:number]
            first, total = number, 0
        total += size
    yield claims[first:]
