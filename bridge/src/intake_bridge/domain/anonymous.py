"""Takes what belongs to a claim's people out of a dependency's text: the one place for logs, conditions and DB1.

A constraint's error quotes the value that it refuses, and a webhook may say in its reason what it was sent. So every
text of a dependency about claims goes through `told`. Of an error of our own code only its place is told.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Final

from intake_shared.redaction import writable

from intake_bridge.domain.message import Messages
from intake_bridge.domain.outcomes import Outcome

_GONE: Final = "\N{HORIZONTAL ELLIPSIS}"
# In JSON: a string without its quotes, or what a card, a telephone or an order has as its number.
_STRING: Final = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_LONG_NUMBER: Final = re.compile(r"\d{6,}")
# JSON inside of a text, as most programs write it: a letter may be an escape.
_ESCAPES: Final = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
# Shorter ones are found as whole words only: an "a" is in every text, and does not tell one buyer from another.
_SHORT: Final = 4
# Characters of a text that are searched, once for each string; only _MOST_TOLD of them are shown.
_LONGEST: Final = 20_000
_MOST_TOLD: Final = 350
_PACKAGE: Final = Path(__file__).parents[1]


def anonymous(text: str, messages: Messages, *answers: str) -> str:
    """The text without user ids, request ids, and every string of payloads, validations and `answers` (JSON).

    Names of fields are strings, too: some are an e-mail address.

    All are marked first and removed then, so that one that is part of another leaves no rest of it.
    """
    text = _ESCAPES.sub(_letters, text)
    marked = bytearray(len(text))
    for message in messages:
        for name in (message.user_id, message.request_id):
            if name and name in text:
                _mark(marked, re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    for found in _strings(messages, answers):
        if found and found in text:
            whole_word = rf"(?<!\w){re.escape(found)}(?!\w)"
            _mark(marked, re.finditer(whole_word if len(found) < _SHORT else re.escape(found), text))
    if not any(marked):
        return text
    return re.sub("\1+", _GONE, "".join("\1" if gone else c for c, gone in zip(text, marked, strict=True)))


def told(text: str, messages: Messages, *answers: str, most: int = _MOST_TOLD) -> str:
    """What a dependency says about these claims, as it may be shown: anonymous, without credentials, one line.

    It is cut last, because the rest of a string that was cut in two would not be found.
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


def place_of(error: BaseException) -> str:
    """The type of an error of our own code, and the line of it that raised or called what raised."""
    frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    ours = [(code, line) for code, line in frames if _PACKAGE in Path(code.co_filename).parents]
    at = "".join(f" in {Path(code.co_filename).name}, line {line}" for code, line in (ours or frames)[-1:])
    return f"{type(error).__name__}{at}"


def _strings(messages: Messages, answers: tuple[str, ...]) -> Iterator[str]:
    texts = [text for each in messages for text in (each.payload, each.validation) if text is not None]
    for text in (*texts, *answers):
        yield from _LONG_NUMBER.findall(text)
        for string in _STRING.findall(text):
            yield string
            if "\\" in string:
                whole = json.loads(f'"{string}"', strict=False)
                yield from (whole, _ESCAPES.sub(_letters, string), _ESCAPES.sub(_letters, whole))


def _letters(escapes: re.Match[str]) -> str:
    units = bytes.fromhex(escapes[0].replace("\\u", ""))
    return units.decode("utf-16-be", "replace")


def _mark(marked: bytearray, matches: Iterator[re.Match[str]]) -> None:
    for match in matches:
        marked[match.start() : match.end()] = b"\1" * (match.end() - match.start())
