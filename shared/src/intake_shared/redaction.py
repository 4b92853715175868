"""Taking credentials out of text for a log, a condition or DB1."""

import re
from typing import Final

_CREDENTIALS: Final = (
    (re.compile(r"(\bbearer\s+)\S+", re.IGNORECASE), r"\1***"),
    # user:password@ of anything like a URI, broken ones included: libpq quotes those whole.
    (re.compile(r"(//)\S*@"), r"\1***@"),
    # The end of a password with an @ in it, which libpq took for a part of the host.
    (re.compile(r"(\bhost (?:name )?[\"'])[^\"']*@"), r"\1***@"),
    (re.compile(r"(\b(?:password|passwd|token|authorization)\s*[=:]\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
)


def redacted(text: str) -> str:
    """The text with *** instead of what looks like a credential."""
    for pattern, replacement in _CREDENTIALS:
        text = pattern.sub(replacement, text)
    return text


def writable(text: str) -> str:
    """Text from outside, redacted, and without what PostgreSQL cannot store: NUL and lone surrogates."""
    return redacted(text.encode(errors="replace").decode().replace("\0", "\ufffd"))


def message_of(error: BaseException) -> str:
    """What an error says, as it says it: redact it before it is shown.

    Of a server's error its primary message alone: DETAIL quotes the row and CONTEXT the statement, with the user's id.
    """
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return message if message.strip() else kind


def one_line(error: BaseException, most: int = 500) -> str:
    """An error for a condition or a log: one line, at most so many characters, redacted."""
    return redacted(" ".join(message_of(error).split()))[:most]
