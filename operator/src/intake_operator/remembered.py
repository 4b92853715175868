"""Remembers the latest answer about each event: a pass asks again when it is too old, or when the question changes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta


@dataclass(frozen=True)
class _Entry[Q, A]:
    question: Q
    answer: A
    due_at: float


class Remembered[Q, A]:
    """Keeps one answer for each event, by the event's uid. `clock` answers seconds that never go back.

    An answer counts for as long as the caller says, and only for its own question:

        if known := addresses.fresh(uid, host):
            return known
        return addresses.keep(uid, host, await resolve(host), timedelta(minutes=1))
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry[Q, A]] = {}

    def is_due(self, uid: str, question: Q) -> bool:
        """Whether to ask: nothing was asked yet, or something else, or the answer is too old."""
        entry = self._entries.get(uid)
        return entry is None or entry.question != question or self._clock() >= entry.due_at

    def fresh(self, uid: str, question: Q) -> A | None:
        """The answer while it counts for this question; None when it is time to ask."""
        return None if self.is_due(uid, question) else self.latest(uid)

    def latest(self, uid: str) -> A | None:
        """The latest answer, however old; None before the first."""
        entry = self._entries.get(uid)
        return entry.answer if entry else None

    def latest_to(self, uid: str, question: Q) -> A | None:
        """The latest answer to this question, however old; None before the first."""
        entry = self._entries.get(uid)
        return entry.answer if entry and entry.question == question else None

    def keep(self, uid: str, question: Q, answer: A, lasts: timedelta) -> A:
        """Record an answer that counts for `lasts` from now; returns it."""
        self._entries[uid] = _Entry(question, answer, self._clock() + lasts.total_seconds())
        return answer

    def revise(self, uid: str, answer: A, lasts: timedelta) -> None:
        """Record another answer to the latest question; nothing happens before the first one."""
        if entry := self._entries.get(uid):
            self._entries[uid] = replace(entry, answer=answer, due_at=self._clock() + lasts.total_seconds())

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._entries.pop(uid, None)
