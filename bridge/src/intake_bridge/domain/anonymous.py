"""Takes what belongs to a claim's people out of a dependency's text: the one place for logs, conditions and DB1.

A constraint's error quotes the value that it refuses, and a webhook may say in its reason what it was sent. So every
text of a dependency about claims goes through `told`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from intake_shared.redaction import writable

from intake_bridge.domain.message import Messages
from intake_bridge.domain.outcomes import Outcome

_GONE: Final = "\N{HORIZONTAL ELLIPSIS}"
# In JSON: a string without its quotes, or a number.
_TOKEN: Final = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"|(-?\d[0-9.eE+-]*)', re.DOTALL)
# Shorter ones are found as whole words only: an "a" is in every text, and says nothing about anybody.
_SHORT: Final = 4
# Shorter numbers are quantities and years. A card, a telephone or an order is longer.
_SHORT_NUMBER: Final = 6
_LONG_NUMBER: Final = 8
# More than this of a text is not looked at: nobody reads it, and each string is looked for in it.
_LONGEST: Final = 20_000
_MOST_TOLD: Final = 350


def anonymous(text: str, messages: Messages, *answers: str) -> str:
    """The text without user ids, request ids, and every string of payloads, validations and `answers` (JSON).

    All are marked first and removed then, so that one that is part of another leaves no rest of it.
    """
    marked = bytearray(len(text))
    for message in messages:
        for name in (message.user_id, message.request_id):
            if name and name in text:
                _mark(marked, re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    for found in _strings(messages, answers):
        if found in text:
            whole = len(found) < (_LONG_NUMBER if found.isdecimal() else _SHORT)
            pattern = rf"(?<!\w){re.escape(found)}(?!\w)" if whole else re.escape(found)
            _mark(marked, re.finditer(pattern, text))
    if not any(marked):
        return text
    return re.sub("\1+", _GONE, "".join("\1" if gone else c for c, gone in zip(text, marked, strict=True)))


def told(text: str, messages: Messages, *answers: str, most: int = _MOST_TOLD) -> str:
    """What a dependency says about these claims, as it may be shown: anonymous, without credentials, one line.

    It is cut last: of a string that is cut nobody could tell whose it is.
    """
    shown = anonymous(text[:_LONGEST], messages, *answers)
    if len(text) > _LONGEST:
        shown = shown.rpartition(_GONE)[0] + _GONE if _GONE in shown else shown
    return " ".join(writable(shown).split())[:most]


def reported(outcome: Outcome, messages: Messages, *answers: str) -> Outcome:
    """The outcome with its reason as it may be shown."""
    if outcome.reason is None:
        return outcome
    return replace(outcome, reason=told(outcome.reason, messages, *answers) or None)


def _strings(messages: Messages, answers: tuple[str, ...]) -> Iterator[str]:
    texts = [text for each in messages for text in (each.payload, each.validation) if text is not None]
    for text in (*texts, *answers):
        for string, number in _TOKEN.findall(text):
            if string:
                yield string
                if "\\" in string:
                    yield json.loads(f'"{string}"', strict=False)
            elif len(number) >= _SHORT_NUMBER:
                yield number


def _mark(marked: bytearray, matches: Iterator[re.Match[str]]) -> None:
    for match in matches:
        marked[match.start() : match.end()] = b"\1" * (match.end() - match.start())
